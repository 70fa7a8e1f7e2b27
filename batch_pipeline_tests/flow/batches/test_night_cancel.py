"""Cancel: nothing more goes out, what was done is kept, and a resumed night buys only the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.api.protocol import BatchInfo
from batch_pipeline.flow import steps
from batch_pipeline.flow.batches import cancel
from batch_pipeline.flow.run import run
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    Faults,
    accepted_twice,
    by_id,
    documents,
    error,
    job,
    results,
    statuses,
    submissions_of,
    write_rows,
)


@pytest.mark.parametrize("done", [0.4, 1.0])
def test_a_cancelled_night_is_held_and_resumed(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path, done: float
) -> None:
    sim.hold()
    sim.set_done_at_cancel(done)
    pipeline = make_pipeline(max_queued_requests=10)
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(25)),
        limits={"max_requests_per_batch": 5},
        retry={"max_attempts": 1},
    )
    state = run(pipeline, spec, PARTITION, wait=False)
    assert (state.in_flight, state.waiting) == (10, 15)
    assert cancel.hold(pipeline, state.night) == 2
    kept = round(10 * done)

    sim.release()
    state = run(pipeline, spec, PARTITION)
    assert not state.complete
    assert state.night.held_at is not None
    assert (state.in_flight, state.to_collect, state.settled) == (0, 0, kept)
    assert statuses(results(pipeline, spec)) == ({"succeeded": kept} if kept else {})
    assert run(pipeline, spec, PARTITION).waiting == 25 - kept
    assert sim.books.batches_created == 2

    state = run(pipeline, spec, PARTITION, resume=True)
    assert state.complete
    rows = by_id(results(pipeline, spec))
    assert set(rows) == {d["id"] for d in documents(25)}
    assert statuses(rows.values()) == {"succeeded": 25}
    assert {row["attempt"] for row in rows.values()} == {1}  # canceled is no attempt
    assert sim.books.billed_requests == 25
    assert sim.books.billed_more_than_once == []
    assert sum(row["cost_usd"] for row in rows.values()) == sim.books.batch_cost_usd


def test_a_create_under_way_is_cancelled_when_its_answer_comes(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    sim.hold()
    sim.set_done_at_cancel(0)
    pipeline = make_pipeline()
    spec = job(write_rows(tmp_path / "in.jsonl", documents(6)))

    other = make_pipeline()
    honest = pipeline.api_of("simulator").create_batch

    def create(body: Iterator[bytes], length: int, betas: Sequence[str]) -> BatchInfo:
        made = honest(body, length, betas)
        cancel.hold(other, steps.open_night(other, spec, PARTITION))
        return made

    pipeline.api_of("simulator").create_batch = create  # type: ignore[method-assign]
    state = run(pipeline, spec, PARTITION)
    assert not state.complete
    assert sum(path.endswith("/cancel") for _, path in faults.calls) == 1
    assert sim.books.billed_requests == 0
    sim.release()
    pipeline.api_of("simulator").create_batch = honest  # type: ignore[method-assign]
    assert run(pipeline, spec, PARTITION, resume=True).statuses == {"succeeded": 6}
    assert sim.books.billed_requests == 6


def test_a_cancel_before_the_last_bytes_leaves_the_body_incomplete(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    pipeline = make_pipeline()
    spec = job(write_rows(tmp_path / "in.jsonl", documents(6)))
    other = make_pipeline()
    honest = pipeline.api_of("simulator").create_batch

    def create(body: Iterator[bytes], length: int, betas: Sequence[str]) -> BatchInfo:
        cancel.hold(other, steps.open_night(other, spec, PARTITION))
        return honest(body, length, betas)

    pipeline.api_of("simulator").create_batch = create  # type: ignore[method-assign]
    assert not run(pipeline, spec, PARTITION).complete
    assert sim.books.batches_created == 0
    assert [s.state for s in submissions_of(pipeline)] == [State.ABSENT]
    pipeline.api_of("simulator").create_batch = honest  # type: ignore[method-assign]
    assert run(pipeline, spec, PARTITION, resume=True).complete
    assert not accepted_twice(sim)


def test_a_cancel_that_did_not_get_through_is_repeated_with_the_next_poll(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    """As after a death between its record and its call."""
    sim.hold()
    sim.set_done_at_cancel(0)
    pipeline = make_pipeline()
    spec = job(write_rows(tmp_path / "in.jsonl", documents(6)))
    state = run(pipeline, spec, PARTITION, wait=False)

    def lost(request: Request) -> Response | None:
        return error(500, "api_error") if request.url.path.endswith("/cancel") else None

    faults.on_request = lost
    assert cancel.hold(pipeline, state.night) == 0
    faults.on_request = lambda _: None
    steps.poll_account(pipeline, state.night.owner)
    sim.release()
    run(pipeline, spec, PARTITION)
    assert sim.books.billed_requests == 0
    assert run(pipeline, spec, PARTITION, resume=True).statuses == {"succeeded": 6}


def test_cancelling_twice_or_after_the_end_does_no_harm(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    pipeline = make_pipeline()
    spec = job(write_rows(tmp_path / "in.jsonl", documents(6)))
    state = run(pipeline, spec, PARTITION)
    assert cancel.hold(pipeline, state.night) == 0
    assert cancel.hold(pipeline, state.night) == 0
    assert run(pipeline, spec, PARTITION, resume=True).complete
    assert sim.books.accepted_requests == 6
