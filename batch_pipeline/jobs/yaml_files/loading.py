"""Declarations: from `<job>/defs.yaml` to JobSpecs, with every problem named by file, line and key.

The command line and Dagster both read jobs with these functions, so that a value means the same to
both: no templates are filled in, `{{ }}` stays as it is written. What may be declared is in `spec`;
`yaml_lines` turns YAML into values with line numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from batch_pipeline.errors import DeclarationError, UsageError
from batch_pipeline.jobs.accounts import accounts_file
from batch_pipeline.jobs.partitions import demo_start
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.jobs.yaml_files import chains, component_file
from batch_pipeline.jobs.yaml_files.component_file import BesideAttributes
from batch_pipeline.jobs.yaml_files.problems import (
    dotted,
    explain,
    problem_line,
    read_document,
    unknown_key,
)
from batch_pipeline.jobs.yaml_files.yaml_lines import KeyPath

FILE_NAME = "defs.yaml"


@dataclass(frozen=True)
class JobFile:
    """A file that declares a job: the job, and what stands beside its attributes."""

    path: Path
    spec: JobSpec
    beside: BesideAttributes
    line_of: Callable[[KeyPath], int]

    def place_of(self, key: KeyPath) -> str:
        """File, line and key, for messages."""
        return f"{self.path}:{self.line_of(key)}: {dotted(key)}"

    def require_env(self, environ: Mapping[str, str]) -> None:
        """Raise DeclarationError where a variable is not set that the file requires."""
        missing = [name for name in self.beside.env if not environ.get(name)]
        if missing:
            place = self.place_of(("requirements", "env"))
            raise DeclarationError(f"{place}: not set in the environment: {', '.join(missing)}")


@dataclass(frozen=True)
class JobScan:
    """What a jobs folder holds, by job name: valid declarations, and errors of the others."""

    files: dict[str, JobFile]
    errors: dict[str, DeclarationError]

    @property
    def specs(self) -> dict[str, JobSpec]:
        return {name: file.spec for name, file in self.files.items()}


def scan_jobs(jobs_dir: Path) -> JobScan:
    """Read every `<job>/defs.yaml`, in the order of names; valid jobs are found beside broken ones.

    Hidden folders and folders without a declaration are skipped. Raises UsageError where
    `jobs_dir` does not exist.
    """
    files: dict[str, JobFile] = {}
    errors: dict[str, DeclarationError] = {}
    for name, file in _declaration_files(jobs_dir).items():
        try:
            files[name] = load_file(file)
        except DeclarationError as error:
            errors[name] = error
    for name, message in chains.problems({name: file.spec for name, file in files.items()}).items():
        place = files.pop(name).place_of(("attributes", "input", "job"))
        errors[name] = DeclarationError(f"{place}: {message}")
    return JobScan(files, errors)


def load_files(jobs_dir: Path) -> dict[str, JobFile]:
    """All jobs of a folder by name; one DeclarationError with every problem of every file."""
    scan = scan_jobs(jobs_dir)
    if scan.errors:
        raise DeclarationError("\n".join(map(str, scan.errors.values())))
    return scan.files


def load_jobs(jobs_dir: Path) -> dict[str, JobSpec]:
    """As `load_files`, without what stands beside the attributes."""
    return {name: file.spec for name, file in load_files(jobs_dir).items()}


def find_job(jobs_dir: Path, name: str) -> JobSpec:
    """As `find_file`, without what stands beside the attributes."""
    return find_file(jobs_dir, name).spec


def find_file(jobs_dir: Path, name: str) -> JobFile:
    """The job of that name, even where other jobs are broken; UsageError lists the known names."""
    files = _declaration_files(jobs_dir)
    if name in files:
        return load_file(files[name])
    if not files:
        raise UsageError(
            f"there is no job {name!r}: no */{FILE_NAME} under {jobs_dir}; "
            "add one, or set BATCH_PIPELINE_JOBS_DIR to the folder that holds the jobs"
        )
    close = get_close_matches(name, files, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UsageError(
        f"there is no job {name!r} under {jobs_dir}; {hint}the jobs are: {', '.join(files)}"
    )


def load_job(file: Path) -> JobSpec:
    """As `load_file`, without what stands beside the attributes."""
    return load_file(file).spec


def load_file(file: Path) -> JobFile:
    """The job that a YAML file declares; one DeclarationError with all problems of the file."""
    document, problems = read_document(file)
    problems += [
        problem_line(file, document.line_of, *found)
        for found in component_file.problems(document.value)
    ]
    attributes = document.value.get("attributes") if isinstance(document.value, dict) else None
    if isinstance(attributes, dict):
        try:
            spec = spec_from_attributes(attributes, file, document.line_of)
        except DeclarationError as error:
            problems.append(str(error))
        else:
            problems += _accounts_that_cannot_send(spec, file, document.line_of)
            if not problems:
                if demo_start.is_of_demo(file):
                    spec = demo_start.applied(spec)
                beside = component_file.beside_attributes(document.value)
                return JobFile(file, spec, beside, document.line_of)
    raise DeclarationError("\n".join(problems))


def _accounts_that_cannot_send(
    spec: JobSpec, file: Path, line_of: Callable[[KeyPath], int]
) -> list[str]:
    """What is wrong with the accounts that a job names: they are in accounts.yaml beside it."""
    if not spec.accounts:
        return []
    problem = accounts_file.problem_of_job(spec.accounts, file.absolute().parent.parent)
    key = ("attributes", "accounts")
    return [] if problem is None else [problem_line(file, line_of, key, problem)]


def spec_from_attributes(
    attributes: Mapping[Any, Any], file: Path, line_of: Callable[[KeyPath], int]
) -> JobSpec:
    """The job that raw attributes declare.

    Paths are relative to the folder of `file`, whose name the job has; `line_of` gives the line of
    a key path such as ("attributes", "pilot", "size"), or of the nearest key above it. Raises one
    DeclarationError with a line for each problem.
    """
    named = {key: value for key, value in attributes.items() if isinstance(key, str)}
    # `base_dir` is an argument of the constructor and no key of a declaration.
    strangers = {key for key in attributes if key not in named or key == "base_dir"}
    problems: list[tuple[KeyPath, str]] = [
        ((key,), unknown_key(key, JobSpec)) for key in attributes if key in strangers
    ]
    folder = file.absolute().parent
    if isinstance(named.get("name"), str) and named["name"] != folder.name:
        message = f"must be the folder's name, {folder.name!r}, not {named['name']!r}"
        problems.append((("name",), message))
    named = {key: value for key, value in named.items() if key not in strangers}
    try:
        spec = JobSpec(base_dir=folder, **named)
    except ValidationError as error:
        problems += [explain(details, attributes, JobSpec) for details in error.errors()]
    else:
        if not problems:
            return spec
    found = [(("attributes", *path), message) for path, message in problems]
    found.sort(key=lambda problem: line_of(problem[0]))
    raise DeclarationError("\n".join(problem_line(file, line_of, *problem) for problem in found))


def _declaration_files(jobs_dir: Path) -> dict[str, Path]:
    """Each job's file, by the name of its folder, in the order of names."""
    if not jobs_dir.is_dir():
        raise UsageError(
            f"there is no folder of jobs at {jobs_dir}; create it, or set BATCH_PIPELINE_JOBS_DIR"
        )
    files = sorted(jobs_dir.glob(f"*/{FILE_NAME}"))
    return {file.parent.name: file for file in files if not file.parent.name.startswith(".")}
