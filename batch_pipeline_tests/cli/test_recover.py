"""`recover` and `backup`, as their user calls them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.cli.program import Program, documents


def empty(file: Path) -> None:
    file.write_bytes(b"")


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("accident", [empty, cut_off])
def test_a_damaged_ledger_is_rebuilt_before_anything_is_sent(
    program: Program, simulator: Simulator, accident: Callable[[Path], None]
) -> None:
    job = program.declare("review", documents(30), limits={"max_requests_per_batch": 10})
    simulator.hold()
    assert program("run", job, "--no-wait").code == 4
    bought = simulator.books.accepted_requests
    accident(program.home / "ledger.sqlite")

    refused = program("run", job, "--json")
    assert (refused.code, refused.error["code"]) == (1, "ledger")
    assert "batch-pipeline recover" in refused.error["message"]
    status = program("status", "--json")
    told = status.error["message"] if status.code else status.document["ledger_problem"]
    assert "batch-pipeline recover" in told
    looked = program("recover", "--dry-run", "--json")
    assert looked.document["submissions"] == {"looked_for": 3}
    assert looked.code == 0
    waits = program("recover", "--no-wait", "--json")
    assert (waits.code, len(waits.document["batches"]["not_ended"])) == (4, 3)
    assert program("run", job).code == 1
    simulator.release()
    rebuilt = program("recover", "--json")
    assert (rebuilt.code, rebuilt.document["complete"]) == (0, True)
    again = program("run", job, "--json")
    assert (again.code, again.document["succeeded"]) == (0, 30)
    assert simulator.books.accepted_requests == bought
    assert program("recover").code == 0


def test_a_backup_of_a_ledger_in_use_is_a_whole_ledger(
    program: Program, simulator: Simulator
) -> None:
    job = program.declare("review", documents(20))
    missing = program("backup", str(program.folder), "--json")
    assert (missing.code, missing.error["code"]) == (2, "usage")
    assert program("run", job).code == 0
    target = program.folder / "copy.sqlite"
    with sqlite3.connect(program.home / "ledger.sqlite") as used:
        used.execute("BEGIN")
        used.execute("SELECT count(*) FROM night").fetchall()
        made = program("backup", str(target), "--json")
    used.close()
    assert made.document["rows"] == {"night": 1, "submission": 1}
    assert target.stat().st_mode & 0o777 == 0o600
    assert program("backup", str(target)).code == 2
    bought = simulator.books.accepted_requests
    restored = {"BATCH_PIPELINE_LEDGER_URL": f"sqlite:///{target}"}
    again = program("run", job, "--json", **restored)
    assert (again.code, again.document["succeeded"]) == (0, 20)
    assert simulator.books.accepted_requests == bought
