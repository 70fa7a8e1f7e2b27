"""Submissions of unknown outcome before a list that is odd: nothing is bought twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.flow import steps
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import submissions, transitions
from batch_pipeline.ledger.submissions import State
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
HOURS = timedelta(hours=5)


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
    for _ in range(5):
        steps.poll_account(pipeline, account)


def test_a_batch_that_the_list_has_not_counted_yet_may_be_the_lost_one(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, spec: JobSpec
) -> None:
    def uncounted(batch: dict[str, Any]) -> None:
        batch["request_counts"] = dict.fromkeys(batch["request_counts"], 0)

    sim.hold()
    pipeline = make_pipeline(reconcile_seconds=WINDOW)
    faults.on_response = losing(1, changed(uncounted))
    account = run(pipeline, spec, PARTITION, wait=False).night.account
    look_often(pipeline, account)
    assert [s.state for s in submissions_of(pipeline)] == [State.UNKNOWN]
    faults.on_response = lambda _, response: response
    sim.release()
    assert run(pipeline, spec, PARTITION).complete
    assert not accepted_twice(sim)


@pytest.mark.parametrize("shift", [-HOURS, HOURS])
def test_an_api_whose_clock_is_hours_off_shows_the_lost_batch_all_the_same(
    sim: Simulator,
    make_pipeline: MakePipeline,
    faults: Faults,
    spec: JobSpec,
    shift: timedelta,
) -> None:
    def shifted(batch: dict[str, Any]) -> None:
        batch["created_at"] = (datetime.fromisoformat(batch["created_at"]) + shift).isoformat()

    pipeline = make_pipeline(reconcile_seconds=WINDOW)
    faults.on_response = losing(2, changed(shifted))
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
    account = run(pipeline, spec, PARTITION, wait=False).night.account
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
