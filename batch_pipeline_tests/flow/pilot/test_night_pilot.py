"""The pilot in a whole night: it goes first, gates the rest, and is not bought again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.api.messages import AnthropicMessages
from batch_pipeline.api.protocol import Answer
from batch_pipeline.errors import AccountError, GateClosedError
from batch_pipeline.flow import night_input, steps
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.admission.admission import Waiting
from batch_pipeline.ledger.nights import Night
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    Faults,
    accepted_twice,
    documents,
    error,
    job,
    results,
    statuses,
    submissions_of,
    write_rows,
)

TINY = {"max_tokens": 1}


def verdict(pipeline: Pipeline) -> dict[str, Any]:
    with pipeline.ledger.read() as connection:
        [night] = nights.list_nights(connection)
    assert night.pilot is not None
    return night.pilot


@pytest.mark.parametrize("via", ["realtime", "batch"])
def test_the_pilot_goes_first_and_its_answers_are_kept(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, via: str
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(60)), pilot={"size": 100, "via": via})
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": 60}
    assert not accepted_twice(sim)
    assert [(s.engine, s.requests) for s in submissions_of(pipeline)] == [(via, 6), ("batch", 54)]
    assert verdict(pipeline)["open"]
    assert (verdict(pipeline)["sample"], verdict(pipeline)["judged"]) == (6, 6)
    modes = [row["mode"] for row in results(pipeline, spec)]
    assert modes.count("realtime") == (6 if via == "realtime" else 0)
    assert verdict(pipeline)["projected_usd"] > 0


def test_a_closed_gate_sends_nothing_else(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(60))
    spec = job(source, pilot={"size": 100}, **TINY)
    with pytest.raises(GateClosedError, match="cut off") as caught:
        run(make_pipeline(), spec, PARTITION)
    assert any(f"{d['id']}: " in str(caught.value) for d in documents(60))
    assert sim.books.accepted_requests == 6
    assert sim.books.batches_created == 0

    with pytest.raises(GateClosedError):  # the same again: the verdict stands, nothing is tried
        run(make_pipeline(), spec, PARTITION)
    assert sim.books.accepted_requests == 6

    state = run(make_pipeline(), job(source, pilot={"size": 100}), PARTITION)
    assert state.statuses == {"succeeded": 60}
    assert sim.books.accepted_requests == 66


def test_without_waiting_a_closed_gate_is_an_error_at_once(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """Also while a batch is at the API; what has ended is collected before."""
    sim.hold()
    limits = {"max_requests_per_batch": 10}
    source = write_rows(tmp_path / "in.jsonl", documents(60))
    spec = job(source, pilot={"size": 4}, limits=limits)
    pipeline = make_pipeline(max_queued_requests=20)
    night = run(pipeline, spec, PARTITION, wait=False).night
    with pipeline.ledger.write() as connection:
        closed = {**verdict(pipeline), "open": False, "error_rate": 1.0}
        nights.update_night(connection, night.id, pilot=closed)
    with pytest.raises(GateClosedError, match="the pilot's gate is closed: error rate 100"):
        run(pipeline, spec, PARTITION, wait=False)
    assert len(results(pipeline, spec)) == 4
    sim.release()
    with pytest.raises(GateClosedError):
        run(pipeline, spec, PARTITION, wait=False)
    assert sim.books.accepted_requests == 24


def test_answers_that_break_the_schema_close_the_gate(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(40))
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    broken = make_pipeline()
    honest = AnthropicMessages.create

    async def create(self: AnthropicMessages, params: bytes, betas: Any) -> Answer:
        answer = await honest(self, params, betas)
        message = {**answer.message, "content": [{"type": "text", "text": '{"n": "three"}'}]}
        return replace(answer, message=message, raw=orjson.dumps(message))

    spec = job(source, output_schema=schema, pilot={"size": 4})
    with monkeypatch.context() as patched:
        patched.setattr(AnthropicMessages, "create", create)
        with pytest.raises(GateClosedError, match="error rate 100") as caught:
            run(broken, spec, PARTITION)
    assert "schema at n" in str(caught.value)
    assert sim.books.batches_created == 0
    assert verdict(broken)["examples"]

    # With other input the same declaration gets another chance, and good answers are kept.
    write_rows(source, documents(41))
    state = run(make_pipeline(), spec, PARTITION)
    assert state.complete
    assert statuses(results(broken, spec)) == {"succeeded": 37, "invalid_output": 4}
    assert not accepted_twice(sim)


@pytest.mark.parametrize("via", ["realtime", "batch"])
def test_a_night_that_is_projected_to_cost_too_much_is_not_sent(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path, via: str
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(60))
    tight = job(source, pilot={"size": 100, "via": via, "max_projected_usd": 0.0001})
    with pytest.raises(GateClosedError, match=r"projected to cost \$.* to \$.* over pilot\.max_p"):
        run(make_pipeline(), tight, PARTITION)
    measured = verdict(make_pipeline())
    assert sim.books.accepted_requests == 6
    assert (
        measured["projected_low_usd"] < measured["projected_usd"] < measured["projected_high_usd"]
    )
    assert (measured["turnaround_seconds"] is None) == (via == "realtime")

    generous = job(source, pilot={"size": 100, "via": via, "max_projected_usd": 5})
    state = run(make_pipeline(), generous, PARTITION)
    assert state.statuses == {"succeeded": 60}
    assert not accepted_twice(sim)
    within = measured["projected_low_usd"], measured["projected_high_usd"]
    assert within[0] <= float(state.total_cost_usd) <= within[1]


def piloted(pipeline: Pipeline, spec: JobSpec) -> Night:
    """A night whose pilot is judged, and of which nothing else is sent."""
    night = steps.open_night(pipeline, spec, PARTITION)
    night_input.take_input(pipeline, spec, night)
    assert not isinstance(steps.run_pilot(pipeline, spec, night), Waiting)
    return pipeline.refreshed(night)


def test_a_pilot_sample_is_the_same_for_the_same_seed(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(50))
    tried = []
    for seed, home in ((0, "x"), (0, "y"), (1, "z")):
        pipeline = make_pipeline(home=tmp_path / home)
        spec = job(source, pilot={"size": 5, "seed": seed})
        piloted(pipeline, spec)
        steps.collect_ended(pipeline, spec, steps.open_night(pipeline, spec, PARTITION))
        tried.append({row["id"] for row in results(pipeline, spec)})
    assert tried[0] == tried[1] != tried[2]
    assert [len(ids) for ids in tried] == [5, 5, 5]


@pytest.mark.parametrize(("documents_", "sample"), [(9, 0), (10, 1)])
def test_at_most_a_tenth_of_the_night_is_tried(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, documents_: int, sample: int
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(documents_))
    piloted(pipeline, job(source, pilot={"size": 100}))
    assert verdict(pipeline)["sample"] == sample


def test_a_busy_api_is_waited_out(
    sim: Simulator, pipeline: Pipeline, faults: Faults, tmp_path: Path
) -> None:
    refused: dict[str, int] = {"429": 3, "529": 2}

    def busy(request: Request) -> Response | None:
        if request.url.path != "/v1/messages":
            return None
        for status, left in refused.items():
            if left:
                refused[status] -= 1
                answer = error(
                    int(status), "rate_limit_error" if status == "429" else "overloaded_error"
                )
                answer.headers["retry-after"] = "0"
                return answer
        return None

    faults.on_request = busy
    spec = job(write_rows(tmp_path / "in.jsonl", documents(40)), pilot={"size": 4})
    assert run(pipeline, spec, PARTITION).statuses == {"succeeded": 40}
    assert sum(refused.values()) == 0
    assert {row["attempt"] for row in results(pipeline, spec)} == {1}
    assert not accepted_twice(sim)


def test_a_pilot_that_meets_a_billing_error_stops_the_run_and_goes_on_later(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    calls = 0

    def unpaid(request: Request) -> Response | None:
        nonlocal calls
        calls += request.url.path == "/v1/messages"
        late = calls > 3 and request.url.path == "/v1/messages"
        return error(402, "billing_error", "pay first") if late else None

    faults.on_request = unpaid
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(80)),
        pilot={"size": 8},
        realtime={},
    )
    with pytest.raises(AccountError, match="pay first"):
        run(make_pipeline(lease_seconds=0.2), spec, PARTITION)
    assert sim.books.accepted_requests == 3
    faults.on_request = lambda _: None
    assert run(make_pipeline(lease_seconds=0.2), spec, PARTITION).statuses == {"succeeded": 80}
    # What was in the journal was not asked again.
    assert not accepted_twice(sim)
    assert sim.books.accepted_requests == 80


def test_a_night_waits_for_a_pilot_that_goes_as_a_batch(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    sim.hold()
    source = write_rows(tmp_path / "in.jsonl", documents(40))
    spec = job(source, pilot={"size": 4, "via": "batch"})
    state = run(make_pipeline(), spec, PARTITION, wait=False)
    assert (state.in_flight, state.waiting) == (4, 36)
    state = run(make_pipeline(), spec, PARTITION, wait=False)
    assert (state.in_flight, state.waiting) == (4, 36)
    assert sim.books.accepted_requests == 4
    sim.release()
    assert run(make_pipeline(), spec, PARTITION).complete
    assert not accepted_twice(sim)


def test_a_pilot_that_the_api_did_not_work_on_is_drawn_again(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    """Expired requests say nothing about prompt or data: no verdict is made of them."""
    first: list[str] = []

    def expire(batch_id: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
        first.append(batch_id)
        if batch_id != first[0]:
            yield from chunks
            return
        for line in b"".join(chunks).splitlines():
            name = line[: line.index(b'",')]
            yield name + b'","result":{"type":"expired"}}\n'

    faults.on_results = expire
    spec = job(write_rows(tmp_path / "in.jsonl", documents(40)), pilot={"size": 4, "via": "batch"})
    state = run(make_pipeline(), spec, PARTITION)
    assert state.statuses == {"succeeded": 40}
    assert faults.calls.count(("POST", "/v1/messages/batches")) == 3


def test_a_closed_gate_opens_when_its_limits_are_raised(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(40))
    with pytest.raises(GateClosedError):
        run(make_pipeline(), job(source, pilot={"size": 4}, **TINY), PARTITION)
    spec = job(source, pilot={"size": 4, "max_truncated_rate": 1}, **TINY)
    state = run(make_pipeline(), spec, PARTITION)
    assert (state.complete, state.settled) == (True, 40)
    assert state.statuses["truncated"] > 20
    assert sim.books.accepted_requests == 40  # nothing was tried again
    assert verdict(make_pipeline())["truncated_rate"] > 0.02
