"""A ledger that was lost is rebuilt: nothing is bought twice, no item has two rows or none."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import anthropic
import pytest
import yaml
from anthropic.types import MessageParam
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming

from batch_pipeline.errors import LedgerError
from batch_pipeline.flow import paths
from batch_pipeline.flow.control.prune import prune
from batch_pipeline.flow.control.redrive import redrive
from batch_pipeline.flow.costs.cost_report import write_report
from batch_pipeline.flow.realtime.shard import OpenShard
from batch_pipeline.flow.recovery.recover import Recovered, recover
from batch_pipeline.flow.results import results_folder
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.database.backup import copy_ledger
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    MODEL,
    PARTITION,
    accepted_twice,
    by_id,
    dead_letters,
    documents,
    ids_shown,
    job,
    results,
    write_rows,
)

ITEMS = 40
RESULTS, TYPED = paths.results("review", PARTITION), paths.typed("review", PARTITION)
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
    jobs_dir: Path

    def run(self, *, wait: bool = True) -> None:
        made = self.make()
        run(made, self.spec, PARTITION, wait=wait)
        made.close()

    def lose(self) -> None:
        for file in self.home.glob("ledger.sqlite*"):
            file.unlink()

    def recover(self, **changes: bool) -> Recovered:
        made = self.make(jobs_dir=self.jobs_dir)
        found = recover(made, **{"wait": False, **changes})
        made.close()
        return found

    def check_typed(self) -> None:
        """The typed rows are those of the results."""
        shown = (self.home / folder for folder in (RESULTS, TYPED))
        results, typed = (sorted(ids_shown(folder)) for folder in shown)
        assert typed == results

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
        self.check_typed()
        made.close()


@pytest.fixture
def night(sim: Simulator, make_pipeline: MakePipeline, home: Path, tmp_path: Path) -> Night:
    """A complete night of several batches, with its job declared in YAML."""
    source = write_rows(tmp_path / "in.jsonl", documents(ITEMS))
    spec = job(
        source,
        pilot={"size": 4, "max_error_rate": 1},
        limits={"max_requests_per_batch": 20},
        alerts={"error_rate": 1},
        output={"carry": ["text"]},
    )
    file = tmp_path / "jobs" / "review" / "defs.yaml"
    file.parent.mkdir(parents=True)
    attributes = spec.model_dump(mode="json", exclude_unset=True)
    document = {"type": "batch_pipeline.BatchJobComponent", "attributes": attributes}
    file.write_text(yaml.safe_dump(document))
    return Night(sim, make_pipeline, home, source, spec, tmp_path / "jobs")


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


@pytest.mark.parametrize("accident", [raw_lines_lost, all_but_public_files_lost])
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
    night.check_typed()
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
    night.sim.set_faults(MIXED)
    night.run()
    taken_in = night.sim.books.accepted_requests
    night.lose()
    night.sim.set_faults(Faults())

    with monkeypatch.context() as patch:
        patch.setattr(results_folder, "rebuild", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            night.recover()
    with pytest.raises(LedgerError, match="batch-pipeline recover"):
        night.run()
    assert night.recover().complete
    assert night.recover().nights == []
    night.check(ITEMS)
    assert night.sim.books.accepted_requests == taken_in


@pytest.mark.parametrize("reported", [True, False])
def test_a_pruned_night_stays_final(night: Night, reported: bool) -> None:
    """Also one of which nobody had a report: pruning writes it."""
    made = night.make()
    done = run(made, night.spec, PARTITION).night
    if reported:
        write_report(made, night.spec, done)
    prune(made, night.spec, "b")
    made.close()
    night.lose()
    assert night.recover().complete
    made = night.make()
    state = run(made, night.spec, PARTITION)
    assert (state.complete, state.night.pruned_at is not None) == (True, True)
    assert state.statuses == {"succeeded": ITEMS}
    made.close()
    night.check(ITEMS)
    assert not accepted_twice(night.sim)


def test_calls_go_on_from_their_journal(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no message in the journal may have been billed: it is told, and asked again."""
    night.spec = night.spec.model_copy(update={"mode": "realtime"})
    night.sim.set_latency(0.05)
    answered = 0

    def die(shard: OpenShard) -> int:
        nonlocal answered
        answered += write(shard)
        if answered >= 15:
            raise KeyboardInterrupt
        return answered

    write = OpenShard.write_answers
    with monkeypatch.context() as patch:
        patch.setattr(OpenShard, "write_answers", die)
        with pytest.raises(KeyboardInterrupt):
            night.run()
    night.lose()

    found = night.recover()
    assert found.complete
    assert sum(told["calls_at_most"] for told in found.possibly_billed) > 0
    made = night.make()
    assert run(made, night.spec, PARTITION).complete
    rows = by_id(results(made, night.spec))
    made.close()
    assert set(rows) == {row["id"] for row in documents(ITEMS)}
    twice = accepted_twice(night.sim)
    assert len(twice) <= night.spec.realtime.concurrency


def test_batches_of_other_tenants_hold_nothing_up_once_they_have_ended(night: Night) -> None:
    night.run()
    night.sim.hold()
    question: MessageParam = {"role": "user", "content": "x"}
    params: MessageCreateParamsNonStreaming = {
        "model": MODEL,
        "max_tokens": 5,
        "messages": [question],
    }
    other = anthropic.Anthropic().messages.batches.create(
        requests=[{"custom_id": "theirs", "params": params}]
    )
    night.lose()
    assert night.recover().batches.running == [other.id]
    night.sim.release()
    found = night.recover()
    assert (found.complete, found.batches.foreign) == (True, [other.id])
    made = night.make()
    assert run(made, night.spec, PARTITION).complete
    made.close()
    assert not accepted_twice(night.sim)


def test_without_marks_a_batch_that_may_be_ours_is_left_to_a_person(night: Night) -> None:
    """A home of an earlier version: nothing but the count of requests connects it to a batch."""
    night.spec = night.spec.model_copy(
        update={"pilot": night.spec.pilot.model_copy(update={"size": 0})}
    )
    night.sim.hold()
    night.run(wait=False)
    night.sim.release()
    mark_lost(night)
    # Nothing was collected: the home has no results, only manifests.
    found = night.recover()
    assert (found.complete, len(found.unidentified)) == (False, 2)
    assert night.recover(give_up=True).complete


def test_a_redriven_night_and_a_home_in_an_object_store(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    home = f"memory://home-{uuid.uuid4().hex}"
    urls = iter(f"sqlite:///{tmp_path / str(n)}.sqlite" for n in range(9))
    source = write_rows(tmp_path / "in.jsonl", documents(ITEMS))
    spec = job(source, alerts={"error_rate": 1})
    sim.set_faults(
        Faults.of(
            requests={
                "matching": [{"contains": "number 3 about", "outcome": "invalid_request_error"}]
            }
        )
    )
    first = make_pipeline(home=home, ledger_url=next(urls))
    run(first, spec, PARTITION)
    sim.set_faults(Faults())
    redrive(first, spec, PARTITION)
    run(first, spec, PARTITION)
    taken_in = sim.books.accepted_requests

    other = make_pipeline(home=home, ledger_url=next(urls))
    with pytest.raises(LedgerError, match="belongs to another ledger"):
        run(other, spec, PARTITION)
    assert recover(other, wait=False).complete
    state = run(make_pipeline(home=home, ledger_url=other.settings.ledger_url), spec, PARTITION)
    assert state.complete
    assert len(by_id(results(other, spec))) == ITEMS
    assert state.statuses == {"succeeded": ITEMS}
    assert sim.books.accepted_requests == taken_in
