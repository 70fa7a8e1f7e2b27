"""A storm: the API fails everything for a time. It costs no attempt, and the night waits it out."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.api.rate_limit import Limiter
from batch_pipeline.flow import steps
from batch_pipeline.flow.answers.outcomes import is_storm
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status import batch_warnings, night_state, warnings
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import AlertsSpec, JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.admission.night_state import Kind
from batch_pipeline.simulator import Faults as Declared
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    Dropped,
    Faults,
    documents,
    job,
    results,
    statuses,
    submissions_of,
    write_rows,
)

ITEMS = 40
STEPS = 6


def failing(outcome: str) -> Declared:
    chance = {"probability": 1.0, "outcome": outcome, "ways": "both"}
    return Declared.of(requests={"chances": [chance]})


def step(pipeline: Pipeline, spec: JobSpec) -> Progress:
    """The night after one more step, as if the pause before it were over."""
    night = steps.open_night(pipeline, spec, PARTITION)
    with pipeline.ledger.write() as connection:
        if night.retry_at is not None:
            nights.update_night(connection, night.id, retry_at=0.0)
    return run(pipeline, spec, PARTITION, wait=False)


@pytest.mark.parametrize(
    ("declared", "outcome"),
    [
        ({"pilot": {"size": 0}, "limits": {"max_requests_per_batch": 20}}, "rate_limit_error"),
        ({"pilot": {"size": 0}, "mode": "realtime"}, "api_error"),
    ],
)
def test_a_storm_counts_no_attempt_and_is_waited_out(
    sim: Simulator,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    declared: dict[str, Any],
    outcome: str,
) -> None:
    monkeypatch.setattr("batch_pipeline.flow.realtime.call_failures.FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(Limiter, "_backoff", lambda _: 0.0)
    sim.set_faults(failing(outcome))
    pipeline = make_pipeline(poll_seconds=100.0)
    spec = job(write_rows(tmp_path / "in.jsonl", documents(ITEMS)), **declared)
    for _ in range(STEPS):
        state = step(pipeline, spec)
    assert (state.settled, state.dead_letter, state.complete) == (0, 0, False)
    assert state.night.storm_since is not None
    assert [w.alerts for w in warnings.of(state, AlertsSpec()) if w.code == "api_storm"] == [False]
    assert sum(s.requests for s in submissions_of(pipeline)) >= 3 * ITEMS
    sim.set_faults(Declared())
    while not state.complete:
        state = step(pipeline, spec)
    assert state.statuses == {"succeeded": ITEMS}
    assert {row["attempt"] for row in results(pipeline, spec)} == {1}
    assert state.night.storm_since is None


def test_the_pauses_double_and_are_told(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    sim.set_faults(failing("api_error"))
    pipeline = make_pipeline(poll_seconds=100.0)
    spec = job(write_rows(tmp_path / "in.jsonl", documents(ITEMS)), pilot={"size": 0})
    pauses = []
    for rounds in range(1, 4):
        state = run(pipeline, spec, PARTITION, wait=False)
        # What failed is not sent again before the pause is over.
        state = run(pipeline, spec, PARTITION, wait=False)
        assert len(submissions_of(pipeline)) == rounds
        assert state.night.retry_at is not None
        pauses.append(round(state.night.retry_at - state.at, -1))
        with pipeline.ledger.write() as connection:
            nights.update_night(connection, state.night.id, retry_at=state.at - 1)
    assert pauses == [100, 200, 400]
    found = night_state.of_progress(state, AlertsSpec())
    assert found.kind is Kind.BACKING_OFF
    assert "what failed is asked again at " in found.reason
    with pipeline.ledger.write() as connection:
        since = state.at - batch_warnings.DAY - 60
        nights.update_night(connection, state.night.id, storm_since=since)
    state = run(pipeline, spec, PARTITION, wait=False)
    [warning] = [w for w in warnings.of(state, AlertsSpec()) if w.code == "api_storm"]
    assert warning.alerts


def test_few_failures_count_as_attempts_after_pauses(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    fault = {"contains": "document number 3", "outcome": "api_error"}
    sim.set_faults(Declared.of(requests={"matching": [fault]}))
    texts = [{"id": str(n), "text": f"document number {n}."} for n in range(30)]
    spec = job(write_rows(tmp_path / "in.jsonl", texts), pilot={"size": 0})
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": 29, "errored": 1}
    sent = [s for s in submissions_of(pipeline) if s.batch_id is not None]
    gaps = [b.intent_at - (a.collected_at or 0.0) for a, b in pairwise(sent)]
    poll = pipeline.settings.poll_seconds
    assert len(gaps) == 2
    assert gaps[0] >= poll
    assert gaps[1] >= 2 * poll


def test_lost_answers_of_calls_count_in_a_storm_too(
    sim: Simulator,
    pipeline: Pipeline,
    faults: Faults,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("batch_pipeline.flow.realtime.call_failures.FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(Limiter, "_backoff", lambda _: 0.0)

    def lost(request: Request, response: Response) -> Response:
        return Dropped() if request.url.path == "/v1/messages" else response

    faults.on_response = lost
    source = write_rows(tmp_path / "in.jsonl", documents(30))
    spec = job(source, pilot={"size": 0}, mode="realtime", alerts={"error_rate": 1})
    run(pipeline, spec, PARTITION)
    rows = results(pipeline, spec)
    assert statuses(rows) == {"errored": 30}
    assert {row["attempt"] for row in rows} <= {2, 3}
    counted = sum(s.unproven_usd or 0 for s in submissions_of(pipeline))
    assert counted >= sim.books.realtime_cost_usd > 0


@pytest.mark.parametrize(
    ("answers", "passing", "storm"),
    [(20, 18, True), (20, 17, False), (19, 19, None), (1000, 899, False), (1000, 900, True)],
)
def test_when_failures_are_a_storm(answers: int, passing: int, storm: bool | None) -> None:
    assert is_storm(answers, passing) is storm
