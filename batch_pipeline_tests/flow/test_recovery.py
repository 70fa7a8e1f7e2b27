"""A ledger that was lost is rebuilt: nothing is bought twice, no item has two rows or none."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from batch_pipeline.errors import LedgerError
from batch_pipeline.flow.costs.cost_report import write_report
from batch_pipeline.flow.recovery.recover import Recovered, recover
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.database.backup import copy_ledger
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    accepted_twice,
    by_id,
    dead_letters,
    documents,
    job,
    results,
    write_rows,
)

ITEMS = 40
# Some answers need a second attempt, some are set aside.
MIXED = Faults.of(
    requests={
        "matching": [
            {"contains": "number 3 about", "outcome": "invalid_request_error"},
            {"contains": "number 1", "outcome": "overloaded_error", "attempts": 1},
        ]
    }
)


@dataclass
class Night:
    """A night on a home, and how its ledger is lost and rebuilt."""

    sim: Simulator
    make: MakePipeline
    home: Path
    source: Path
    spec: JobSpec

    def run(self, *, wait: bool = True) -> None:
        made = self.make()
        run(made, self.spec, PARTITION, wait=wait)
        made.close()

    def lose(self) -> None:
        for file in self.home.glob("ledger.sqlite*"):
            file.unlink()

    def recover(self, **changes: bool) -> Recovered:
        made = self.make()
        found = recover(made, **{"wait": False, **changes})
        made.close()
        return found

    def check(self, items: int) -> None:
        """Run to the end: the simulator's books, the results and the report agree."""
        made = self.make()
        state = run(made, self.spec, PARTITION)
        assert state.complete
        report = write_report(made, self.spec, state.night)
        rows = by_id(results(made, self.spec))
        assert set(rows) == {row["id"] for row in documents(items)}
        books = self.sim.books
        billed = books.batch_cost_usd + books.realtime_cost_usd
        assert sum((row["cost_usd"] for row in rows.values()), Decimal(0)) == billed
        assert state.total_cost_usd == billed
        assert {row["id"] for row in dead_letters(made, self.spec)} == {
            row["id"] for row in rows.values() if row["status"] != "succeeded"
        }
        assert report is not None
        made.close()


@pytest.fixture
def night(sim: Simulator, make_pipeline: MakePipeline, home: Path, tmp_path: Path) -> Night:
    source = write_rows(tmp_path / "in.jsonl", documents(ITEMS))
    spec = job(
        source,
        pilot={"size": 4, "max_error_rate": 1},
        limits={"max_requests_per_batch": 15},
        alerts={"error_rate": 1},
    )
    return Night(sim, make_pipeline, home, source, spec)


def cut_off(night: Night) -> None:
    file = night.home / "ledger.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def answers_lost(night: Night) -> None:
    night.lose()
    shutil.rmtree(night.home / "review" / "answers")


def mark_lost(night: Night) -> None:
    night.lose()
    shutil.rmtree(night.home / "_ledger")


def all_but_public_files_lost(night: Night) -> None:
    mark_lost(night)
    for name in ("answers", "manifests", "snapshots"):
        shutil.rmtree(night.home / "review" / name)


def raw_lines_lost(night: Night) -> None:
    answers_lost(night)
    for name in ("raw", "raw_realtime"):
        shutil.rmtree(night.home / "review" / name)


@pytest.mark.parametrize(
    "accident", [Night.lose, answers_lost, mark_lost, raw_lines_lost, all_but_public_files_lost]
)
def test_a_finished_night_is_known_again(night: Night, accident: Callable[[Night], None]) -> None:
    night.sim.set_faults(MIXED)
    night.run()
    taken_in = night.sim.books.accepted_requests
    accident(night)
    night.sim.set_faults(Faults())

    assert night.recover(dry_run=True).complete is False
    found = night.recover()

    assert found.complete
    assert not found.unidentified
    night.check(ITEMS)
    assert night.sim.books.accepted_requests == taken_in


@pytest.mark.parametrize("later", [False, True], ids=["lost", "restored from before"])
def test_a_night_in_flight_is_known_again(night: Night, tmp_path: Path, later: bool) -> None:
    """First answers are collected, some go again, new documents are at the API."""
    night.sim.set_faults(MIXED)
    backup = tmp_path / "backup.sqlite"
    if later:
        night.sim.hold()
        night.run(wait=False)
        made = night.make()
        copy_ledger(made.ledger, backup)
        made.close()
        night.sim.release()
    night.run()
    night.sim.hold()
    write_rows(night.source, documents(ITEMS + 30))
    night.run(wait=False)
    night.lose()
    if later:
        shutil.copy(backup, night.home / "ledger.sqlite")
    with pytest.raises(LedgerError, match="batch-pipeline recover"):
        night.run()
    before = {key: found.accepted for key, found in night.sim.books.contents.items()}

    waiting = night.recover()
    assert not waiting.complete
    assert len(waiting.batches.running) >= 2
    with pytest.raises(LedgerError, match="batch-pipeline recover"):
        night.run()
    night.sim.release()
    assert night.recover().complete
    night.check(ITEMS + 30)
    assert {key: found.accepted for key, found in night.sim.books.contents.items()} == before


def test_a_recovery_that_is_killed_is_run_again(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.run()
    night.lose()
    from batch_pipeline.flow.recovery import rebuild  # noqa: PLC0415

    with monkeypatch.context() as patch:
        patch.setattr(rebuild.results_folder, "rebuild", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            night.recover()
    with pytest.raises(LedgerError, match="batch-pipeline recover"):
        night.run()
    assert night.recover().complete
    assert night.recover().nights == []
    night.check(ITEMS)
    assert not accepted_twice(night.sim)
