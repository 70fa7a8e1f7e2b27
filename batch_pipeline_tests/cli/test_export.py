"""`export`: a night's rows as files of other formats."""

from __future__ import annotations

import csv
from pathlib import Path

from batch_pipeline_tests.cli.program import Program, documents


def test_the_command_writes_whole_files_and_streams(program: Program, tmp_path: Path) -> None:
    job = program.declare("review", documents(5), pilot={"size": 0})
    assert program("run", job, "--json").code == 0
    target = tmp_path / "out.csv"
    ended = program("export", job, "--format", "csv", "--to", str(target), "--json")
    assert (ended.code, ended.document["rows"], ended.document["complete"]) == (0, 5, True)
    with target.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 5
    assert target.stat().st_mode & 0o077 == 0
    assert list(tmp_path.glob(".out*")) == []
    assert program("export", job, "--format", "xlsx").code == 2
    assert program("export", job, "--columns", "nothing", "--to", str(target)).code == 2
    streamed = program.process("export", job, "--columns", "status", "--format", "csv")
    assert streamed.out.splitlines() == ["status", *["succeeded"] * 5]
    assert program("export", "unknown", "-p", "all").code == 2
