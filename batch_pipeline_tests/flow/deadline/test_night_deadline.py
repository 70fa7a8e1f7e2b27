"""Nights with a deadline: real time takes over what would miss it, and nothing is bought twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.api.protocol import BatchInfo
from batch_pipeline.flow import night_input, steps
from batch_pipeline.flow.costs.cost_report import build_report
from batch_pipeline.flow.deadline import takeover
from batch_pipeline.flow.deadline.forecast import ASSUMED_CANCEL_SECONDS
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import takeovers
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.ledger.submissions.takeovers import Takeover
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    Dropped,
    Faults,
    by_id,
    documents,
    is_create,
    job,
    make_late,
    once,
    results,
    set_deadline,
    statuses,
    submissions_of,
    write_rows,
)

HOUR = 3_600.0
# In three batches.
ITEMS = 15


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    """A job of mode auto with a deadline."""
    return auto(tmp_path)


@pytest.fixture
def usual(pipeline: Pipeline, tmp_path: Path) -> None:
    """Batches of the account took no time so far."""
    earlier = job(write_rows(tmp_path / "earlier.jsonl", documents(3, start=900)), name="earlier")
    assert run(pipeline, earlier, "all").complete
    with pipeline.ledger.write() as connection:
        [night] = nights.list_nights(connection)
        nights.update_night(connection, night.id, partition="earlier")


def auto(tmp_path: Path, count: int = ITEMS, **declared: Any) -> JobSpec:
    usual: dict[str, Any] = {
        "mode": "auto",
        "deadline": "8h",
        "limits": {"max_requests_per_batch": 5},
        "retry": {"max_attempts": 1},
    }
    return job(write_rows(tmp_path / "in.jsonl", documents(count)), **(usual | declared))


def modes(sim: Simulator, pipeline: Pipeline, spec: JobSpec, count: int = ITEMS) -> dict[str, int]:
    """How many rows came which way; the night is answered in full, once, to the last cent."""
    rows = by_id(results(pipeline, spec))
    assert set(rows) == {d["id"] for d in documents(count)}
    assert statuses(rows.values()) == {"succeeded": count}
    assert {row["attempt"] for row in rows.values()} == {1}  # canceled is no attempt
    assert sim.books.billed_more_than_once == []
    return dict(Counter(str(row["mode"]) for row in rows.values()))


def taken(pipeline: Pipeline, state: Progress) -> list[Takeover]:
    with pipeline.ledger.read() as connection:
        return list(takeovers.of_night(connection, state.night.id).values())


def check_report(pipeline: Pipeline, spec: JobSpec, night: Night, realtime: int) -> None:
    """The deadline was met by so many calls, which cost twice what they would have in batches."""
    report = build_report(pipeline, spec, night)
    assert report.deadline is not None
    assert (report.deadline.met, report.deadline.requests) == (True, realtime)
    assert report.deadline.realtime_usd == report.costs.realtime_usd
    assert report.deadline.extra_usd * 2 == report.costs.realtime_usd


@pytest.mark.usefixtures("usual")
def test_slow_batches_are_taken_over(sim: Simulator, pipeline: Pipeline, spec: JobSpec) -> None:
    sim.hold()
    sim.set_done_at_cancel(0.4)
    state = run(pipeline, spec, PARTITION, wait=False)
    assert (state.in_flight, state.waiting) == (15, 0)
    assert state.night.deadline_at == pytest.approx(state.at + 8 * HOUR, abs=60)
    assert run(pipeline, spec, PARTITION, wait=False).in_flight == 15
    assert not taken(pipeline, state)

    make_late(pipeline, PARTITION, seconds=60)
    state = run(pipeline, spec, PARTITION)
    assert state.complete
    assert state.batches == len(taken(pipeline, state)) == 3
    assert {t.left_usd for t in taken(pipeline, state)} == {0}
    assert modes(sim, pipeline, spec) == {"batch": 6, "realtime": 9}
    check_report(pipeline, spec, state.night, 9)


@pytest.mark.usefixtures("usual")
def test_what_was_done_at_the_cancel_stays_and_how_long_a_cancel_takes_is_learned(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    spec = auto(tmp_path, 25)
    sim.hold()
    sim.set_done_at_cancel(1.0)
    night = run(pipeline, spec, PARTITION, wait=False).night
    assumed = takeover.course(pipeline, spec, night).outlook
    assert assumed is not None
    assert assumed.cancel_seconds == ASSUMED_CANCEL_SECONDS
    make_late(pipeline, PARTITION, seconds=60)
    state = run(pipeline, spec, PARTITION)
    assert state.complete
    assert state.batches == len(taken(pipeline, state)) == 5
    assert modes(sim, pipeline, spec, 25) == {"batch": 25}
    check_report(pipeline, spec, state.night, 0)
    measured = takeover.course(pipeline, spec, night).outlook
    assert measured is not None
    times = [(s.cancel_requested_at, s.ended_at) for s in submissions_of(pipeline)]
    took = sorted(end - asked for asked, end in times if asked is not None and end is not None)
    # Four of five were no slower.
    assert measured.cancel_seconds == took[3] < ASSUMED_CANCEL_SECONDS


@pytest.mark.usefixtures("usual")
def test_what_is_not_sent_moves_at_once(
    sim: Simulator, make_pipeline: MakePipeline, spec: JobSpec
) -> None:
    """The queue takes 10 requests and is slow; the other 5 do not wait for it."""
    sim.hold()
    pipeline = make_pipeline(max_queued_requests=10)
    state = run(pipeline, spec, PARTITION, wait=False)
    assert (state.in_flight, state.waiting) == (10, 5)
    make_late(pipeline, PARTITION, seconds=HOUR / 2)
    state = run(pipeline, spec, PARTITION, wait=False)
    # What is at the API has time to end by itself.
    assert (state.in_flight, state.waiting, state.settled) == (10, 0, 5)
    assert not taken(pipeline, state)
    sim.release()
    assert run(pipeline, spec, PARTITION).complete
    assert modes(sim, pipeline, spec) == {"batch": 10, "realtime": 5}


def test_without_any_time_left_no_batch_is_made(
    sim: Simulator, pipeline: Pipeline, spec: JobSpec
) -> None:
    """Nothing was measured: batches are assumed to take an hour."""
    night = steps.open_night(pipeline, spec, PARTITION)
    night_input.take_input(pipeline, spec, night)
    make_late(pipeline, PARTITION, seconds=HOUR / 2)
    state = run(pipeline, spec, PARTITION)
    assert (state.complete, state.batches) == (True, 0)
    assert modes(sim, pipeline, spec) == {"realtime": 15}


@pytest.mark.usefixtures("usual")
@pytest.mark.parametrize("via", ["batch", "realtime"])
def test_a_pilot_that_all_others_wait_for_is_hurried_too(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, via: str
) -> None:
    pilot = {"size": 2, "via": via, "max_error_rate": 1, "max_truncated_rate": 1}
    spec = auto(tmp_path, 20, pilot=pilot)
    sim.hold()
    sim.set_done_at_cancel(0)
    state = run(pipeline, spec, PARTITION, wait=False)
    assert state.in_flight == (2 if via == "batch" else 18)
    make_late(pipeline, PARTITION, seconds=60)
    assert run(pipeline, spec, PARTITION).complete
    assert modes(sim, pipeline, spec, 20) == {"realtime": 20}


@pytest.mark.usefixtures("usual")
def test_a_batch_whose_real_time_price_does_not_fit_the_budget_runs_on(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    sim.hold()
    sim.set_done_at_cancel(0)
    spec = auto(tmp_path, 25)
    state = run(pipeline, spec, PARTITION, wait=False)
    bound = sum(float(s.usd_bound) for s in submissions_of(pipeline) if s.state is State.ACCEPTED)
    # All are reserved at the batch price; that leaves room for two batches at twice the price.
    budget = {"max_usd_per_partition": round(bound * (1 + 2 * 2.1 / 5), 6)}
    spec = auto(tmp_path, 25, budget=budget)
    make_late(pipeline, PARTITION, seconds=60)
    state = run(pipeline, spec, PARTITION, wait=False)
    assert len(taken(pipeline, state)) == 2
    assert "has no room" in (state.night.forecast or {})["not_taken_over"]
    # A batch that ends is billed less than its bound: that makes room for the next.
    sim.release()
    assert run(pipeline, spec, PARTITION).complete
    assert modes(sim, pipeline, spec, 25)["realtime"] >= 10


@pytest.mark.usefixtures("usual")
def test_what_is_of_unknown_outcome_is_left_alone(
    sim: Simulator, make_pipeline: MakePipeline, spec: JobSpec, faults: Faults
) -> None:
    """The answer to the third create is lost; its batch is found later, nothing is bought twice."""
    pipeline = make_pipeline(reconcile_seconds=0.5)
    sim.hold()
    sim.set_done_at_cancel(0)
    creates = 0

    def lose(request: Request, _response: Response) -> Response | None:
        nonlocal creates
        creates += is_create(request)
        return Dropped() if is_create(request) and creates == 3 else None

    faults.on_response = once(lose)
    state = run(pipeline, spec, PARTITION, wait=False)
    assert state.unknown == 5
    make_late(pipeline, PARTITION, seconds=60)
    state = run(pipeline, spec, PARTITION, wait=False)
    unknown = [s for s in submissions_of(pipeline) if s.state is State.UNKNOWN]
    assert [s.cancel_requested_at for s in unknown] == [None]
    assert len(taken(pipeline, state)) == 2
    sim.release()
    assert run(pipeline, spec, PARTITION).complete
    assert modes(sim, pipeline, spec) == {"batch": 5, "realtime": 10}


@pytest.mark.usefixtures("usual")
def test_a_take_over_goes_on_after_deaths_before_and_after_a_cancel(
    sim: Simulator, make_pipeline: MakePipeline, spec: JobSpec
) -> None:
    sim.hold()
    sim.set_done_at_cancel(0.4)
    first = make_pipeline()
    run(first, spec, PARTITION, wait=False)
    make_late(first, PARTITION, seconds=60)

    def die_at_cancel(pipeline: Pipeline, *, after: bool) -> None:
        api = pipeline.api_of("simulator")
        honest = api.cancel_batch

        def cancel(batch_id: str) -> BatchInfo:
            if after:
                honest(batch_id)
            raise KeyboardInterrupt

        api.cancel_batch = cancel  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            run(pipeline, spec, PARTITION)

    die_at_cancel(first, after=False)
    die_at_cancel(make_pipeline(), after=True)
    last = make_pipeline()
    state = run(last, spec, PARTITION)
    assert state.complete
    assert len(taken(last, state)) == 3
    assert modes(sim, last, spec) == {"batch": 6, "realtime": 9}


@pytest.mark.usefixtures("usual")
def test_two_processes_take_over_once(
    sim: Simulator, make_pipeline: MakePipeline, spec: JobSpec, faults: Faults
) -> None:
    sim.hold()
    sim.set_done_at_cancel(0.4)
    first, second = make_pipeline(), make_pipeline()
    state = run(first, spec, PARTITION, wait=False)
    make_late(first, PARTITION, seconds=60)
    both = [takeover.course(pipeline, spec, state.night) for pipeline in (first, second)]
    assert {course.take_over for course in both} == {both[0].take_over}
    for pipeline in (first, second):
        steps.meet_deadline(pipeline, spec, state.night)
    assert len(taken(first, state)) == 3
    assert sum(path.endswith("/cancel") for _, path in faults.calls) == 3
    assert run(second, spec, PARTITION).complete
    assert run(first, spec, PARTITION).complete
    assert modes(sim, first, spec) == {"batch": 6, "realtime": 9}


@pytest.mark.usefixtures("usual")
def test_what_was_taken_over_stays_with_real_time_after_the_deadline(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    """With a ceiling it is planned for batches first, and must not go out as such once more."""
    spec = auto(tmp_path, budget={"max_usd_per_partition": 100})
    sim.hold()
    sim.set_done_at_cancel(0.4)
    state = run(pipeline, spec, PARTITION, wait=False)
    make_late(pipeline, PARTITION, seconds=60)
    steps.meet_deadline(pipeline, spec, state.night)
    set_deadline(pipeline, PARTITION, seconds=-1)
    sim.release()
    assert run(pipeline, spec, PARTITION).batches == 3
    assert modes(sim, pipeline, spec) == {"batch": 6, "realtime": 9}


@pytest.mark.usefixtures("usual")
def test_nothing_is_taken_over_while_the_night_is_held_or_after_its_deadline(
    sim: Simulator, pipeline: Pipeline, spec: JobSpec
) -> None:
    """Real time could not follow: what was cancelled would wait for a person."""
    sim.hold()
    state = run(pipeline, spec, PARTITION, wait=False)
    make_late(pipeline, PARTITION, seconds=60)
    with pipeline.ledger.write() as connection:
        accounts.pause_account(connection, state.night.owner, "no credit")
    steps.meet_deadline(pipeline, spec, state.night)
    assert not taken(pipeline, state)
    assert "no credit" in (pipeline.refreshed(state.night).forecast or {})["not_taken_over"]

    with pipeline.ledger.write() as connection:
        accounts.lift_pause(connection, state.night.owner)
    set_deadline(pipeline, PARTITION, seconds=-1)
    state = run(pipeline, spec, PARTITION, wait=False)
    assert (state.in_flight, taken(pipeline, state)) == (15, [])
    assert "missed" in state.describe()
    sim.release()
    assert run(pipeline, spec, PARTITION).complete
    assert modes(sim, pipeline, spec) == {"batch": 15}
