"""Declarations: from `<job>/defs.yaml` to JobSpecs, with every problem named by file, line and key.

The command line and Dagster both read jobs with these functions, so that a value means the same to
both: no templates are filled in, `{{ }}` stays as it is written. What may be declared is in `spec`;
`yaml_lines` turns YAML into values with line numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from batch_pipeline.errors import DeclarationError, UsageError
from batch_pipeline.jobs.declared_model import DeclaredModel
from batch_pipeline.jobs.partitions import demo_start
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.jobs.yaml_files import chains, component_file
from batch_pipeline.jobs.yaml_files.component_file import BesideAttributes
from batch_pipeline.jobs.yaml_files.yaml_lines import KeyPath, YamlProblem, parse_yaml
from batch_pipeline.safe_text import one_line

FILE_NAME = "defs.yaml"
_WANTED = {
    "bool_type": "true or false",
    "date_type": "a date like 2026-01-01",
    "dict_type": "a mapping of keys",
    "float_type": "a number",
    "int_type": "a whole number",
    "is_instance_of": "an amount in USD",
    "model_type": "a mapping of keys",
    "string_type": "text",
    "tuple_type": "a list",
}
"""What was expected, by pydantic's type of error, in words of YAML rather than of Python."""


@dataclass(frozen=True)
class JobFile:
    """A file that declares a job: the job, and what stands beside its attributes."""

    path: Path
    spec: JobSpec
    beside: BesideAttributes
    line_of: Callable[[KeyPath], int]

    def place_of(self, key: KeyPath) -> str:
        """File, line and key, for messages."""
        return f"{self.path}:{self.line_of(key)}: {_dotted(key)}"

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
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DeclarationError(f"{file}: cannot be read: {error.strerror}") from error
    try:
        document = parse_yaml(content)
    except YamlProblem as error:
        raise DeclarationError(f"{file}:{error.line}: {error}") from error
    problems = [
        f"{file}:{line}: {_dotted(path)}: is there twice; the first is on line {first}"
        for path, line, first in document.repeated
    ]
    problems += [
        _line(file, document.line_of, *found) for found in component_file.problems(document.value)
    ]
    attributes = document.value.get("attributes") if isinstance(document.value, dict) else None
    if isinstance(attributes, dict):
        try:
            spec = spec_from_attributes(attributes, file, document.line_of)
        except DeclarationError as error:
            problems.append(str(error))
        else:
            if not problems:
                if demo_start.is_of_demo(file):
                    spec = demo_start.applied(spec)
                beside = component_file.beside_attributes(document.value)
                return JobFile(file, spec, beside, document.line_of)
    raise DeclarationError("\n".join(problems))


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
        ((key,), _unknown_key(key, JobSpec)) for key in attributes if key in strangers
    ]
    folder = file.absolute().parent
    if isinstance(named.get("name"), str) and named["name"] != folder.name:
        message = f"must be the folder's name, {folder.name!r}, not {named['name']!r}"
        problems.append((("name",), message))
    named = {key: value for key, value in named.items() if key not in strangers}
    try:
        spec = JobSpec(base_dir=folder, **named)
    except ValidationError as error:
        problems += [_explain(details, attributes) for details in error.errors()]
    else:
        if not problems:
            return spec
    found = [(("attributes", *path), message) for path, message in problems]
    found.sort(key=lambda problem: line_of(problem[0]))
    raise DeclarationError("\n".join(_line(file, line_of, *problem) for problem in found))


def _declaration_files(jobs_dir: Path) -> dict[str, Path]:
    """Each job's file, by the name of its folder, in the order of names."""
    if not jobs_dir.is_dir():
        raise UsageError(
            f"there is no folder of jobs at {jobs_dir}; create it, or set BATCH_PIPELINE_JOBS_DIR"
        )
    files = sorted(jobs_dir.glob(f"*/{FILE_NAME}"))
    return {file.parent.name: file for file in files if not file.parent.name.startswith(".")}


def _explain(details: ErrorDetails, attributes: Mapping[Any, Any]) -> tuple[KeyPath, str]:
    """The path of a problem, as the user wrote the key, and its message."""
    path: KeyPath = details["loc"]
    shown = _shown(details["input"])
    match details["type"]:
        case "missing":
            message = "is required"
        case "extra_forbidden":
            message = _unknown_key(path[-1], _model_at(path[:-1]))
        case "value_error":
            message = str(details["ctx"]["error"])
        case "declared":
            message = details["msg"]
        case "string_type" if isinstance(details["input"], bool | int | float | date):
            message = f"must be text, not {shown}; put it into quotes"
        case "invalid-json-value":
            message = f"must be a value that JSON has, not {shown}"
        case kind if kind in _WANTED:
            message = f"must be {_WANTED[kind]}, not {shown}"
        case _:
            # pydantic's own words: "Input should be less than or equal to 1"
            message = f"must {details['msg'].partition(' should ')[2]}, not {shown}"
    return _as_written(path, attributes), message


def _as_written(path: KeyPath, attributes: Mapping[Any, Any]) -> KeyPath:
    """The path with `user_file` for `user` where the declaration has the former."""
    parent: Any = attributes
    for key in path[:-1]:
        if isinstance(parent, list) and isinstance(key, int):
            parent = parent[key]
        else:
            parent = parent.get(key) if isinstance(parent, Mapping) else None
    file_key = f"{path[-1]}_file"
    if isinstance(parent, Mapping) and path[-1] not in parent and file_key in parent:
        return (*path[:-1], file_key)
    return path


def _unknown_key(key: object, model: type[DeclaredModel] | None) -> str:
    known = model.known_keys() if model is not None else []
    close = get_close_matches(str(key), known, n=1)
    if close:
        return f"unknown key; did you mean {close[0]}?"
    return f"unknown key; the keys here are {', '.join(known)}"


def _model_at(path: KeyPath) -> type[DeclaredModel] | None:
    """The model whose keys stand below `path`."""
    model: type[DeclaredModel] | None = JobSpec
    for key in path:
        # The number of an entry in a list of models.
        if isinstance(key, int):
            continue
        field = model.model_fields.get(key) if model is not None else None
        model = next(_models_in(field.annotation), None) if field is not None else None
    return model


def _models_in(annotation: Any) -> Iterator[type[DeclaredModel]]:
    if isinstance(annotation, type) and issubclass(annotation, DeclaredModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _shown(value: object) -> str:
    """A value in words of YAML; this shows values that YAML reads otherwise (22:00 is 1320)."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case str():
            return f"the text {value[:60]!r}"
        case int() | float():
            return f"the number {value}"
        case Mapping() | list():
            return "a list" if isinstance(value, list) else "a mapping"
        case _:
            return str(value)


def _line(file: Path, line_of: Callable[[KeyPath], int], path: KeyPath, message: str) -> str:
    key = f"{_dotted(path)}: " if path else ""
    return one_line(f"{file}:{line_of(path)}: {key}{message}")


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))
