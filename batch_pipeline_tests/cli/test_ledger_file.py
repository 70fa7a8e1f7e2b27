"""At rest the SQLite ledger is one file: who copies `ledger.sqlite` alone has all of it."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.cli.program import Program, documents, finished
from batch_pipeline_tests.support import accepted_twice, until

# No sample, and a document that cannot be sent does not stop the night.
PILOT = {"size": 0, "max_error_rate": 1}


def copied_alone(program: Program) -> dict[str, str]:
    """The environment of a user whose ledger is a copy of `ledger.sqlite` and of nothing else."""
    place = program.folder / "restored"
    place.mkdir()
    shutil.copy(program.home / "ledger.sqlite", place)
    return {"BATCH_PIPELINE_LEDGER_URL": f"sqlite:///{place / 'ledger.sqlite'}"}


def beside_the_ledger(home: Path) -> list[str]:
    return [file.name for file in home.glob("ledger.sqlite?*")]


def test_after_a_night(program: Program, simulator: Simulator) -> None:
    job = program.declare("review", documents(20), pilot={"size": 2})
    assert program("run", job).code == 0
    bought = simulator.books.accepted_requests
    restored = copied_alone(program)

    again = program("run", job, "--json", **restored)

    assert (again.code, again.document["succeeded"]) == (0, 20)
    assert simulator.books.accepted_requests == bought
    assert program("status", "--json", **restored).document["nights"][0]["complete"]


def test_after_a_signal_in_the_middle_of_a_night(program: Program, simulator: Simulator) -> None:
    # The same handler is SIGHUP's, in a terminal (`test_interrupts`).
    simulator.hold()
    job = program.declare("review", documents(8), limits={"max_requests_per_batch": 5})
    before = set(simulator.books.contents)
    with program.start("run", job, "--json") as process:
        until(lambda: len(set(simulator.books.contents) - before) == 8)
        process.send_signal(signal.SIGTERM)
        ended = finished(process)
    assert (ended.code, ended.error["code"]) == (130, "interrupted")
    assert "run the same command again" in ended.err
    assert "Traceback" not in ended.err
    restored = copied_alone(program)

    simulator.release()
    again = program("run", job, "--json", **restored)

    assert (again.code, again.document["succeeded"]) == (0, 8)
    assert not set(accepted_twice(simulator)) - before


def test_after_an_error(program: Program, simulator: Simulator) -> None:
    closed = {"size": 10, "max_truncated_rate": 0}
    job = program.declare("review", documents(100), max_tokens=1, pilot=closed)
    assert program("run", job).code == 3
    called = simulator.books.accepted_requests
    restored = copied_alone(program)

    assert program("run", job, **restored).code == 3
    assert simulator.books.accepted_requests == called, "the sample was bought twice"


def test_each_command_closes_the_ledger(program: Program, simulator: Simulator) -> None:
    job = program.declare("review", [*documents(9), {"id": 1, "text": None}], pilot=PILOT)
    simulator.hold()
    for arguments, code in [
        (["status"], 0),
        (["run", job, "--no-wait"], 4),
        (["status", job], 0),
        (["validate", job], 0),
        (["estimate", job], 0),
        (["report", job], 0),
        (["cancel", job], 0),
        (["run", job, "--resume", "--no-wait"], 4),
        (["approve", job, "--gate", "breaker", "--reason", "test"], 2),
        (["dead-letter", "list", job], 0),
        (["dead-letter", "redrive", job, "--no-wait"], 2),
        (["reconcile-costs"], 0),
    ]:
        ended = program(*arguments, ANTHROPIC_ADMIN_KEY="sk-admin")
        assert (ended.code, beside_the_ledger(program.home)) == (code, []), (arguments, ended.err)
    nightly = {"path": str(program.folder / "{partition}.jsonl")}
    daily = program.declare("nightly", input=nightly, partitions={"start": "2026-01-01"})
    assert program("prune", daily, "--before", "2026-01-02").code == 0
    assert beside_the_ledger(program.home) == []
