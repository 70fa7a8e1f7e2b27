"""A whole night in real time: the same rows, ledger and report, through the Messages API."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.errors import AccountError, ApiError, GateClosedError
from batch_pipeline.flow import night_input, paths, steps
from batch_pipeline.flow.batches import cancel
from batch_pipeline.flow.costs import cost_report
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.realtime.call_failures import ERROR_TRIES
from batch_pipeline.flow.realtime.journal import read_lines
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.simulator import Faults as Declared
from batch_pipeline.simulator import MessageLimits, Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    Faults,
    by_id,
    dead_letters,
    documents,
    error,
    job,
    results,
    statuses,
    submissions_of,
    write_rows,
)

ITEMS = 60


def realtime(folder: Path, count: int = ITEMS, **changes: Any) -> JobSpec:
    """A job in real time whose shards hold twenty requests."""
    declared: dict[str, Any] = {
        "mode": "realtime",
        "limits": {"max_requests_per_batch": 20},
        "realtime": {"concurrency": 8, "checkpoint_every": 5},
    }
    source = write_rows(folder / "in.jsonl", documents(count))
    return job(source, **(declared | changes))


def is_message(request: Request) -> bool:
    return request.url.path == "/v1/messages"


def test_every_document_has_its_row_and_its_price(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    spec = realtime(tmp_path, pilot={"size": 5})
    state = run(pipeline, spec, PARTITION)
    assert state.complete
    rows = by_id(results(pipeline, spec))
    assert set(rows) == {document["id"] for document in documents(ITEMS)}
    assert statuses(rows.values()) == {"succeeded": ITEMS}
    assert {(row["mode"], row["batch_id"]) for row in rows.values()} == {("realtime", None)}
    assert (sim.books.batches_created, sim.books.billed_requests) == (0, ITEMS)
    assert sum(row["cost_usd"] for row in rows.values()) == sim.books.realtime_cost_usd
    assert state.total_cost_usd == sim.books.realtime_cost_usd
    made = submissions_of(pipeline)
    assert [s.requests for s in made] == [5, 20, 20, 15]
    for submission in made:
        assert submission.state is State.COLLECTED
        assert submission.progress is not None
        took = submission.progress["latency_ms"]
        assert took["calls"] == submission.requests
        assert 0 < took["p50"] <= took["p95"]
        assert submission.progress is not None
        assert submission.progress["answered"] == submission.requests
    written = cost_report.build_report(pipeline, spec, state.night)
    assert written.costs.realtime_usd == sim.books.realtime_cost_usd
    assert written.costs.savings_usd == 0


def test_the_messages_are_kept_as_they_came(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    spec = realtime(tmp_path, 10)
    run(pipeline, spec, PARTITION)
    [submission] = submissions_of(pipeline)
    folder = paths.raw_realtime(spec.name, PARTITION)
    lines = list(map(orjson.loads, read_lines(pipeline.files, folder, submission.token)))
    assert len(lines) == 10
    texts = {row["content"] for row in results(pipeline, spec)}
    assert {line["result"]["message"]["content"][0]["text"] for line in lines} == texts


@pytest.mark.parametrize(
    "passing",
    [
        [{"kind": "error", "status": 429, "retry_after": 0.1}, {"kind": "error", "status": 529}],
        [{"kind": "error", "status": 502, "html": True}, {"kind": "drop", "when": "before"}],
        [{"kind": "unreadable"}, {"kind": "slow", "chunk_bytes": 200, "pause": 0.01}],
    ],
    ids=["busy", "no answer", "odd answer"],
)
def test_what_passes_is_waited_out(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, passing: list[dict[str, Any]]
) -> None:
    # Fewer than a call can bear, so that it does not matter which calls meet them.
    assert len(passing) < ERROR_TRIES
    script = [{"kind": "normal", "times": 10}, *passing]
    sim.set_faults(Declared.of(messages={"script": script}))
    spec = realtime(tmp_path, 20)
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": 20}
    assert sum(sim.books.faults.values()) == len(passing)
    # Only an answer that was billed and could not be read is bought again.
    twice = sim.books.billed_requests - 20
    assert twice == sum(fault["kind"] == "unreadable" for fault in passing)
    assert {row["attempt"] for row in results(pipeline, spec)} == {1}


ODD_MESSAGES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda m: {**m, "usage": []}, "succeeded"),
    (lambda m: {**m, "usage": None}, "succeeded"),
    (lambda m: {**m, "usage": {**m["usage"], "input_tokens": "many"}}, "succeeded"),
    (lambda m: {**m, "usage": {**m["usage"], "output_tokens": -(2**40)}}, "succeeded"),
    (lambda m: {**m, "usage": {**m["usage"], "output_tokens": 2**63}}, "succeeded"),
    (lambda m: {**m, "model": {}}, "succeeded"),
    (lambda m: {**m, "content": [7, *m["content"]]}, "succeeded"),
    (lambda m: {**m, "content": [{"type": "text", "text": "half \ud800"}]}, "succeeded"),
    (lambda m: {**m, "content": 7}, "invalid_output"),
    (lambda m: {**m, "content": [{"type": "text", "text": None}]}, "invalid_output"),
    (lambda m: {**m, "stop_reason": 3}, "invalid_output"),
    (lambda m: {"ok": True}, "invalid_output"),
    (lambda m: None, "invalid_output"),
    (lambda m: [m], "invalid_output"),
]


def test_answers_of_unexpected_shape_are_bought_once_and_judged_like_lines(
    sim: Simulator, pipeline: Pipeline, faults: Faults, tmp_path: Path
) -> None:
    expected = [status for _, status in ODD_MESSAGES]
    left = iter([change for change, _ in ODD_MESSAGES])
    count = len(ODD_MESSAGES)

    def odd(request: Request, response: Response) -> Response:
        if is_message(request) and response.status_code == 200:
            data = next(left)(orjson.loads(bytes(response.body)))
            return Response(b"\xef\xbb\xbf" + json.dumps(data).encode())
        return response

    faults.on_response = odd
    spec = realtime(tmp_path, count, pilot={"size": 0}, alerts={"error_rate": 1})
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == Counter(expected)
    assert sim.books.billed_requests == count
    report = cost_report.write_report(pipeline, spec, state.night)
    billed = report.costs.realtime_usd
    assert billed < sim.books.realtime_cost_usd < billed + report.estimated_cost_usd
    for suffix in (".md", ".html"):
        page = pipeline.files.read(paths.report(spec.name, PARTITION, suffix))
        assert page is not None
        assert b"usable" in page


PAGES = [
    Response("<html>Log in</html>", 403, media_type="text/html"),
    Response("<html>Log in</html>", 200, media_type="text/html"),
    Response(status_code=302, headers={"location": "http://login.example/"}),
]


@pytest.mark.parametrize(
    ("page", "pilot"), [(PAGES[0], 0), (PAGES[1], 5), (PAGES[2], 0)], ids=["403", "200", "302"]
)
def test_a_gateway_that_answers_all_calls_stops_the_night_and_sets_no_document_aside(
    pipeline: Pipeline, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    page: Response, pilot: int,
) -> None:  # fmt: skip
    monkeypatch.setattr("batch_pipeline.flow.realtime.call_failures.FIRST_RETRY_SECONDS", 0.01)
    spec = realtime(tmp_path, pilot={"size": pilot})
    faults.on_request = lambda request: page if is_message(request) else None
    with pytest.raises(ApiError, match=f"a gateway.*HTTP {page.status_code}"):
        run(pipeline, spec, PARTITION)
    calls = sum(path == "/v1/messages" for _, path in faults.calls)
    assert calls <= 3 * (pilot or ITEMS)
    assert not results(pipeline, spec)
    assert not dead_letters(pipeline, spec)
    faults.on_request = lambda _: None
    assert run(pipeline, spec, PARTITION).statuses == {"succeeded": ITEMS}


def test_a_page_for_some_documents_alone_sets_these_aside(
    pipeline: Pipeline, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a firewall's that takes offence at a document: the API answers the others."""
    monkeypatch.setattr("batch_pipeline.flow.realtime.call_failures.FIRST_RETRY_SECONDS", 0.01)
    spec = realtime(tmp_path, alerts={"error_rate": 1, "dead_letter_rate": 1})
    blocked = {f"document number {n} about" for n in range(5)}

    def block(request: Request, response: Response) -> Response:
        body: bytes = getattr(request, "_body", b"")
        return PAGES[0] if any(text.encode() in body for text in blocked) else response

    faults.on_response = block
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": ITEMS - 5, "errored": 5}
    letters = dead_letters(pipeline, spec)
    assert {row["error_type"] for row in letters} == {"http_403"}
    assert "Log in" in letters[0]["error_message"]


def test_requests_that_fail_are_retried_in_rounds_and_then_set_aside(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch_pipeline.flow.realtime.call_failures.FIRST_RETRY_SECONDS", 0.01)
    spec = realtime(tmp_path, 30, alerts={"error_rate": 1}, retry={"max_attempts": 2})
    matching = [
        {"contains": "Text of document 3.", "outcome": "invalid_request_error", "ways": "both"},
        {"contains": "Text of document 5.", "outcome": "api_error", "ways": "both"},
    ]
    sim.set_faults(Declared.of(requests={"matching": matching}))
    texts = [{"id": str(n), "text": f"Text of document {n}."} for n in range(30)]
    write_rows(tmp_path / "in.jsonl", texts)
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": 28, "errored": 2}
    letters = by_id(dead_letters(pipeline, spec))
    assert {name: row["attempts"] for name, row in letters.items()} == {"3": 1, "5": 2}


def test_no_more_calls_are_under_way_than_declared(
    sim: Simulator, pipeline: Pipeline, faults: Faults, tmp_path: Path
) -> None:
    sim.set_latency(0.02)
    under_way, most = 0, 0

    def begin(request: Request) -> Response | None:
        nonlocal under_way, most
        if is_message(request):
            under_way += 1
            most = max(most, under_way)
        return None

    def end(request: Request, response: Response) -> Response:
        nonlocal under_way
        under_way -= is_message(request)
        return response

    faults.on_request, faults.on_response = begin, end
    assert run(pipeline, realtime(tmp_path), PARTITION).complete
    assert most == 8


def test_it_keeps_to_rate_limits_and_comes_to_its_end(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    # Fifty at once, and twenty a second from then on.
    sim.set_message_limits(MessageLimits(requests=1_200))
    for _ in range(1_150):
        sim._api.rates.of("default").admit(0)
    state = run(pipeline, realtime(tmp_path, 100), PARTITION)
    assert state.statuses == {"succeeded": 100}
    assert sim.books.rate_limited_messages <= 10


def test_a_request_larger_than_a_limit_is_set_aside_and_says_so(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch_pipeline.flow.realtime.call_failures.FIRST_RETRY_SECONDS", 0.01)
    sim.set_message_limits(MessageLimits(input_tokens=60_000))
    spec = realtime(tmp_path, 5, retry={"max_attempts": 1}, pilot={"size": 0})
    # Only just: the server says how long a bucket takes that would hold it.
    large = {"id": "large", "text": "word " * 48_400}
    write_rows(tmp_path / "in.jsonl", [*documents(5), large])
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": 5, "errored": 1}
    [letter] = dead_letters(pipeline, spec)
    assert (letter["id"], letter["error_type"]) == ("large", "rate_limit_error")
    assert "larger than the account's limit of 60,000 input tokens a minute" in str(letter)
    assert sim.books.rate_limited_messages == 3


def test_a_key_that_is_revoked_stops_the_night_and_loses_nothing(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    spec = realtime(tmp_path, realtime={"concurrency": 4, "checkpoint_every": 5})
    calls = 0

    def revoke(request: Request) -> Response | None:
        nonlocal calls
        calls += is_message(request)
        refused = is_message(request) and calls > 30
        return error(401, "authentication_error", "invalid x-api-key") if refused else None

    faults.on_request = revoke
    pipeline = make_pipeline()
    with pytest.raises(AccountError, match=r"is paused .*invalid x-api-key"):
        run(pipeline, spec, PARTITION)
    assert 30 < calls <= 30 + 4
    state = steps.progress(pipeline, steps.open_night(pipeline, spec, PARTITION))
    assert state.account.paused_reason is not None
    assert (state.settled, state.in_flight, state.waiting) == (30, 0, 30)
    assert len(results(pipeline, spec)) == 30

    faults.on_request = lambda _: None
    state = run(make_pipeline(), spec, PARTITION)
    assert state.statuses == {"succeeded": ITEMS}
    assert sim.books.billed_requests == ITEMS
    assert {row["attempt"] for row in results(pipeline, spec)} == {1}


def test_a_night_that_is_held_meanwhile_asks_nothing_more(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    sim.set_latency(0.1)
    spec = realtime(tmp_path, 200, limits={"max_requests_per_batch": 50})
    pipeline, other = make_pipeline(), make_pipeline()
    # Now: from within the simulator its own loop would have to answer.
    night = steps.open_night(other, spec, PARTITION)
    seen = 0

    def hold(request: Request) -> Response | None:
        nonlocal seen
        seen += is_message(request)
        if seen == 20 and is_message(request):
            cancel.hold(other, night)
        return None

    faults.on_request = hold
    state = run(pipeline, spec, PARTITION)
    assert not state.complete
    assert (state.in_flight, state.to_collect) == (0, 0)
    assert 20 <= state.settled == sim.books.billed_requests < 200
    assert len(results(pipeline, spec)) == state.settled

    state = run(pipeline, spec, PARTITION, resume=True)
    assert state.statuses == {"succeeded": 200}
    assert sim.books.billed_requests == 200


def test_a_held_night_closes_what_a_dead_process_left(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    spec = realtime(tmp_path, 20)
    dead, other = make_pipeline(), make_pipeline(lease_seconds=0.1)
    api = dead.api_of("simulator")
    api.open_messages = _breaking(api.open_messages, after=12)  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        run(dead, spec, PARTITION)
    [left] = submissions_of(other)
    assert left.state is State.CALLING
    cancel.hold(other, steps.open_night(other, spec, PARTITION))
    state = run(other, spec, PARTITION)
    assert (state.in_flight, state.to_collect) == (0, 0)
    assert 0 < state.settled < 20
    assert run(other, spec, PARTITION, resume=True).statuses == {"succeeded": 20}


def test_the_circuit_breaker_stops_calls_within_a_shard(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    sim.set_latency(0.05)
    spec = realtime(
        tmp_path,
        1_000,
        limits={"max_requests_per_batch": 1_000},
        alerts={"after_items": 20},
        realtime={"concurrency": 4, "checkpoint_every": 5},
    )
    chances = [{"probability": 0.5, "outcome": "invalid_request_error", "ways": "both"}]
    sim.set_faults(Declared.of(requests={"chances": chances}))
    with pytest.raises(GateClosedError, match="circuit breaker is open"):
        run(pipeline, spec, PARTITION)
    assert 20 <= sim.books.accepted_requests < 500
    state = steps.progress(pipeline, steps.open_night(pipeline, spec, PARTITION))
    assert state.settled == sim.books.accepted_requests


def test_two_processes_on_one_night_share_its_shards(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    sim.set_latency(0.01)
    spec = realtime(tmp_path, 120)
    first, second = make_pipeline(), make_pipeline()
    night = steps.open_night(first, spec, PARTITION)
    night_input.take_input(first, spec, night)
    ends: list[bool] = []
    workers = [
        threading.Thread(target=lambda one=one: ends.append(run(one, spec, PARTITION).complete))
        for one in (first, second)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert ends == [True, True]
    assert statuses(results(first, spec)) == {"succeeded": 120}
    assert sim.books.billed_more_than_once == []
    holders = Counter(submission.holder for submission in submissions_of(first))
    assert set(holders) == {first.holder, second.holder}


def test_a_home_elsewhere_gets_what_was_answered_up_to_each_checkpoint(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    ledger = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    pipeline = make_pipeline(home=f"memory://{tmp_path.name}", ledger_url=ledger)
    spec = realtime(tmp_path)
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": ITEMS}
    assert len(pipeline.files.list(paths.raw_realtime(spec.name, PARTITION), ".zst")) >= 3


def _breaking(honest: Any, after: int) -> Any:
    """Connections that end the process with a bug after so many calls."""
    calls = 0

    @asynccontextmanager
    async def open_messages(concurrency: int) -> Any:
        nonlocal calls

        class Broken:
            def __init__(self, messages: Any) -> None:
                self._messages = messages

            async def create(self, params: bytes, betas: Any) -> Any:
                nonlocal calls
                calls += 1
                return 1 / 0 if calls > after else await self._messages.create(params, betas)

        async with honest(concurrency) as messages:
            yield Broken(messages)

    return open_messages
