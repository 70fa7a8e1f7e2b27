"""Submissions of unknown outcome before a list that is odd: nothing is bought twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.flow import steps
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status import warnings
from batch_pipeline.jobs.spec import AlertsSpec, JobSpec
from batch_pipeline.ledger.database import ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import submissions, transitions
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.simulator import Faults as SimulatorFaults
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    CREATE,
    PARTITION,
    Dropped,
    Faults,
    RealApi,
    accepted_twice,
    documents,
    is_create,
    job,
    submissions_of,
    write_rows,
)

WINDOW = 0.05
HOUR = 3_600.0


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    """Two batches, of 5 and of 4 requests."""
    source = write_rows(tmp_path / "in.jsonl", documents(9))
    return job(source, limits={"max_requests_per_batch": 5})


def changed(
    change: Callable[[dict[str, Any]], None],
) -> Callable[[Request, Response], Response]:
    """Every answer that describes batches, with each of them changed."""

    def answer(request: Request, response: Response) -> Response:
        if not request.url.path.startswith(CREATE[1]) or response.status_code != 200:
            return response
        if request.url.path.endswith("/results"):
            return response
        data = json.loads(bytes(response.body))
        for batch in data.get("data", [data]):
            change(batch)
        return Response(json.dumps(data), media_type="application/json")

    return answer


def losing(
    number: int, answer: Callable[[Request, Response], Response]
) -> Callable[[Request, Response], Response]:
    """The answer to the `number`-th create is lost, all others are `answer`'s."""
    creates = 0

    def lose(request: Request, response: Response) -> Response:
        nonlocal creates
        creates += is_create(request)
        if is_create(request) and creates == number:
            return Dropped()
        return answer(request, response)

    return lose


def look_often(pipeline: Pipeline, account: str) -> None:
    """Look, and look again after a `WINDOW`, which a process counts from its first look."""
    steps.poll_account(pipeline, account)
    time.sleep(2 * WINDOW)
    for _ in range(3):
        steps.poll_account(pipeline, account)


def test_a_batch_that_the_list_has_not_counted_yet_may_be_the_lost_one(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, spec: JobSpec
) -> None:
    def uncounted(batch: dict[str, Any]) -> None:
        batch["request_counts"] = dict.fromkeys(batch["request_counts"], 0)

    sim.hold()
    pipeline = make_pipeline(reconcile_seconds=WINDOW)
    faults.on_response = losing(1, changed(uncounted))
    account = run(pipeline, spec, PARTITION, wait=False).night.owner
    look_often(pipeline, account)
    assert [s.state for s in submissions_of(pipeline)] == [State.UNKNOWN]
    faults.on_response = lambda _, response: response
    sim.release()
    assert run(pipeline, spec, PARTITION).complete
    assert not accepted_twice(sim)


def test_a_list_that_cannot_be_read_is_told(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, spec: JobSpec
) -> None:
    def unreadable(request: Request, response: Response) -> Response:
        is_list = (request.method, request.url.path) == ("GET", CREATE[1])
        return Response('{"data": null}', media_type="application/json") if is_list else response

    pipeline = make_pipeline(reconcile_seconds=WINDOW)
    faults.on_response = losing(1, unreadable)
    night = run(pipeline, spec, PARTITION, wait=False).night
    look_often(pipeline, night.owner)
    state = steps.progress(pipeline, night)
    [said] = [w for w in warnings.of(state, AlertsSpec()) if w.code == "unknown_outcome"]
    assert (
        'cannot be read (HTTP 200 (application/json): an answer that cannot be read: {"data"'
        in (said.message)
    )
    faults.on_response = lambda _, response: response
    assert run(pipeline, spec, PARTITION).complete
    assert not accepted_twice(sim)


@pytest.mark.parametrize(
    "shown",
    [
        {"clock": -30 * HOUR, "counts": "wrong"},
        {"clock": 30 * HOUR, "counts": "zero"},
        {"counts": "null", "has_more": "missing"},
        {"counts": "text"},
        {"foreign_entries": ["no_times", "no_counts", "no_status", "number_id"]},
        # Of these it is not known whether they are ours: what else is looked for is found.
        {"foreign_entries": ["null", "no_id"]},
    ],
)
def test_a_lost_batch_is_found_however_it_is_described(
    sim: Simulator,
    make_pipeline: MakePipeline,
    faults: Faults,
    spec: JobSpec,
    shown: dict[str, Any],
) -> None:
    sim.set_faults(SimulatorFaults.of(shown=shown, foreign_batches={"probability": 1}))
    sim.create_foreign_batch(5)
    faults.on_response = losing(2, lambda _, response: response)
    assert run(make_pipeline(reconcile_seconds=WINDOW), spec, PARTITION).complete
    assert not accepted_twice(sim)
    assert not sim.books.foreign_touched


def of_unknown(pipeline: Pipeline, night: Night) -> str:
    """What `status` says of the night's submission of unknown outcome."""
    state = steps.progress(pipeline, night)
    [said] = [w for w in warnings.of(state, AlertsSpec()) if w.code == "unknown_outcome"]
    return said.message


@pytest.mark.parametrize("made", [True, False])
def test_a_running_candidate_is_waited_for_however_long_it_takes(
    sim: Simulator, make_pipeline: MakePipeline, spec: JobSpec, made: bool
) -> None:
    """Beyond the reconcile time, and `status` says so; what others make later does not count."""
    drop = {"kind": "drop", "when": "after" if made else "before"}
    sim.set_faults(
        SimulatorFaults.of(
            create={"script": [drop]}, foreign_batches={"probability": 1, "when": "after"}
        )
    )
    earlier = sim.create_foreign_batch(5)
    sim.hold()
    pipeline = make_pipeline(reconcile_seconds=WINDOW)
    night = run(pipeline, spec, PARTITION, wait=False).night
    look_often(pipeline, night.owner)
    [one, *_] = submissions_of(pipeline)
    assert one.state is State.UNKNOWN
    assert one.candidates is not None
    assert earlier not in one.candidates
    assert one.candidates[0] in of_unknown(pipeline, night)
    later = sim.create_foreign_batch(5)
    look_often(make_pipeline(reconcile_seconds=WINDOW), night.owner)
    assert submissions_of(pipeline)[0].candidates == one.candidates
    sim.set_faults(SimulatorFaults())
    sim.release()
    assert run(pipeline, spec, PARTITION).complete
    assert not accepted_twice(sim)
    assert set(sim.books.foreign_read) <= {*one.candidates, later}
    assert set(sim.books.foreign_read.values()) <= {1}
    assert not sim.books.foreign_touched
    assert submissions_of(pipeline)[0].state is (State.COLLECTED if made else State.ABSENT)


@pytest.mark.parametrize("entry", [None, {"id": None}])
def test_an_entry_without_an_id_proves_no_absence(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, spec: JobSpec, entry: object
) -> None:
    def with_odd_entry(request: Request, response: Response) -> Response:
        if request.method == "GET" and request.url.path == CREATE[1]:
            page = json.loads(bytes(response.body))
            page["data"].append(entry)
            return Response(json.dumps(page), media_type="application/json")
        return response

    sim.set_faults(SimulatorFaults.of(create={"script": [{"kind": "drop", "when": "before"}]}))
    pipeline = make_pipeline(reconcile_seconds=WINDOW)
    night = run(pipeline, spec, PARTITION, wait=False).night
    faults.on_response = with_odd_entry
    look_often(pipeline, night.owner)
    assert submissions_of(pipeline)[0].state is State.UNKNOWN
    assert "have no id" in of_unknown(pipeline, night)
    faults.on_response = lambda _, response: response
    assert run(pipeline, spec, PARTITION).complete


@pytest.mark.parametrize("steady", [True, False])
def test_a_clock_that_is_set_does_not_end_the_wait(
    sim: Simulator,
    make_pipeline: MakePipeline,
    spec: JobSpec,
    monkeypatch: pytest.MonkeyPatch,
    steady: bool,
) -> None:
    """By an hour, within the reconcile time. Where no steady clock is common to all processes, as
    with PostgreSQL, the process that waits does not believe it."""
    if not steady:
        monkeypatch.setattr(ledger, "_boot", lambda: "")
    sim.set_faults(
        SimulatorFaults.of(create={"script": [{"kind": "drop"}]}, list={"lag": {"seconds": 3_600}})
    )
    pipeline = make_pipeline(reconcile_seconds=600)
    account = run(pipeline, spec, PARTITION, wait=False).night.owner
    honest = ledger._time_of_day
    monkeypatch.setattr(ledger, "_time_of_day", lambda connection: honest(connection) + 3_600)
    look_often(make_pipeline(reconcile_seconds=600) if steady else pipeline, account)
    [one, *_] = submissions_of(pipeline)
    assert one.state is State.UNKNOWN
    sim.set_faults(SimulatorFaults())
    assert run(pipeline, spec, PARTITION).complete
    assert not accepted_twice(sim)


def test_a_look_with_the_key_of_another_workspace_proves_nothing(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, spec: JobSpec
) -> None:
    """Its list is empty: what is in flight, and could not have been deleted, is missing too."""

    def empty(request: Request, response: Response) -> Response:
        if request.method == "GET" and request.url.path == CREATE[1]:
            body = {"data": [], "has_more": False, "first_id": None, "last_id": None}
            return Response(json.dumps(body), media_type="application/json")
        return response

    sim.hold()
    pipeline = make_pipeline(reconcile_seconds=WINDOW, api=RealApi())
    faults.on_response = losing(2, lambda _, response: response)
    account = run(pipeline, spec, PARTITION, wait=False).night.owner
    with pipeline.ledger.write() as connection:
        [made] = submissions.of_account(connection, account, State.ACCEPTED)
        # As if it had been made a while ago: it is bound to be listed by now.
        connection.execute(sa.text(f"UPDATE submission SET accepted_at = {made.intent_at - 500}"))
        connection.execute(sa.text(f"UPDATE submission SET intent_at = {made.intent_at - 400}"))
    faults.on_response = empty
    look_often(pipeline, account)
    assert {s.state for s in submissions_of(pipeline)} == {State.ACCEPTED, State.UNKNOWN}
    faults.on_response = lambda _, response: response
    sim.release()
    assert run(pipeline, spec, PARTITION).complete
    assert not accepted_twice(sim)


def test_an_id_is_recorded_though_the_ledger_is_out_for_a_moment(
    sim: Simulator, make_pipeline: MakePipeline, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, failures = transitions.accept, iter(range(3))

    def accept(*arguments: Any, **named: Any) -> bool:
        for _ in failures:
            raise sa.exc.OperationalError("UPDATE", {}, Exception("the server is restarted"))
        return honest(*arguments, **named)

    monkeypatch.setattr(transitions, "accept", accept)
    pipeline = make_pipeline()
    assert run(pipeline, spec, PARTITION).complete
    assert {s.state for s in submissions_of(pipeline)} == {State.COLLECTED}
    assert not accepted_twice(sim)
