"""A list that lags longer than the window: what was given up comes to light after all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_pipeline.flow import paths, steps
from batch_pipeline.flow.batches import cancel
from batch_pipeline.flow.costs.cost_report import write_report
from batch_pipeline.flow.run import run
from batch_pipeline.ledger.database import ledger
from batch_pipeline.ledger.submissions import listed_batches
from batch_pipeline.ledger.submissions.listed_batches import LATE_WATCH_SECONDS
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.simulator import Faults as SimulatorFaults
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    Faults,
    accepted_twice,
    by_id,
    documents,
    job,
    results,
    statuses,
    submissions_of,
    write_rows,
)

# Until the test has the list shown.
LAG = 3_600
WINDOW = 0.1


@pytest.fixture
def lagging(sim: Simulator) -> Simulator:
    """The first answer to a create is lost, and the list shows no batch until faults end."""
    sim.set_faults(
        SimulatorFaults.of(create={"script": [{"kind": "drop"}]}, list={"lag": {"seconds": LAG}})
    )
    return sim


def repeat_until(done: Callable[[], bool], step: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        step()


def test_a_batch_that_was_answered_twice_is_booked_and_not_shown(
    lagging: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    pipeline = make_pipeline(reconcile_seconds=WINDOW)
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(9)), limits={"max_requests_per_batch": 5}
    )
    night = run(pipeline, spec, PARTITION).night
    before = results(pipeline, spec)
    # The shard of 5 went out a second time while the list did not show the first.
    assert sorted(s.state for s in submissions_of(pipeline)) == [
        State.ABSENT, State.COLLECTED, State.COLLECTED,
    ]  # fmt: skip
    lagging.set_faults(SimulatorFaults())
    repeat_until(
        lambda: all(s.state is State.COLLECTED for s in submissions_of(pipeline)),
        lambda: run(pipeline, spec, PARTITION),
    )
    [duplicate] = [s for s in submissions_of(pipeline) if s.duplicate]
    assert results(pipeline, spec) == before
    assert statuses(by_id(before).values()) == {"succeeded": 9}
    assert len(pipeline.files.list(paths.raw(spec.name, PARTITION), ".zst")) == 3

    report = write_report(pipeline, spec, night)
    books = lagging.books
    assert len(books.billed_more_than_once) == 5
    assert report.costs.batch_usd == books.batch_cost_usd
    assert report.duplicates.batches == 1
    assert report.duplicates.usd == report.costs.unattributed_usd == duplicate.cost_usd
    assert sum(row["cost_usd"] for row in before) + report.duplicates.usd == books.batch_cost_usd
    # Batches cost half of real time, whether anybody needs them or not.
    assert report.costs.counterfactual_usd == 2 * books.batch_cost_usd
    assert report.tokens.output_tokens == books.billed_tokens["output_tokens"]
    assert report.retries == 0
    data = pipeline.files.read(paths.report(spec.name, PARTITION, ".json"))
    assert data is not None
    assert json.loads(data)["duplicate_batches"] == 1
    markdown = pipeline.files.read(paths.report(spec.name, PARTITION, ".md"))
    assert markdown is not None
    assert "Bought twice" in markdown.decode()


def test_units_that_are_still_open_take_the_late_answers(
    lagging: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    pipeline = make_pipeline(reconcile_seconds=WINDOW)
    spec = job(write_rows(tmp_path / "in.jsonl", documents(5)))
    state = run(pipeline, spec, PARTITION, wait=False)
    assert state.unknown == 5
    # Held, so that nothing goes out in its place.
    cancel.hold(pipeline, state.night)
    lagging.set_faults(SimulatorFaults())
    repeat_until(
        lambda: submissions_of(pipeline)[0].state is State.COLLECTED,
        lambda: run(pipeline, spec, PARTITION, wait=False),
    )
    state = run(pipeline, spec, PARTITION, resume=True)
    assert state.complete
    assert statuses(results(pipeline, spec)) == {"succeeded": 5}
    assert not accepted_twice(lagging)
    assert state.total_cost_usd == lagging.books.batch_cost_usd
    assert not any(s.duplicate for s in submissions_of(pipeline))


def test_the_list_is_read_for_what_is_watched_and_for_nothing_else(
    sim: Simulator,
    make_pipeline: MakePipeline,
    faults: Faults,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def looks() -> int:
        return faults.calls.count(("GET", "/v1/messages/batches"))

    spec = job(write_rows(tmp_path / "in.jsonl", documents(5)))
    pipeline = make_pipeline(reconcile_seconds=WINDOW)
    night = run(pipeline, spec, PARTITION).night
    before = looks()
    steps.poll_account(pipeline, night.owner)
    assert looks() == before

    sim.set_faults(SimulatorFaults.of(create={"script": [{"kind": "drop", "when": "before"}]}))
    spec = job(write_rows(tmp_path / "in.jsonl", documents(10)))
    run(pipeline, spec, PARTITION)
    before = looks()
    steps.poll_account(pipeline, night.owner)
    assert looks() == before + 1
    # A list that cannot be read now holds nobody up.
    sim.set_faults(SimulatorFaults.of(list={"script": [{"kind": "cut", "times": 9}]}))
    steps.poll_account(pipeline, night.owner)
    sim.set_faults(SimulatorFaults())

    monkeypatch.setattr(listed_batches, "now", lambda c: ledger.now(c) + LATE_WATCH_SECONDS)
    before = looks()
    steps.poll_account(pipeline, night.owner)
    assert looks() == before


def test_other_tenants_batches_are_read_once_and_left_alone(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    sim.set_faults(SimulatorFaults.of(create={"script": [{"kind": "drop", "when": "before"}]}))
    pipeline = make_pipeline(reconcile_seconds=WINDOW)
    spec = job(write_rows(tmp_path / "in.jsonl", documents(5)))
    night = run(pipeline, spec, PARTITION).night
    foreign = sim.create_foreign_batch(5)
    other_size = sim.create_foreign_batch(6)
    for _ in range(3):
        steps.poll_account(pipeline, night.owner)
    assert sim.books.foreign_read == {foreign: 1}
    assert other_size not in sim.books.foreign_touched
    assert not sim.books.foreign_touched
