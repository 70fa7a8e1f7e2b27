"""Creates that are refused for one row or for their size: that row is set aside, the rest goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline import errors
from batch_pipeline.flow.batches import refused_shards
from batch_pipeline.flow.batches.refused_shards import row_named, split_rows
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.submissions import refusals
from batch_pipeline.ledger.submissions.refusals import SYSTEMATIC
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    accepted_twice,
    by_id,
    dead_letters,
    documents,
    error,
    is_create,
    job,
    results,
    statuses,
    submissions_of,
    write_rows,
)
from batch_pipeline_tests.support import Faults as Hooks

CREDIT = "Your credit balance is too low to access the Anthropic API."
BAD = "an unusable text"
TOKEN = "abcdefghijklmnop"


def with_bad(tmp_path: Path, count: int, bad: Sequence[int], **changes: Any) -> JobSpec:
    rows = documents(count)
    for number in bad:
        rows[number]["text"] += f" {BAD}"
    return job(write_rows(tmp_path / "in.jsonl", rows), **changes)


def refusing(**rule: Any) -> Faults:
    return Faults.of(refused_bodies=[{"contains": BAD, **rule}])


def set_aside(rows: Sequence[dict[str, Any]]) -> set[int]:
    """The numbers of the documents that did not succeed, each of which has one row."""
    return {
        int(row_id.split(" ")[1].split("/")[0])
        for row_id, row in by_id(rows).items()
        if row["status"] != "succeeded"
    }


def refused(pipeline: Pipeline) -> int:
    """Creates that were refused."""
    return sum(s.state is State.REFUSED for s in submissions_of(pipeline))


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        ([2, 3, 9], {"names_row": True}),
        ([0, 9], {}),
        ([11], {"status": 413}),
    ],
)
def test_rows_that_a_batch_is_refused_for_are_found_and_set_aside(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, bad: list[int], rule: dict[str, Any]
) -> None:
    spec = with_bad(tmp_path, 12, bad)
    sim.set_faults(refusing(**rule))
    state = run(pipeline, spec, PARTITION)
    assert state.complete
    assert set_aside(results(pipeline, spec)) == set(bad)
    letters = dead_letters(pipeline, spec)
    assert len(letters) == len(bad)
    kind = "request_too_large" if rule.get("status") == 413 else "invalid_request_error"
    for letter in letters:
        assert (letter["reason"], letter["error_type"]) == ("errored", kind)
        assert "this text cannot be used" in letter["error_message"]
    assert not accepted_twice(sim)
    # What stands for a refused row is no batch.
    assert state.batches == sim.books.batches_created


def test_credit_that_runs_out_during_the_search_pauses_and_one_run_goes_on_with_it(
    sim: Simulator, pipeline: Pipeline, faults: Hooks, tmp_path: Path
) -> None:
    spec = with_bad(tmp_path, 12, [0, 5, 11])
    sim.set_faults(refusing())
    creates = 0

    def run_out(request: Request) -> Response | None:
        nonlocal creates
        creates += is_create(request)
        return error(400, "invalid_request_error", CREDIT) if creates > 1 else None

    faults.on_request = run_out
    with pytest.raises(errors.AccountPausedError):
        run(pipeline, spec, PARTITION)
    assert creates == 2
    faults.on_request = lambda _: None
    # The first part that tries the account is refused for a row too, which tells nothing of it.
    assert run(pipeline, spec, PARTITION).complete
    assert set_aside(results(pipeline, spec)) == {0, 5, 11}
    assert not accepted_twice(sim)


def test_all_items_that_ask_for_the_same_are_set_aside_with_it(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    rows = documents(4)
    rows[1]["text"] = rows[3]["text"] = BAD
    spec = job(write_rows(tmp_path / "in.jsonl", rows))
    sim.set_faults(refusing(names_row=True))
    assert run(pipeline, spec, PARTITION).complete
    assert set_aside(results(pipeline, spec)) == {1, 3}
    assert len(dead_letters(pipeline, spec)) == 2


@pytest.mark.parametrize("names_row", [True, False])
def test_a_fault_of_all_rows_stops_the_night_after_six_parts(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, names_row: bool
) -> None:
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(100)), limits={"max_requests_per_batch": 50}
    )
    sim.set_faults(Faults.of(refused_bodies=[{"contains": "document", "names_row": names_row}]))
    with pytest.raises(errors.ApiError, match="the first 6 parts of a batch were all refused"):
        run(pipeline, spec, PARTITION)
    assert refused(pipeline) == SYSTEMATIC
    # Of the rows that were named only the first is believed: another one came in its place.
    found = len(dead_letters(pipeline, spec))
    assert found == names_row
    # Once the cause is gone the next run buys everything else, once.
    sim.set_faults(Faults())
    assert run(pipeline, spec, PARTITION).complete
    assert statuses(results(pipeline, spec))["succeeded"] == 100 - found
    assert not accepted_twice(sim)


def test_the_search_for_rows_ends_and_keeps_what_it_found(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = SYSTEMATIC + 2
    monkeypatch.setattr(refusals, "MOST_CREATES", most)
    bad = list(range(3, 23, 2))
    spec = with_bad(tmp_path, 23, bad)
    sim.set_faults(refusing(names_row=True))
    with pytest.raises(errors.ApiError, match=f"{most} creates were refused"):
        run(pipeline, spec, PARTITION)
    assert refused(pipeline) == most
    assert set_aside(results(pipeline, spec)) == set(bad[:most])
    assert len(dead_letters(pipeline, spec)) == most
    # A person who runs the night again has the rest looked for.
    assert run(pipeline, spec, PARTITION).complete
    assert set_aside(results(pipeline, spec)) == set(bad)
    assert not accepted_twice(sim)


@pytest.mark.parametrize("named", ["requests[3]: cannot be used", "requests.99: no"])
def test_a_position_that_does_not_help_costs_one_row_at_most(
    sim: Simulator, faults: Hooks, pipeline: Pipeline, tmp_path: Path, named: str
) -> None:
    spec = with_bad(tmp_path, 16, [9])
    sim.set_faults(refusing())

    def lie(request: Request, response: Response) -> Response:
        if is_create(request) and response.status_code == 400:
            return error(400, "invalid_request_error", named)
        return response

    faults.on_response = lie
    assert run(pipeline, spec, PARTITION).complete
    assert 9 in set_aside(results(pipeline, spec))
    assert len(dead_letters(pipeline, spec)) <= 2
    assert not accepted_twice(sim)


def test_a_body_that_is_too_large_is_cut_until_it_fits(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    count = 48
    spec = job(write_rows(tmp_path / "in.jsonl", documents(count)))
    sim.set_faults(Faults.of(refused_bodies=[{"above_bytes": 260 * count // 12, "status": 413}]))
    assert run(pipeline, spec, PARTITION).complete
    assert statuses(results(pipeline, spec)) == {"succeeded": count}
    assert refused(pipeline) <= SYSTEMATIC
    assert not accepted_twice(sim)


@pytest.mark.parametrize(
    ("status", "kind", "message", "said"),
    [
        (400, "invalid_request_error", "Unexpected value(s) `x` for the `anthropic-beta` header",
         "as a whole"),
        (403, "permission_error", "requests.3.params.model: not for you", "paused"),
    ],
)  # fmt: skip
def test_what_concerns_every_batch_is_no_row(
    sim: Simulator, faults: Hooks, pipeline: Pipeline, tmp_path: Path,
    status: int, kind: str, message: str, said: str,
) -> None:  # fmt: skip
    spec = job(write_rows(tmp_path / "in.jsonl", documents(6)))
    faults.on_request = lambda r: error(status, kind, message) if is_create(r) else None
    with pytest.raises(errors.BatchPipelineError, match=said):
        run(pipeline, spec, PARTITION)
    assert refused(pipeline) == 1
    assert not dead_letters(pipeline, spec)
    faults.on_request = lambda _: None
    assert run(pipeline, spec, PARTITION).complete
    assert statuses(results(pipeline, spec)) == {"succeeded": 6}
    assert sim.books.batches_created == 1


def test_a_refused_row_of_a_pilot_is_set_aside_and_judged(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    spec = with_bad(
        tmp_path, 40, range(40),
        pilot={"size": 4, "via": "batch", "max_error_rate": 0.9},
    )  # fmt: skip
    sim.set_faults(refusing())
    with pytest.raises(errors.BatchPipelineError, match=r"closed|all refused"):
        run(pipeline, spec, PARTITION)
    assert refused(pipeline) <= SYSTEMATIC + 1
    assert sim.books.batches_created == 0


def test_a_killed_process_leaves_a_refused_shard_that_the_next_one_splits(
    sim: Simulator,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    spec = with_bad(tmp_path, 8, [5])
    sim.set_faults(refusing(names_row=True))
    split = refused_shards._split
    monkeypatch.setattr(refused_shards, "_split", die)
    with pytest.raises(Killed):
        run(make_pipeline(), spec, PARTITION)
    monkeypatch.setattr(refused_shards, "_split", split)
    pipeline = make_pipeline()
    assert run(pipeline, spec, PARTITION).complete
    assert set_aside(results(pipeline, spec)) == {5}
    assert refused(pipeline) == 1
    assert not accepted_twice(sim)


@pytest.mark.parametrize(
    ("message", "row"),
    [
        ("requests.17.params.messages.0.content: must not be empty", 17),
        ("requests[17].params: no", 17),
        ("requests['17']: no", 17),
        ("body.requests.17.custom_id: no", 17),
        ("body -> requests -> 17 -> params: no", 17),
        ("/requests/17/params: no", 17),
        ("requests.17.params.max_tokens: no; requests.23.params.max_tokens: no", 17),
        (f"the request with custom_id {TOKEN}_17 is invalid", 17),
        # A message may quote a document.
        ('messages.0.content: "see requests.17" is no text', None),
        ("requests: List should have at most 100000 items", None),
        ("messages.17.content: no", None),
        ("", None),
    ],
)
def test_the_row_that_a_message_names(message: str, row: int | None) -> None:
    assert row_named(message, TOKEN) == row


@pytest.mark.parametrize("sizes", [[1, 1], [1_000, 1, 1], [1, 1, 1_000], [5] * 9])
def test_halves_are_of_about_the_same_size_and_never_empty(sizes: list[int]) -> None:
    manifest = pa.table({"request_bytes": sizes, "n": range(len(sizes))})
    first, second = split_rows(manifest, None)
    assert first.num_rows
    assert second.num_rows
    both = pa.concat_tables([first, second])
    assert both.column("n").to_pylist() == list(range(len(sizes)))
    assert orjson.dumps(split_rows(manifest, 0)[0].column("n").to_pylist()) == b"[0]"
