"""Variants: answers that were cut off, asked once more with a larger `max_tokens`."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from batch_pipeline.errors import GateClosedError
from batch_pipeline.flow.answers.outcomes import Action, Outcome, Status, settle, with_more_room
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import manifests, variants
from batch_pipeline.flow.planning.variants import Variant, Ways
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import RetrySpec
from batch_pipeline.ledger import shards
from batch_pipeline.pricing.documents import MAX_REQUEST_BYTES
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    accepted_twice,
    dead_letters,
    documents,
    job,
    results,
    statuses,
    submissions_of,
    write_rows,
)

# JSON that meets this is longer than two tokens and shorter than 4,000.
SCHEMA = {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}
SHORT: dict[str, Any] = {"max_tokens": 1, "output_schema": SCHEMA}
HEALED: dict[str, Any] = {**SHORT, "retry": {"truncated_max_tokens": 4_000}}
CUT_OFF = Outcome(Status.TRUNCATED, Action.SET_ASIDE, "max_tokens", "cut off")


def room(
    larger: int | None, max_tokens: int = 500, limit: int = 256_000_000
) -> tuple[Ways, Variant | None, int]:
    """The ways of a job with more room, that variant, and the most bytes of a request."""
    declaration = Declaration.of(
        job("in.jsonl", max_tokens=max_tokens, limits={"max_bytes_per_batch": limit})
    )
    ways = Ways(RetrySpec(truncated_max_tokens=larger), declaration)
    return (
        ways,
        next(iter(ways.definitions()), None),
        min(declaration.max_request_bytes, MAX_REQUEST_BYTES),
    )


@pytest.mark.parametrize(
    ("outcome", "final"),
    [
        (CUT_OFF, False),
        (replace(CUT_OFF, error_type="model_context_window_exceeded"), True),
        (Outcome(Status.SUCCEEDED, Action.KEEP), True),
        (Outcome(Status.REFUSED, Action.SET_ASIDE, "refusal"), True),
    ],
)
@pytest.mark.parametrize("attempt", [1, 9])
def test_what_is_worth_more_room(outcome: Outcome, final: bool, attempt: int) -> None:
    assert settle(with_more_room(outcome), attempt, max_attempts=1) is final
    assert settle(CUT_OFF, attempt, max_attempts=9)


@pytest.mark.parametrize(
    ("larger", "max_tokens", "growth"),
    [(1_000, 500, 1), (900, 500, 0), (128_000, 8, 5), (None, 500, 0), (400, 500, 0)],
)
def test_a_request_grows_by_digits(larger: int | None, max_tokens: int, growth: int) -> None:
    _, variant, _ = room(larger, max_tokens)
    declaration = Declaration.of(job("in.jsonl", max_tokens=max_tokens))
    asked = declaration if variant is None else variant.declared_as(declaration)
    row = orjson.dumps(documents(1)[0])
    plain, large = (RequestBuilder(declared).rebuild(row) for declared in (declaration, asked))
    assert len(large) - len(plain) == growth
    expected = {**orjson.loads(plain), "max_tokens": max(larger or 0, max_tokens)}
    assert orjson.loads(large) == expected


def test_no_request_outgrows_a_batch() -> None:
    more, _, most = room(1_000, limit=600)
    assert more.more_room(None, most - 1) == "more_room"
    assert more.more_room(None, most) is None
    assert room(None)[0].more_room(None, 1) is None
    units = pa.table(
        {
            "request_bytes": [10, 10, most],
            "prompt_size": pa.array([7, None, 7], pa.int64()),
            "visual_tokens": pa.array([5, None, 5], pa.int64()),
            "cut_off": [True, False, True],
            "escalate": [False] * 3,
            "explained": pa.nulls(3, pa.bool_()),
        }
    )
    given = more.given_to(units)
    assert given.column("variant").to_pylist() == ["more_room", None, None]
    assert given.column("request_bytes").to_pylist() == [11, 10, most]
    assert given.column("prompt_size").to_pylist() == [8, None, 7]
    assert room(None)[0].given_to(units).column("variant").null_count == 3


def test_pages_and_images_count_for_more_at_a_model_that_looks_closer() -> None:
    spec = job("in.jsonl", retry={"escalate": {"model_id": "claude-opus-4-8"}})
    ways = Ways(spec.retry, Declaration.of(spec))
    units = pa.table(
        {
            "request_bytes": [1_000_000, 1_000_000, 900],
            "prompt_size": pa.array([2_000, 2_000, None], pa.int64()),
            "visual_tokens": pa.array([1_600, 1_600, None], pa.int64()),
            "cut_off": [False] * 3,
            "escalate": [True, False, True],
            "explained": pa.nulls(3, pa.bool_()),
        }
    )
    given = ways.given_to(units)
    grown = given.column("request_bytes")[0].as_py() - 1_000_000
    assert given.column("variant").to_pylist() == ["escalate", None, "escalate"]
    assert given.column("visual_tokens").to_pylist() == [5_280, 1_600, None]
    assert given.column("prompt_size").to_pylist() == [5_680 + grown, 2_000, None]


def test_an_answer_cut_off_is_asked_once_more_and_both_are_billed(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(12))
    plain = job(source, **SHORT)
    state = run(pipeline, job(source, **HEALED, limits={"max_requests_per_batch": 5}), PARTITION)
    assert state.statuses == {"succeeded": 12}
    rows = results(pipeline, plain)
    assert {row["attempt"] for row in rows} == {2}
    declaration = Declaration.of(plain)
    builder = RequestBuilder(declaration)
    asked = {builder.fingerprint(builder.rebuild(orjson.dumps(row))) for row in documents(12)}
    assert {row["fingerprint"] for row in rows} == asked
    assert sim.books.accepted_requests == sim.books.billed_requests == 24
    assert not accepted_twice(sim)
    assert sum(row["cost_usd"] for row in rows) == state.total_cost_usd
    assert state.total_cost_usd == sim.books.batch_cost_usd
    # Again: nothing is left to ask.
    run(pipeline, job(source, **HEALED), PARTITION)
    assert sim.books.accepted_requests == 24


def test_the_bound_of_a_shard_knows_the_larger_one(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(5))
    state = run(pipeline, job(source, **HEALED), PARTITION)
    with pipeline.ledger.read() as connection:
        first, second = shards.list_shards(connection, state.night.id)
    assert second.usd_bound > first.usd_bound + Decimal("0.000001") * 5 * 3_999
    assert second.bytes == first.bytes + 5 * 3
    table = manifests.read(pipeline.files, second.manifest)
    assert set(table.column("variant").to_pylist()) == {"more_room"}
    declared = Declaration.of(job(source, **HEALED))
    asked = variants.declarations_of(table, declared)
    assert (asked[None], asked["more_room"].max_tokens) == (declared, 4_000)
    # The definition is the manifest's own: the job may say something else by now.
    elsewhere = manifests.read(pipeline.files, second.manifest, ["variant"])
    assert variants.declarations_of(elsewhere, declared) == asked
    assert all(s.cost_usd and s.cost_usd <= s.usd_bound for s in submissions_of(pipeline))


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_an_answer_cut_off_again_is_set_aside(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, max_attempts: int
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(4))
    retry = {"max_attempts": max_attempts, "truncated_max_tokens": 2}
    state = run(pipeline, job(source, **SHORT, retry=retry), PARTITION)
    assert state.statuses == {"truncated": 4}
    assert [letter["attempts"] for letter in dead_letters(pipeline, job(source))] == [2] * 4
    assert sim.books.accepted_requests == 8


@pytest.mark.parametrize("via", ["realtime", "batch"])
def test_a_pilot_is_judged_by_what_more_room_makes_of_it(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path, via: str
) -> None:
    pilot = {"size": 4, "via": via}
    source = write_rows(tmp_path / "in.jsonl", documents(40))
    pipeline = make_pipeline()
    state = run(pipeline, job(source, **HEALED, pilot=pilot), PARTITION)
    assert state.statuses == {"succeeded": 40}
    verdict = state.night.pilot
    assert verdict is not None
    assert (verdict["open"], verdict["sample"], verdict["truncated_rate"]) == (True, 4, 0)
    sizes = [(s.engine, s.requests) for s in submissions_of(pipeline)]
    assert sizes == [(via, 4), (via, 4), ("batch", 36), ("batch", 36)]
    assert not accepted_twice(sim)
    rows = results(pipeline, job(source))
    assert sum(row["cost_usd"] for row in rows) == state.total_cost_usd


def test_a_pilot_that_more_room_does_not_heal_closes_the_gate(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(40))
    retry = {"truncated_max_tokens": 2}
    spec = job(source, **SHORT, retry=retry, pilot={"size": 4})
    with pytest.raises(GateClosedError, match="cut off"):
        run(pipeline, spec, PARTITION)
    assert (sim.books.accepted_requests, sim.books.batches_created) == (8, 0)


def test_an_error_that_passes_in_between_keeps_the_larger_one(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    """Each content fares badly at first: as declared, again, with more room, that again."""
    passes = {"probability": 1.0, "outcome": "overloaded_error", "attempts": 1}
    sim.set_faults(Faults.of(requests={"chances": [passes]}))
    source = write_rows(tmp_path / "in.jsonl", documents(3))
    retry = {"truncated_max_tokens": 4_000, "max_attempts": 4}
    state = run(pipeline, job(source, **SHORT, retry=retry), PARTITION)
    rows = results(pipeline, job(source))
    assert state.statuses == statuses(rows) == {"succeeded": 3}
    assert {row["attempt"] for row in rows} == {4}
    assert (sim.books.accepted_requests, sim.books.billed_requests) == (12, 6)
