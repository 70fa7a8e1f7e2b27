"""An account that the API refuses: it pauses, nothing is set aside, a probe ends the pause."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.errors import AccountPausedError
from batch_pipeline.flow import night_input, steps
from batch_pipeline.flow.costs.estimate import estimate
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status import night_state, warnings
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.accounts.accounts import Account
from batch_pipeline.ledger.database import ledger, tables
from batch_pipeline.simulator import Faults as SimulatorFaults
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    Faults,
    accepted_twice,
    dead_letters,
    documents,
    job,
    results,
    statuses,
    submissions_of,
    write_rows,
)

CREDIT = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing."
# Whatever a document quotes.
QUOTING = f"messages.0.content: '{CREDIT}' is no text"
INVALID = "invalid_request_error"


def body(kind: str, message: str = "no", **more: Any) -> dict[str, Any]:
    """An API error body; `code` and `details` belong to the error, `outside` beside it."""
    outside = more.pop("outside", {})
    return {"type": "error", "error": {"type": kind, "message": message, **more}, **outside}


# How each condition is told from what concerns a request: api/test_failures.
NO_CREDIT = (400, body(INVALID, CREDIT))
ON_HOLD = (403, body("permission_error", details={"error_code": "organization_on_hold"}))
SPENT = (429, body("rate_limit_error", details={"error_code": "contract_spend_limit_reached"}))


def refusing(
    faults: Faults, path: str, status: int, content: dict[str, Any], after: int = 0
) -> list[int]:
    """Refuse the calls to a path after the first `after`; returns the list that counts them."""
    seen = [0]

    def answer(request: Request) -> Response | None:
        if (request.method, request.url.path) != ("POST", path):
            return None
        seen[0] += 1
        if seen[0] <= after:
            return None
        return Response(json.dumps(content), status, media_type="application/json")

    faults.on_request = answer
    return seen


def in_order(faults: Faults) -> None:
    faults.on_request = lambda _: None


def account_of(pipeline: Pipeline) -> Account:
    with pipeline.ledger.read() as connection:
        return accounts.get_account(connection, "simulator")


def progress_of(pipeline: Pipeline, spec: JobSpec) -> Progress:
    return steps.progress(pipeline, steps.open_night(pipeline, spec, PARTITION))


def probe_now(pipeline: Pipeline) -> None:
    """As if the time to the next probe were over."""
    with pipeline.ledger.write() as connection:
        connection.execute(sa.update(tables.account).values(probe_at=ledger.now(connection) - 1))


def assert_bought_once(sim: Simulator, pipeline: Pipeline, spec: JobSpec, items: int) -> None:
    rows = results(pipeline, spec)
    assert statuses(rows) == {"succeeded": items}
    assert {row["attempt"] for row in rows} == {1}
    assert dead_letters(pipeline, spec) == []
    assert sim.books.billed_requests == items
    assert not account_of(pipeline).paused_reason


def test_creates_that_the_account_is_refused_for_pause_it(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(10))
    spec = job(source, limits={"max_requests_per_batch": 4})
    status, content = SPENT
    creates = refusing(faults, "/v1/messages/batches", status, content, after=1)
    with pytest.raises(AccountPausedError, match=content["error"]["message"][:20]) as caught:
        run(make_pipeline(), spec, PARTITION)
    assert caught.value.exit_code == 4
    assert creates == [2]
    pipeline = make_pipeline()
    state = progress_of(pipeline, spec)
    assert (state.settled, state.waiting, state.in_flight) == (4, 6, 0)
    # A probe is the smallest shard; while it is refused no other follows.
    state = run(make_pipeline(), spec, PARTITION, wait=False)
    assert (creates, state.complete) == ([3], False)
    assert submissions_of(pipeline)[-1].requests == 2
    in_order(faults)
    assert run(make_pipeline(), spec, PARTITION).complete
    assert_bought_once(sim, pipeline, spec, 10)


@pytest.mark.parametrize(
    ("contains", "fault", "pilot"),
    [
        ("document number 1", {"message": CREDIT}, "none"),
        ("document", {"message": "no", "error_code": "organization_on_hold"}, "batch"),
    ],
)
def test_result_lines_that_the_account_is_refused_for_are_no_attempts(
    sim: Simulator,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    contains: str,
    fault: dict[str, Any],
    pilot: str,
) -> None:
    """Of all lines, and of a part of them: documents 1 and 10 to 19."""
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(40)),
        pilot={"size": 4 if pilot == "batch" else 0, "via": "batch", "max_error_rate": 0.0},
    )
    refused = {"contains": contains, "outcome": INVALID, **fault}
    sim.set_faults(SimulatorFaults.of(requests={"matching": [refused]}))
    with pytest.raises(AccountPausedError, match=fault["message"][:20]):
        run(make_pipeline(), spec, PARTITION)
    pipeline = make_pipeline()
    # A create that is taken in proves nothing here: one batch is tried, and no other.
    before = len(submissions_of(pipeline))
    with pytest.raises(AccountPausedError):
        run(make_pipeline(), spec, PARTITION)
    assert len(submissions_of(pipeline)) == before + 1
    state = progress_of(pipeline, spec)
    assert (state.night.pilot is None, state.dead_letter) == (pilot == "batch", 0)
    sim.set_faults(SimulatorFaults())
    assert run(make_pipeline(), spec, PARTITION).complete
    assert_bought_once(sim, pipeline, spec, 40)


@pytest.mark.parametrize(
    ("mode", "status", "content"), [("batch", *NO_CREDIT), ("realtime", *ON_HOLD)]
)
def test_calls_that_the_account_is_refused_for_are_no_attempts(
    sim: Simulator,
    make_pipeline: MakePipeline,
    faults: Faults,
    tmp_path: Path,
    mode: str,
    status: int,
    content: dict[str, Any],
) -> None:
    """Those of a pilot, and those of a night; some are answered before."""
    source = write_rows(tmp_path / "in.jsonl", documents(60))
    pilot = {"size": 6 if mode == "batch" else 0, "max_error_rate": 0.0}
    spec = job(source, mode=mode, pilot=pilot, realtime={"concurrency": 3})
    calls = refusing(faults, "/v1/messages", status, content, after=2)
    with pytest.raises(AccountPausedError, match=content["error"]["message"]):
        run(make_pipeline(), spec, PARTITION)
    pipeline = make_pipeline()
    state = progress_of(pipeline, spec)
    assert (state.settled, state.in_flight, state.night.pilot and state.night.pilot["sample"]) == (
        2, 0, None if mode == "batch" else 0,
    )  # fmt: skip
    before = calls[0]
    state = run(make_pipeline(), spec, PARTITION, wait=False)
    # One call is the probe.
    assert (calls[0], state.complete) == (before + 1, False)
    in_order(faults)
    assert run(make_pipeline(), spec, PARTITION).complete
    assert_bought_once(sim, pipeline, spec, 60)


def test_what_a_document_quotes_pauses_nothing(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(9)))
    quoting = {"contains": "document number 5", "outcome": INVALID, "message": QUOTING}
    sim.set_faults(SimulatorFaults.of(requests={"matching": [quoting]}))
    pipeline = make_pipeline()
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": 8, "errored": 1}
    assert account_of(pipeline).paused_at is None


def test_a_count_of_tokens_pauses_the_account_and_says_why(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(9)))
    refusing(faults, "/v1/messages/count_tokens", 400, body(INVALID, CREDIT))
    pipeline = make_pipeline()
    found = estimate(pipeline, spec, PARTITION)
    assert found.tokens.source == "rule"
    assert any(CREDIT in warning for warning in found.warnings)
    assert CREDIT in str(account_of(pipeline).paused_reason)
    assert run(pipeline, spec, PARTITION).complete


def test_probes_become_rarer_until_one_ends_the_pause_of_all_nights(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    """Steps of runs that nobody launched: those that the sensor asks for."""
    source = write_rows(tmp_path / "in.jsonl", documents(6))
    limits = {"max_requests_per_batch": 3}
    first, second = (job(source, name=name, limits=limits) for name in ("first", "second"))
    pipeline = make_pipeline()
    creates = refusing(faults, "/v1/messages/batches", 400, body(INVALID, CREDIT))
    two = []
    for spec in (first, second):
        with pytest.raises(AccountPausedError):
            run(make_pipeline(), spec, PARTITION)
        two.append((spec, steps.open_night(pipeline, spec, PARTITION)))

    def submit_both() -> None:
        for spec, night in two:
            steps.submit(pipeline, spec, night)

    def until_probe() -> float:
        with pipeline.ledger.read() as connection:
            return (account_of(pipeline).probe_at or 0.0) - ledger.now(connection)

    assert creates == [2]
    expected = [900.0, 1_800.0, 3_600.0, 3_600.0]
    for number, seconds in enumerate(expected):
        assert until_probe() == pytest.approx(seconds, abs=30)
        submit_both()
        assert creates == [2 + number]
        probe_now(pipeline)
        submit_both()
        assert creates == [3 + number]
    in_order(faults)
    submit_both()
    assert sim.books.batches_created == 0
    probe_now(pipeline)
    submit_both()
    assert sim.books.batches_created == 4
    assert account_of(pipeline).paused_at is None


def test_batches_from_before_a_pause_that_is_over_begin_no_other(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    """They were refused before the top-up, and are collected after it."""
    source = write_rows(tmp_path / "in.jsonl", documents(6))
    spec = job(source, limits={"max_requests_per_batch": 2})
    refused = {"contains": "document", "outcome": INVALID, "message": CREDIT, "attempts": 1}
    sim.set_faults(SimulatorFaults.of(requests={"matching": [refused]}))
    pipeline = make_pipeline()
    taken = steps.open_night(pipeline, spec, PARTITION)
    night_input.take_input(pipeline, spec, taken)
    steps.run_pilot(pipeline, spec, taken)
    steps.submit(pipeline, spec, taken)
    with pipeline.ledger.write() as connection:
        accounts.pause_account(connection, taken.owner, CREDIT)
        accounts.lift_pause(connection, taken.owner)
    assert run(make_pipeline(), spec, PARTITION).complete
    assert_bought_once(sim, pipeline, spec, 6)


def test_an_account_that_reads_are_refused_for_is_told(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(5)))
    pipeline = make_pipeline()
    sim.hold()
    run(pipeline, spec, PARTITION, wait=False)
    content = body("permission_error", "on hold", details={"error_code": "organization_on_hold"})
    faults.on_request = lambda _: Response(json.dumps(content), 403)
    with pytest.raises(AccountPausedError, match="on hold") as caught:
        run(pipeline, spec, PARTITION)
    assert "ANTHROPIC_API_KEY" not in str(caught.value)
    with pytest.raises(AccountPausedError, match="on hold"):
        run(make_pipeline(), spec, PARTITION)
    in_order(faults)
    sim.release()
    assert run(make_pipeline(), spec, PARTITION).complete


def codes(state: Progress, spec: JobSpec) -> dict[str, bool]:
    """The warnings of a night by code, and whether each is an alert."""
    return {found.code: found.alerts for found in warnings.of(state, spec.alerts)}


def test_a_long_wait_is_an_hour_and_is_told(
    sim: Simulator,
    make_pipeline: MakePipeline,
    faults: Faults,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(6))
    spec = job(source, limits={"max_requests_per_batch": 3})
    pipeline = make_pipeline(max_queued_requests=3)
    busy = {"kind": "error", "status": 429, "retry_after": "7200"}
    sim.hold()
    run(pipeline, spec, PARTITION, wait=False)
    # A poll.
    sim.set_faults(SimulatorFaults.of(retrieve={"script": [busy]}))
    run(pipeline, spec, PARTITION, wait=False)
    assert "asked for batches again in 1 h" in caplog.text
    state = progress_of(pipeline, spec)
    assert state.account.reads_wait_until == pytest.approx(state.at + 3_600, abs=30)
    assert codes(state, spec) == {"api_wait": False}
    asked = len(faults.calls)
    run(pipeline, spec, PARTITION, wait=False)
    assert [path for _, path in faults.calls[asked:] if "batches" in path] == []
    with pipeline.ledger.write() as connection:
        connection.execute(sa.update(tables.account).values(reads_wait_until=0.0))
    # A create.
    sim.set_faults(SimulatorFaults.of(create={"script": [busy]}))
    sim.release()
    state = run(pipeline, spec, PARTITION, wait=False)
    while not state.settled:
        state = run(pipeline, spec, PARTITION, wait=False)
    state = run(pipeline, spec, PARTITION, wait=False)
    assert state.account.wait_until == pytest.approx(state.at + 3_600, abs=30)
    found = night_state.of_progress(state, spec.alerts)
    assert "the API's queue is full, it is asked again at 20" in found.reason
    with pipeline.ledger.write() as connection:
        # A clock that was wrong, or an older ledger.
        connection.execute(sa.update(tables.organisation).values(wait_until=1e300))
    assert run(make_pipeline(), spec, PARTITION).complete


def test_a_key_of_another_workspace_is_told(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(5)))

    def naming(workspace: str) -> Callable[[Request, Response], Response]:
        def name(_: Request, response: Response) -> Response:
            response.headers["anthropic-workspace-id"] = workspace
            return response

        return name

    pipeline = make_pipeline()
    sim.hold()
    faults.on_response = naming("wrkspc_a")
    run(pipeline, spec, PARTITION, wait=False)
    assert codes(progress_of(pipeline, spec), spec) == {}
    faults.on_response = naming("wrkspc_b")
    run(make_pipeline(), spec, PARTITION, wait=False)
    state = progress_of(pipeline, spec)
    assert codes(state, spec) == {"other_workspace": True}
    [said] = warnings.of(state, spec.alerts)
    assert "wrkspc_a" in said.message
    faults.on_response = naming("wrkspc_a")
    sim.release()
    assert run(make_pipeline(), spec, PARTITION).complete


@pytest.mark.parametrize(
    ("batches", "missing", "code"),
    [(1, 1, "batch_missing"), (2, 1, "batch_missing"), (2, 2, "other_workspace")],
)
def test_batches_that_answer_404_for_hours_are_told(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path,
    batches: int, missing: int, code: str,
) -> None:  # fmt: skip
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(batches)), limits={"max_requests_per_batch": 1}
    )
    pipeline = make_pipeline()
    sim.hold()
    sim.set_faults(SimulatorFaults.of(list={"lag": {"calls": 1_000}}))
    run(pipeline, spec, PARTITION, wait=False)
    hidden = {s.batch_id for s in submissions_of(pipeline)[:missing]}

    def not_there(request: Request) -> Response | None:
        if request.url.path.rpartition("/")[2] in hidden:
            return Response(json.dumps(body("not_found_error", "no such batch")), 404)
        return None

    faults.on_request = not_there
    run(pipeline, spec, PARTITION, wait=False)
    assert codes(progress_of(pipeline, spec), spec) == {}
    for hours, alerts in ((0.5, False), (2, True)):
        with pipeline.ledger.write() as connection:
            since = ledger.now(connection) - 3_600 * hours
            had = tables.submission.c.missing_since.is_not(None)
            connection.execute(sa.update(tables.submission).where(had).values(missing_since=since))
        run(pipeline, spec, PARTITION, wait=False)
        assert codes(progress_of(pipeline, spec), spec) == {code: alerts}
    in_order(faults)
    sim.release()
    assert run(pipeline, spec, PARTITION).complete
    assert not accepted_twice(sim)
