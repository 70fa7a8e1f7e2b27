"""The component, and the example of a project of a user's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import pytest

from batch_pipeline.component import BatchJobComponent
from batch_pipeline.errors import DeclarationError
from batch_pipeline.jobs.declared_model import DeclaredModel
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline_tests.support import write_rows

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "own_dagster_project"


@pytest.fixture
def project(instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example, importable; loading it needs an instance."""
    copy = tmp_path / "project"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(str(copy / "src"))
    for name in [name for name in sys.modules if name.split(".")[0] == "own_project"]:
        monkeypatch.delitem(sys.modules, name)
    return copy


def load(project: Path) -> dg.Definitions:
    return dg.load_from_defs_folder(path_within_project=project)


def declaration(project: Path) -> Path:
    return project / "src" / "own_project" / "defs" / "contract_review" / "defs.yaml"


def test_braces_reach_the_model_as_they_are_written(project: Path) -> None:
    declared = declaration(project)
    text = declared.read_text(encoding="utf-8")
    declared.write_text(text.replace("analyst.", "{{ env.HOME }}."), encoding="utf-8")
    component = dg.ComponentTree.for_project(project).load_component("contract_review")
    assert isinstance(component, BatchJobComponent)
    assert component.spec.prompt.system == "You are a contracts {{ env.HOME }}."
    assert '{{"months": …}}' in (component.spec.prompt.user or "")


def test_a_mistake_is_told_with_file_line_and_key(project: Path) -> None:
    declared = declaration(project)
    text = declared.read_text(encoding="utf-8")
    declared.write_text(text.replace("max_tokens: 2000", "max_token: x"), encoding="utf-8")
    with pytest.raises(Exception) as raised:  # noqa: PT011  # Dagster's own, around ours
        load(project).get_repository_def()
    causes = []
    error: BaseException | None = raised.value
    while error is not None:
        causes.append(error)
        error = error.__cause__ or error.__context__
    [told] = [cause for cause in causes if isinstance(cause, DeclarationError)]
    assert f"{declared}:16: attributes.max_token: unknown key" in str(told)


def test_the_schema_knows_every_key_of_a_declaration() -> None:
    model = BatchJobComponent.get_model_cls()
    schema = model.model_json_schema()
    assert schema["required"] == ["name", "input", "prompt", "model_id", "max_tokens"]
    parts = {**schema["$defs"], JobSpec.__name__: schema}
    declared: tuple[type[DeclaredModel], ...] = (JobSpec, *DeclaredModel.__subclasses__())
    for part in declared:
        if part.__name__ in parts:
            shown = parts[part.__name__]
            assert shown["properties"].keys() == set(part.known_keys())
            # A key that a file can hold is not required by itself.
            assert not {*part.FILE_KEYS} & {*shown.get("required", ())}


# As the program `dg` does, in one process: each start of one takes seconds.
DG = """
import json, sys
from dagster_dg_cli.cli import cli
for arguments in json.loads(sys.argv[1]):
    cli.main(arguments, prog_name="dg", standalone_mode=False)
"""


def dg_says(project: Path, tmp_path: Path, *commands: Sequence[str]) -> str:
    """What `dg` prints of commands, one after the other, in a project."""
    pytest.importorskip("dagster_dg_cli")
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}", encoding="utf-8")
    path = os.pathsep.join([str(project / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", DG, json.dumps(commands)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": path, "DAGSTER_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_dg_scaffolds_a_job_that_loads(project: Path, tmp_path: Path) -> None:
    source = project / "data" / "tickets.jsonl"
    source.parent.mkdir()
    rows = [{"ticket": f"T{number}", "text": f"Ticket {number}."} for number in range(20)]
    write_rows(source, rows)
    params = json.dumps({"file": str(source)})
    scaffold = ("scaffold", "defs", "batch_pipeline.BatchJobComponent", "tickets")
    said = dg_says(
        project,
        tmp_path,
        (*scaffold, "--json-params", params),
        ("check", "yaml"),
        ("list", "defs", "--json"),
    )
    written = project / "src" / "own_project" / "defs" / "tickets" / "defs.yaml"
    assert "path: ../../../../data/tickets.jsonl" in written.read_text(encoding="utf-8")
    assert "All component YAML validated successfully" in said
    assert "tickets/collected_results" in said
