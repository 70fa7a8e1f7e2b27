"""The circuit breaker and approvals in whole nights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import GateClosedError, UsageError
from batch_pipeline.flow.control import approval
from batch_pipeline.flow.costs.cost_report import build_report
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.control.approvals import Gate
from batch_pipeline.ledger.nights import Night
from batch_pipeline.reporting.report.report_json import as_json
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    accepted_twice,
    documents,
    job,
    results,
    statuses,
    submissions_of,
    write_rows,
)

ALERTS = {"after_items": 10}
INVALID = {"contains": "document", "outcome": "invalid_request_error", "ways": "both"}


def the_night(pipeline: Pipeline) -> Night:
    with pipeline.ledger.read() as connection:
        [night] = nights.list_nights(connection)
    return night


def approve(pipeline: Pipeline, spec: JobSpec, gate: Gate, reason: str = "it is as it is") -> None:
    approval.approve(pipeline, spec, the_night(pipeline), gate, reason, "someone@here")


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., JobSpec]:
    """A job of 60 documents in batches of 20, of which one fits the queue of `small`."""
    source = write_rows(tmp_path / "in.jsonl", documents(60))

    def make(**changes: Any) -> JobSpec:
        declared = {"limits": {"max_requests_per_batch": 20}, "alerts": ALERTS}
        return job(source, **(declared | changes))

    return make


@pytest.fixture
def small(make_pipeline: MakePipeline) -> Pipeline:
    """A pipeline whose queue has room for 20 requests."""
    return make_pipeline(max_queued_requests=20)


def test_a_systematic_failure_stops_the_night(
    sim: Simulator,
    small: Pipeline,
    spec: Callable[..., JobSpec],
    caplog: pytest.LogCaptureFixture,
) -> None:
    sim.set_faults(Faults.of(requests={"matching": [INVALID]}))
    # Two batches are in flight when the first opens it.
    declared = spec(limits={"max_requests_per_batch": 10})
    with pytest.raises(GateClosedError, match="the circuit breaker is open") as caught:
        run(small, declared, PARTITION)
    message = str(caught.value)
    assert "20 of 20 first attempts need a fix (100.0%, over 10.0%)" in message
    assert "most often invalid_request_error (20). 40 requests are held back" in message
    assert sum(f"\n  {d['id']}: " in message for d in documents(60)) == 3
    assert sim.books.accepted_requests == 20
    # What was in flight is collected, and the event is told once.
    assert statuses(results(small, declared)) == {"errored": 20}
    assert caplog.text.count("the circuit breaker opened") == 1

    for wait in (True, False):  # run again as it is: nothing more goes out
        with pytest.raises(GateClosedError):
            run(small, declared, PARTITION, wait=wait)
    assert sim.books.accepted_requests == 20
    assert caplog.text.count("the circuit breaker opened") == 1


def test_what_is_in_flight_is_collected_before_the_end(
    sim: Simulator, small: Pipeline, spec: Callable[..., JobSpec]
) -> None:
    sim.hold()
    assert run(small, spec(max_tokens=1), PARTITION, wait=False).in_flight == 20
    sim.release()
    with pytest.raises(GateClosedError, match=r"of 20 first attempts .* most often max_tokens"):
        run(small, spec(max_tokens=1), PARTITION)
    assert len(results(small, spec())) == 20


def test_another_declaration_is_another_try(
    sim: Simulator, small: Pipeline, spec: Callable[..., JobSpec]
) -> None:
    with pytest.raises(GateClosedError):
        run(small, spec(max_tokens=1), PARTITION)
    state = run(small, spec(), PARTITION)
    assert state.statuses == {"succeeded": 60}
    assert not accepted_twice(sim)


def test_other_limits_are_looked_at_anew(
    sim: Simulator, small: Pipeline, spec: Callable[..., JobSpec]
) -> None:
    with pytest.raises(GateClosedError):
        run(small, spec(max_tokens=1), PARTITION)
    state = run(small, spec(max_tokens=1, alerts={"error_rate": 1.0}), PARTITION)
    assert state.complete
    assert not accepted_twice(sim)


def test_an_approval_lets_the_night_go_and_is_reported_and_what_is_none_does_not(
    sim: Simulator, small: Pipeline, spec: Callable[..., JobSpec]
) -> None:
    declared = spec(max_tokens=1)
    with pytest.raises(GateClosedError):
        run(small, declared, PARTITION)
    for given_for, gate, reason, said in (
        (declared, Gate.BREAKER, "  ", "needs a reason"),
        (declared, Gate.PILOT, "x", "pilot gate of review all is not closed"),
        (spec(max_tokens=2), Gate.BREAKER, "x", "has changed since"),
    ):
        with pytest.raises(UsageError, match=said):
            approve(small, given_for, gate, reason)
    with pytest.raises(GateClosedError):
        run(small, declared, PARTITION)

    approve(small, declared, Gate.BREAKER)
    approve(small, declared, Gate.BREAKER, "the same again")
    state = run(small, declared, PARTITION)
    assert state.complete
    assert state.statuses["truncated"] > 40
    assert not accepted_twice(sim)
    [given] = as_json(build_report(small, declared, state.night))["approvals"]
    assert (given["gate"], given["reason"]) == ("breaker", "it is as it is")
    assert given["approved_by"] == "someone@here"


def test_what_passes_by_itself_never_opens_it(
    sim: Simulator, small: Pipeline, spec: Callable[..., JobSpec]
) -> None:
    overloaded = {"contains": "document", "outcome": "overloaded_error", "attempts": 1}
    sim.set_faults(Faults.of(requests={"matching": [overloaded]}))
    assert run(small, spec(), PARTITION).statuses == {"succeeded": 60}
    # Where all fail so, it is a storm, which counts no attempt.
    assert {row["attempt"] for row in results(small, spec())} <= {1, 2}


def test_retry_rounds_are_held_back_too(sim: Simulator, small: Pipeline, tmp_path: Path) -> None:
    rows = documents(20)
    overloaded = {"contains": "document number 1", "outcome": "overloaded_error", "attempts": 1}
    sim.set_faults(Faults.of(requests={"matching": [overloaded, INVALID]}))
    spec = job(write_rows(tmp_path / "in.jsonl", rows), alerts={"after_items": 9})
    with pytest.raises(GateClosedError, match="9 of 9 first attempts need a fix"):
        run(small, spec, PARTITION)
    assert sim.books.accepted_requests == 20
    sim.set_faults(Faults())
    approve(small, spec, Gate.BREAKER)
    state = run(small, spec, PARTITION)
    assert state.statuses == {"succeeded": 11, "errored": 9}
    assert sim.books.accepted_requests == 31


@pytest.mark.parametrize("via", ["realtime", "batch"])
def test_answers_of_the_pilot_count(
    sim: Simulator, small: Pipeline, spec: Callable[..., JobSpec], via: str
) -> None:
    pilot = {"size": 6, "via": via, "max_error_rate": 1, "max_truncated_rate": 1}
    declared = spec(max_tokens=1, pilot=pilot, alerts={"after_items": 6})
    with pytest.raises(GateClosedError, match="of 6 first attempts"):
        run(small, declared, PARTITION)
    assert sim.books.accepted_requests == 6


def test_an_approved_pilot_lets_the_night_go(
    sim: Simulator, small: Pipeline, spec: Callable[..., JobSpec]
) -> None:
    pilot = {"size": 6, "max_error_rate": 1}
    declared = spec(max_tokens=1, pilot=pilot, alerts={"after_items": 55})
    with pytest.raises(GateClosedError, match="the pilot's gate is closed"):
        run(small, declared, PARTITION)
    assert sim.books.accepted_requests == 6
    with pytest.raises(UsageError, match="breaker gate of review all is not closed"):
        approve(small, declared, Gate.BREAKER)
    approve(small, declared, Gate.PILOT)
    # What the person has seen does not open the breaker: of the rest, 54 are fewer than 55.
    state = run(small, declared, PARTITION)
    assert (state.complete, state.settled) == (True, 60)
    assert sim.books.accepted_requests == 60
    verdict = state.night.pilot
    assert verdict is not None
    assert not verdict["open"]
    assert [given.gate for given in state.approvals] == [Gate.PILOT]


def test_an_approved_pilot_is_not_an_approval_of_other_input(
    sim: Simulator, small: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(40))
    declared = job(source, max_tokens=1, pilot={"size": 4, "max_error_rate": 1})
    with pytest.raises(GateClosedError):
        run(small, declared, PARTITION)
    approve(small, declared, Gate.PILOT)
    write_rows(source, documents(41))
    with pytest.raises(GateClosedError, match="the pilot's gate is closed"):
        run(small, declared, PARTITION)
    assert [s.engine for s in submissions_of(small)] == ["realtime", "realtime"]
