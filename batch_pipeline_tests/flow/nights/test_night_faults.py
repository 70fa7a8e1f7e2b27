"""A hostile API: lost answers, acceptance behind errors, broken downloads, failed requests."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from anthropic import Anthropic
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.errors import AccountError, ApiError
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.simulator import Faults as SimulatorFaults
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    MODEL,
    PARTITION,
    Dropped,
    Faults,
    accepted_twice,
    by_id,
    dead_letters,
    documents,
    error,
    is_create,
    job,
    once,
    results,
    statuses,
    submissions_of,
    write_rows,
)

Lines = Callable[[str, Iterator[bytes]], Iterator[bytes]]


def rewriting(errors: Callable[[int, dict[str, object]], dict[str, object] | None]) -> Lines:
    """Result streams in which `errors(n, line)` replaces the result of the n-th line of a batch."""

    def rewrite(_batch_id: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for number, line in enumerate(b"".join(chunks).splitlines()):
            data = json.loads(line)
            replaced = errors(number, data)
            if replaced is not None:
                data["result"] = replaced
            yield json.dumps(data).encode() + b"\n"

    return rewrite


def errored(kind: str) -> dict[str, object]:
    inner = {"type": kind, "message": "from a test"}
    return {"type": "errored", "error": {"type": "error", "error": inner, "request_id": "r"}}


# By what the line of a document says each time: its attempts, and its status in the end.
ALWAYS_FAILS = {
    "overloaded_error": (3, "errored"),
    "api_error": (3, "errored"),
    "expired": (3, "expired"),
    "canceled": (3, "canceled"),
    "unknown_error": (2, "errored"),
    "unknown_result": (2, "errored"),
    "invalid_request_error": (1, "errored"),
}


def test_a_result_that_always_fails_is_asked_for_a_bounded_number_of_times(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    rows = documents(40)
    failing = dict(zip((row["id"] for row in rows), ALWAYS_FAILS, strict=False))
    texts = {row["id"]: row["text"] for row in rows}
    sim.set_faults(
        SimulatorFaults.of(
            requests={"matching": [{"contains": texts[i], "outcome": failing[i]} for i in failing]}
        )
    )
    spec = job(write_rows(tmp_path / "in.jsonl", rows), alerts={"error_rate": 1})
    assert run(pipeline, spec, PARTITION).complete
    shown = by_id(results(pipeline, spec))
    letters = {letter["id"]: letter for letter in dead_letters(pipeline, spec)}
    assert set(letters) == set(failing)
    for row_id, outcome in failing.items():
        attempts, status = ALWAYS_FAILS[outcome]
        row, letter = shown[row_id], letters[row_id]
        assert (row["attempt"], row["status"]) == (attempts, status), outcome
        assert (letter["attempts"], letter["reason"]) == (attempts, status), outcome
        assert json.loads(letter["input"])["id"] == row_id
    # What else is in a batch is answered the first time.
    assert statuses(shown.values())["succeeded"] == 33
    assert sorted(accepted_twice(sim).values()) == [2, 2, 3, 3, 3, 3]


def test_a_passing_fault_is_asked_again_and_answered(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    seen: Counter[str] = Counter()

    def first_time(_: int, line: dict[str, object]) -> dict[str, object] | None:
        token = str(line["custom_id"]).rsplit("_", 1)[0]
        seen[token] += 1
        return errored("overloaded_error") if len(seen) == 1 and seen[token] <= 4 else None

    faults.on_results = rewriting(first_time)
    spec = job(write_rows(tmp_path / "in.jsonl", documents(10)), retry={"max_attempts": 2})
    pipeline = make_pipeline()
    state = run(pipeline, spec, PARTITION)
    rows = results(pipeline, spec)
    assert statuses(rows) == state.statuses == {"succeeded": 10}
    assert sorted(row["attempt"] for row in rows) == [1] * 6 + [2] * 4
    assert [s.requests for s in submissions_of(pipeline)] == [10, 4]
    assert dead_letters(pipeline, spec) == []


def drop(status: int) -> Callable[[Request, Response], Response | None]:
    """A create that was taken in, and whose answer does not arrive."""

    def replace(request: Request, response: Response) -> Response | None:
        if not is_create(request) or response.status_code != 200:
            return None
        return Dropped() if status == 0 else error(status, "api_error")

    return replace


@pytest.mark.parametrize("status", [0, 529])
def test_a_batch_behind_a_lost_answer_is_adopted(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path, status: int
) -> None:
    faults.on_response = once(drop(status))
    pipeline = make_pipeline(reconcile_seconds=30)
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(15)), limits={"max_requests_per_batch": 5}
    )
    state = run(pipeline, spec, PARTITION)
    assert state.complete
    assert statuses(results(pipeline, spec)) == {"succeeded": 15}
    assert sim.books.batches_created == 3
    assert not accepted_twice(sim)
    assert {s.state for s in submissions_of(pipeline)} == {State.COLLECTED}


def test_a_lost_answer_of_a_running_batch_holds_its_room_until_it_ends(
    sim: Simulator,
    make_pipeline: MakePipeline,
    faults: Faults,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    sim.hold()
    faults.on_response = once(drop(500))
    pipeline = make_pipeline(reconcile_seconds=0.05, max_queued_requests=5)
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(10)), limits={"max_requests_per_batch": 5}
    )
    for _ in range(5):
        state = run(
            make_pipeline(reconcile_seconds=0.05, max_queued_requests=5),
            spec,
            PARTITION,
            wait=False,
        )
        assert (state.in_flight, state.unknown, state.waiting) == (5, 5, 5)
    assert sim.books.batches_created == 1
    assert not [path for _, path in faults.calls if path.endswith("/cancel")]
    sim.release()
    assert run(pipeline, spec, PARTITION).complete
    assert not accepted_twice(sim)
    assert sim.books.highest_queue == 5
    assert "was never made" not in caplog.text


def first_create_fails() -> Callable[[Request], Response | None]:
    """The API fails at the first create, which comes to nothing, and at no other."""
    creates = itertools.count()

    def fail(request: Request) -> Response | None:
        first = is_create(request) and next(creates) == 0
        return error(500, "api_error") if first else None

    return fail


def test_a_create_that_was_never_made_goes_again(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    faults.on_request = first_create_fails()
    pipeline = make_pipeline(reconcile_seconds=0.2)
    spec = job(write_rows(tmp_path / "in.jsonl", documents(5)))
    assert run(pipeline, spec, PARTITION).complete
    assert [s.state for s in submissions_of(pipeline)] == [State.ABSENT, State.COLLECTED]
    assert not accepted_twice(sim)


def test_foreign_batches_of_the_same_size_are_left_alone(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    """Another tenant makes batches of our size while an answer of ours is lost."""
    with Anthropic(api_key="other", base_url=sim.url) as other:

        def foreign() -> str:
            params = {
                "model": MODEL,
                "max_tokens": 50,
                "messages": [{"role": "user", "content": "not yours"}],
            }
            requests = [{"custom_id": f"req_{n}", "params": params} for n in range(5)]
            return other.messages.batches.create(requests=requests).id  # type: ignore[arg-type]

        theirs = [foreign()]
        faults.on_request = first_create_fails()
        pipeline = make_pipeline(reconcile_seconds=0.3)
        spec = job(write_rows(tmp_path / "in.jsonl", documents(5)))
        run(pipeline, spec, PARTITION, wait=False)
        sim.hold()
        theirs.append(foreign())  # this one still runs: it might be ours, so it is waited for
        state = run(pipeline, spec, PARTITION, wait=False)
        assert state.unknown == 5
        sim.release()
        assert run(pipeline, spec, PARTITION).complete
        assert statuses(results(pipeline, spec)) == {"succeeded": 5}
        assert not set(theirs) & {s.batch_id for s in submissions_of(pipeline)}
        assert not [path for _, path in faults.calls if path.endswith("/cancel")]
        assert not [method for method, _ in faults.calls if method == "DELETE"]
        raw = pipeline.files.list(f"{spec.name}/raw/partition={PARTITION}", "")
        assert len(raw) == 1


def test_a_download_that_is_cut_off_is_repeated(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    """At a line's end, where nothing on the wire tells; in mid-line; and before the first byte."""
    downloads: Counter[str] = Counter()

    def cut(batch_id: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
        downloads[batch_id] += 1
        lines = b"".join(chunks).splitlines(keepends=True)
        whole = b"".join(lines)
        parts = {1: b"".join(lines[:-1]), 2: whole[:-20], 3: b""}
        yield parts.get(downloads[batch_id], whole)

    faults.on_results = cut
    pipeline = make_pipeline()
    spec = job(write_rows(tmp_path / "in.jsonl", documents(8)))
    state = run(pipeline, spec, PARTITION)
    assert set(downloads.values()) == {4}
    assert statuses(results(pipeline, spec)) == state.statuses == {"succeeded": 8}
    assert sim.books.accepted_requests == 8


def test_repeated_and_foreign_result_lines_do_not_count(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    def disturb(_batch_id: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
        data = b"".join(chunks)
        first = data.split(b"\n", 1)[0]
        other = first.replace(b'"custom_id":"', b'"custom_id":"x')
        yield data + first + b"\n" + other + b"\n"

    faults.on_results = disturb
    pipeline = make_pipeline()
    spec = job(write_rows(tmp_path / "in.jsonl", documents(4)))
    state = run(pipeline, spec, PARTITION)
    assert len(by_id(results(pipeline, spec))) == 4
    assert state.total_cost_usd == sim.books.batch_cost_usd


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, "authentication_error", "bad key"),
        (403, "permission_error", "not yours"),
    ],
)
def test_submission_rests_where_only_a_person_can_help(
    sim: Simulator,
    make_pipeline: MakePipeline,
    faults: Faults,
    tmp_path: Path,
    status: int,
    kind: str,
    message: str,
) -> None:
    sim.set_turnaround(0.2)
    creates = 0

    def refuse(request: Request) -> Response | None:
        nonlocal creates
        creates += is_create(request)
        return error(status, kind, message) if is_create(request) and creates > 1 else None

    faults.on_request = refuse
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(9)), limits={"max_requests_per_batch": 3}
    )
    pipeline = make_pipeline()
    with pytest.raises(AccountError, match=message):
        run(pipeline, spec, PARTITION)
    assert creates == 2
    # What was at the API by then has been fetched.
    assert len(results(pipeline, spec)) == 3
    faults.on_request = lambda _: None
    assert run(make_pipeline(), spec, PARTITION).statuses == {"succeeded": 9}
    assert not accepted_twice(sim)


def test_a_body_that_is_refused_in_every_part_waits_for_a_person_who_runs_the_night(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    creates = 0

    def refuse(request: Request) -> Response | None:
        nonlocal creates
        creates += is_create(request)
        return error(400, "invalid_request_error", "no such thing") if is_create(request) else None

    faults.on_request = refuse
    spec = job(write_rows(tmp_path / "in.jsonl", documents(9)))
    with pytest.raises(ApiError, match="no such thing"):
        run(make_pipeline(), spec, PARTITION)
    assert creates == 6
    faults.on_request = lambda _: None
    assert run(make_pipeline(), spec, PARTITION).complete
    assert not accepted_twice(sim)


def test_faults_of_polls_are_waited_out(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    pipeline = make_pipeline()
    spec = job(write_rows(tmp_path / "in.jsonl", documents(5)))
    sim.hold()
    run(pipeline, spec, PARTITION, wait=False)
    gone = 3

    def not_there(request: Request) -> Response | None:
        nonlocal gone
        if request.method == "GET" and gone:
            gone -= 1
            return error(404, "not_found_error")  # a fresh or just ended batch, at times
        return None

    faults.on_request = not_there
    sim.release()
    assert run(pipeline, spec, PARTITION).complete
    assert gone == 0
    assert sim.books.accepted_requests == 5


@pytest.mark.parametrize(("refusals", "ends"), [(2, False), (3, True)])
def test_a_key_that_is_revoked_half_way_is_a_matter_for_a_person(
    sim: Simulator,
    make_pipeline: MakePipeline,
    faults: Faults,
    tmp_path: Path,
    refusals: int,
    ends: bool,
) -> None:
    pipeline = make_pipeline()
    spec = job(write_rows(tmp_path / "in.jsonl", documents(5)))
    sim.hold()
    run(pipeline, spec, PARTITION, wait=False)
    left = refusals

    def refuse(_: Request) -> Response | None:
        nonlocal left
        left -= 1
        return error(401, "authentication_error", "revoked") if left >= 0 else None

    faults.on_request = refuse
    sim.release()
    if ends:
        with pytest.raises(AccountError, match=r"refuses the key .*\(ANTHROPIC_API_KEY"):
            run(pipeline, spec, PARTITION)
    assert run(pipeline, spec, PARTITION).statuses == {"succeeded": 5}
    assert not accepted_twice(sim)


def test_a_billing_error_within_a_batch_pauses_the_account_and_sets_nothing_aside(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(20)))
    unpaid = {"contains": "ocument", "outcome": "billing_error", "attempts": 1}
    sim.set_faults(SimulatorFaults.of(requests={"matching": [unpaid]}))
    with pytest.raises(AccountError, match="billing_error"):
        run(make_pipeline(), spec, PARTITION)
    assert results(make_pipeline(), spec) == []
    state = run(make_pipeline(), spec, PARTITION)
    assert (state.complete, state.statuses) == (True, {"succeeded": 20})


def test_a_snapshot_that_is_gone_is_no_trouble_of_the_api(
    sim: Simulator, make_pipeline: MakePipeline, home: Path, tmp_path: Path
) -> None:
    """The SDK would report it as a connection that failed, and the shard would wait for ever."""
    source = write_rows(tmp_path / "in.jsonl", documents(4))
    spec = job(source, pilot={"size": 0}, limits={"max_requests_per_batch": 2})
    run(make_pipeline(max_queued_requests=2), spec, PARTITION, wait=False)
    assert sim.books.accepted_requests == 2
    for part in (home / spec.name / "snapshots").rglob("part-*.parquet"):
        part.unlink()
    with pytest.raises(FileNotFoundError, match="snapshots"):
        run(make_pipeline(), spec, PARTITION)
    assert sim.books.accepted_requests == 2
