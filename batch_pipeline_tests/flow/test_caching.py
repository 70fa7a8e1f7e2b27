"""Caching: marks as told, and what `auto` makes of warm-ups, read rates, waits and deadlines."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.requests import Request

from batch_pipeline.flow import caching, steps
from batch_pipeline.flow.batches.body import body_of
from batch_pipeline.flow.caching import MEASURING, WARMING, Standing, decide, wants_warm_up
from batch_pipeline.flow.costs.cost_report import build_report
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status import warnings
from batch_pipeline.flow.status.progress import Progress, caching_as_json, of_night
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights, shards
from batch_pipeline.ledger.admission.admission import NO_MARKS, Marks
from batch_pipeline.ledger.cache_use import CacheSums
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.simulator import Simulator
from batch_pipeline.simulator.answers.prompt_cache import PromptCache, Split, Work
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    Faults,
    accepted_twice,
    documents,
    is_create,
    job,
    results,
    submissions_of,
    together,
    write_rows,
)

OWN, OTHER = "claude-opus-5", "claude-sonnet-5-5"
MARKED, BOTH = Marks("1h", models=(OWN,)), Marks("1h", models=(OWN, OTHER))
UNKNOWN = CacheSums()
GAIN = CacheSums(20, read_tokens=900, written_1h_tokens=100, saved_usd=Decimal("0.1"))
LOSS = CacheSums(20, read_tokens=100, written_1h_tokens=900, saved_usd=Decimal("-0.1"))
SENT: dict[str, Any] = {"began": 0.0, "wait_until": 3_600.0}
WARM: dict[str, Any] = {**SENT, "wrote": True, "warm_until": 5_000.0}
LONG, SHORT = 1_000, 10
NOW = frozenset({OWN})


def two(own: CacheSums, other: CacheSums) -> dict[str, Any]:
    return {"models": {OWN: own, OTHER: other}}


@pytest.mark.parametrize(
    ("standing", "marks"),
    [
        ({"models": {}, **WARM}, NO_MARKS),  # no prefix is long enough
        ({}, NO_MARKS),  # nothing warmed the cache up
        ({"warming": True, **SENT}, Marks(wait=WARMING)),
        ({"warming": True, **SENT, "now": 3_600.0}, NO_MARKS),  # waited for an hour
        ({"warming": True, **SENT, "wait_until": 99.0}, NO_MARKS),  # the deadline presses
        (SENT, NO_MARKS),  # the warm-up wrote nothing
        (WARM, MARKED),  # the first batch
        ({"measuring": NOW, **WARM}, Marks(wait=MEASURING)),
        ({"measuring": NOW, **WARM, "now": 4_000.0}, NO_MARKS),
        ({"measuring": NOW, "models": {OWN: GAIN}, **WARM}, MARKED),
        ({"models": {OWN: GAIN}, **WARM}, MARKED),
        ({"models": {OWN: LOSS}, **WARM}, NO_MARKS),
        ({"models": {OWN: GAIN}, **WARM, "now": 5_000.0}, NO_MARKS),  # the entry has expired
        ({**two(UNKNOWN, UNKNOWN), **WARM}, BOTH),
        ({**two(GAIN, LOSS), **WARM}, MARKED),
        ({**two(LOSS, LOSS), **WARM}, NO_MARKS),
        ({**two(GAIN, UNKNOWN), **WARM}, BOTH),  # the other model's first batch
        ({**two(GAIN, UNKNOWN), "measuring": frozenset({OTHER}), **WARM}, MARKED),
        ({**two(LOSS, UNKNOWN), "measuring": frozenset({OTHER}), **WARM}, NO_MARKS),
        ({**two(UNKNOWN, UNKNOWN), "measuring": NOW, **WARM}, Marks(wait=MEASURING)),
    ],
)
def test_what_the_next_batch_is_sent_with(standing: dict[str, Any], marks: Marks) -> None:
    assert decide(standing_with(standing)) == marks


def standing_with(changes: dict[str, Any]) -> Standing:
    return Standing(**{"now": 100.0, "models": {OWN: UNKNOWN}, **changes})


@pytest.mark.parametrize(
    ("standing", "wanted"),
    [
        ({}, True),
        ({"models": {}}, False),
        ({"warm_up_until": 99.0}, False),  # the deadline presses
        ({"warming": True, **SENT}, False),
        (SENT, False),  # the last one wrote nothing
        (WARM, False),
        ({**WARM, "now": 5_000.0}, True),  # it is cold again
        ({**WARM, "now": 5_000.0, "models": {OWN: LOSS}}, False),
        ({**WARM, "now": 5_000.0, **two(LOSS, GAIN)}, True),
    ],
)
def test_when_a_batch_of_its_own_warms_the_cache_up(standing: dict[str, Any], wanted: bool) -> None:
    found = standing_with(standing)
    assert wants_warm_up(found) is wanted
    assert decide(found, warms=True).models == (tuple(sorted(found.worth_marks)) or None)


def caching_job(source: Path, words: int = LONG, **changes: Any) -> JobSpec:
    """60 documents in three batches, with a shared prefix of about `words` tokens and a quarter."""
    declared: dict[str, Any] = {
        "caching": "auto",
        "model_id": "claude-opus-5",
        "prompt": {"system": "word " * words, "user": "Sum up: {text}"},
        "limits": {"max_requests_per_batch": 20},
    }
    return job(write_rows(source / "in.jsonl", documents(60)), **(declared | changes))


def sent_with(pipeline: Pipeline) -> list[tuple[int, str | None]]:
    return [(s.requests, s.caching) for s in submissions_of(pipeline)]


def night_of(pipeline: Pipeline) -> Night:
    with pipeline.ledger.read() as connection:
        [night] = nights.list_nights(connection)
    return night


def state_of(pipeline: Pipeline) -> Progress:
    with pipeline.ledger.read() as connection:
        return of_night(connection, night_of(pipeline).id)


def check_money(pipeline: Pipeline, spec: JobSpec, sim: Simulator) -> None:
    """Ledger, rows and books agree to the last digit; nothing was bought twice; what the cache
    saved is the difference to the same tokens uncached."""
    found = submissions_of(pipeline)
    billed = sum((s.cost_usd or Decimal(0) for s in found), Decimal(0))
    assert billed == sim.books.batch_cost_usd + sim.books.realtime_cost_usd
    rows = results(pipeline, spec)
    assert sum(row["cost_usd"] for row in rows) == billed
    assert all(s.cost_usd is None or s.cost_usd <= s.usd_bound for s in found)
    assert accepted_twice(sim) == {}
    for each in found:
        prices = {"input_tokens": "2.5", "cache_write_5m_tokens": "3.125",
                  "cache_write_1h_tokens": "5", "cache_read_tokens": "0.25"}  # fmt: skip
        way = 1 if each.engine == "batch" else 2
        saved = sum(
            (Decimal("2.5") - Decimal(price)) * way * each.tokens[name] / 10**6
            for name, price in prices.items()
        )
        assert (each.cache_saved_usd or 0) == saved


@pytest.mark.parametrize(("told", "written"), [("5m", "5m"), ("off", None)])
def test_marks_are_sent_as_told_by_batches_and_calls(
    pipeline: Pipeline, sim: Simulator, tmp_path: Path, told: str, written: str | None
) -> None:
    spec = caching_job(
        tmp_path,
        caching=told,
        pilot={"size": 6, "max_error_rate": 1, "max_truncated_rate": 1},
        limits={"max_requests_per_batch": 60},
    )
    assert run(pipeline, spec, PARTITION).complete
    found = submissions_of(pipeline)
    assert [(s.engine, s.caching) for s in found] == [
        (engine, written) for engine in ("realtime", "batch")
    ]
    for each in found:
        assert not each.tokens["cache_write_1h_tokens"]
        assert bool(each.tokens["cache_read_tokens"]) is (written is not None)
    check_money(pipeline, spec, sim)


@pytest.mark.parametrize(
    ("hits", "words", "expected"),
    [
        (1.0, LONG, [(1, "1h"), (20, "1h"), (20, "1h"), (19, "1h")]),
        (0.2, LONG, [(1, "1h"), (20, "1h"), (20, None), (19, None)]),
        (1.0, SHORT, [(20, None)] * 3),
    ],
)
def test_auto_goes_on_with_marks_where_they_paid(
    pipeline: Pipeline,
    sim: Simulator,
    tmp_path: Path,
    hits: float,
    words: int,
    expected: list[tuple[int, str | None]],
) -> None:
    sim.set_cache_hits(hits)
    spec = caching_job(tmp_path, words)
    assert run(pipeline, spec, PARTITION).complete
    assert sorted(sent_with(pipeline), key=str) == sorted(expected, key=str)
    written = [row["id"] for row in results(pipeline, spec) if row["cache_write_1h_tokens"]]
    assert len(written) == {1.0: 1 if words == LONG else 0}.get(hits, len(written))
    check_money(pipeline, spec, sim)
    told = build_report(pipeline, spec, night_of(pipeline)).caching
    assert told is not None
    saved = sum((s.cache_saved_usd or Decimal(0) for s in submissions_of(pipeline)), Decimal(0))
    assert told.used.saved_usd == saved
    assert (saved > 0, saved < 0) == (words == LONG and hits == 1, hits < 1)
    said = "cannot pay: 22 tokens, minimum 512" if words == SHORT else "which saved $"
    assert (said if hits == 1 else "which cost $") in told.summary
    state = state_of(pipeline)
    assert caching_as_json(state) is not None
    codes = [w.code for w in warnings.of(state, spec.alerts)]
    assert ("caching_costs" in codes) is (saved < 0)


def test_a_wait_ends_after_an_hour_and_the_night_goes_on_without_marks(
    pipeline: Pipeline, sim: Simulator, tmp_path: Path
) -> None:
    sim.hold()
    spec = caching_job(tmp_path)
    for _ in range(2):
        state = run(pipeline, spec, PARTITION, wait=False)
        assert sent_with(pipeline) == [(1, "1h")]
        assert state.waiting == 59
    with pipeline.ledger.write() as connection:
        before = tables.submission.c.intent_at - caching.LONGEST_WAIT_SECONDS
        connection.execute(sa.update(tables.submission).values(intent_at=before))
    run(pipeline, spec, PARTITION, wait=False)
    assert sorted(sent_with(pipeline), key=str) == [(1, "1h"), (19, None), (20, None), (20, None)]
    sim.release()
    assert run(pipeline, spec, PARTITION).complete
    check_money(pipeline, spec, sim)


def test_a_cache_that_has_grown_cold_is_warmed_up_again(
    pipeline: Pipeline, sim: Simulator, tmp_path: Path
) -> None:
    """Two hours pass with nothing sent, as where the machine was off."""
    sim.set_cache_hits(1.0)
    spec = caching_job(tmp_path)
    for _ in range(2):
        run(pipeline, spec, PARTITION, wait=False)
    assert sent_with(pipeline) == [(1, "1h"), (20, "1h")]
    night = night_of(pipeline)
    steps.poll_account(pipeline, night.owner)
    assert steps.collect_ended(pipeline, spec, night) == 1
    sim.age_cache(7_200)
    with pipeline.ledger.write() as connection:
        columns = tables.submission.c
        earlier = {name: columns[name] - 7_200 for name in ("intent_at", "ended_at")}
        connection.execute(sa.update(tables.submission).values(**earlier))
    run(pipeline, spec, PARTITION, wait=False)
    assert sent_with(pipeline) == [(1, "1h"), (20, "1h"), (1, "1h")]
    assert run(pipeline, spec, PARTITION).complete
    assert {caching for _, caching in sent_with(pipeline)} == {"1h"}
    check_money(pipeline, spec, sim)


def test_two_processes_warm_up_once_and_measure_one_batch(
    make_pipeline: MakePipeline, sim: Simulator, tmp_path: Path
) -> None:
    sim.set_cache_hits(0.0)
    spec = caching_job(tmp_path)
    pipelines = [make_pipeline(), make_pipeline()]
    together(*(lambda each=each: run(each, spec, PARTITION) for each in pipelines))
    found = submissions_of(pipelines[0])
    assert all(s.state is State.COLLECTED for s in found)
    assert sorted(s.requests for s in found if s.caching) == [1, found[1].requests]
    check_money(pipelines[0], spec, sim)


def test_bodies_are_the_same_to_the_byte_and_stay_under_the_limit(
    pipeline: Pipeline, sim: Simulator, faults: Faults, tmp_path: Path
) -> None:
    """One document has no room for a mark, and goes without."""
    most = 40_000
    spec = caching_job(
        tmp_path, caching="1h", limits={"max_requests_per_batch": 60, "max_bytes_per_batch": most}
    )
    rows, declaration = documents(60), Declaration.of(spec)
    rest = len(RequestBuilder(declaration).build({"text": ""}))
    rows[7]["text"] = "x" * (declaration.max_request_bytes - rest)
    write_rows(tmp_path / "in.jsonl", rows)
    lengths: list[int] = []

    def note(request: Request) -> None:
        if is_create(request):
            lengths.append(int(request.headers["content-length"]))

    faults.on_request = note
    assert run(pipeline, spec, PARTITION).complete
    assert max(lengths) <= most
    found = submissions_of(pipeline)
    assert [s.requests for s in found if s.caching is None] == [1]
    with pipeline.ledger.read() as connection:
        planned = {s.id: s for s in shards.list_shards(connection, found[0].night_id)}
    for each, length in zip(found, lengths, strict=True):
        marks = each.caching, each.marked_models
        again = body_of(pipeline, planned[each.shard_id], each.token, *marks)
        assert again.length == length == len(b"".join(again.chunks))


def test_a_model_that_loses_goes_on_without_marks_while_another_keeps_them(
    pipeline: Pipeline,
    sim: Simulator,
    faults: Faults,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one model nothing that was written is ever read."""
    sim.set_cache_hits(1.0)
    split = PromptCache.split

    def unlucky(self: PromptCache, params: dict[str, Any], work: Work) -> Split:
        lost = params["model"] == OTHER
        return split(self, params, replace(work, hits=0.0) if lost else work)

    monkeypatch.setattr(PromptCache, "split", unlucky)
    lengths: list[int] = []
    faults.on_request = lambda request: (
        lengths.append(int(request.headers["content-length"])) if is_create(request) else None
    )
    spec = caching_job(tmp_path, routes=[{"where": "id like '%1/ä'", "model_id": OTHER}])
    assert run(pipeline, spec, PARTITION).complete
    found = submissions_of(pipeline)
    marked = [(s.requests, s.marked_models) for s in found]
    both = [OWN, OTHER]
    assert marked == [(2, both), (20, both), (20, [OWN]), (18, [OWN])]
    with pipeline.ledger.read() as connection:
        planned = {s.id: s for s in shards.list_shards(connection, found[0].night_id)}
    for each, length in zip(found, lengths, strict=True):
        marks = each.caching, each.marked_models
        again = body_of(pipeline, planned[each.shard_id], each.token, *marks)
        body = b"".join(again.chunks)
        assert again.length == length == len(body)
        for one in json.loads(body)["requests"]:
            has_mark = "cache_control" in json.dumps(one)
            assert has_mark is (one["params"]["model"] in (each.marked_models or ()))
    prices = {OWN: "2.5", OTHER: "1"}
    state, saved = state_of(pipeline), dict.fromkeys(prices, Decimal(0))
    for row in results(pipeline, spec):
        plain = Decimal(prices[row["model"]])
        reads = {OWN: "0.1", OTHER: "0.05"}
        classes = {"cache_write_1h_tokens": "2", "cache_read_tokens": reads[row["model"]]}
        for name, times in classes.items():
            saved[row["model"]] += plain * (1 - Decimal(times)) * row[name] / 10**6
    assert {name: used.saved_usd for name, used in state.caches.items()} == saved
    assert sum(saved.values()) == state.cached.saved_usd
    assert saved[OWN] > 0 > saved[OTHER]
    told = build_report(pipeline, spec, night_of(pipeline)).caching
    assert told is not None
    assert {name: used for name, (used, _) in told.models.items()} == state.caches
    assert f"{OTHER}: 0.0% read, cost $" in told.summary


def test_each_shared_prefix_of_a_model_is_warmed_up(
    pipeline: Pipeline, sim: Simulator, tmp_path: Path
) -> None:
    sim.set_cache_hits(1.0)
    tool = {"name": "note", "description": "Notes", "input_schema": {"type": "object"}}
    routes = [
        {"where": f"id like '%{digit}/ä'", "params": {"tools": [{**tool, "name": f"note_{digit}"}]}}
        for digit in (1, 2)
    ]
    spec = caching_job(tmp_path, routes=routes)
    assert run(pipeline, spec, PARTITION).complete
    warm_up, *others = submissions_of(pipeline)
    assert (warm_up.requests, warm_up.caching) == (3, "1h")
    # Each of its requests wrote a prefix that the other batches read, and wrote nothing of.
    assert warm_up.tokens["cache_write_1h_tokens"]
    assert not warm_up.tokens["cache_read_tokens"]
    assert [s.tokens["cache_write_1h_tokens"] for s in others] == [0, 0, 0]
    assert all(row["cache_read_tokens"] or row["cache_write_1h_tokens"]
               for row in results(pipeline, spec))  # fmt: skip


@pytest.mark.parametrize(("concurrency", "marks"), [(20, "5m"), (31, None)])
def test_calls_are_marked_where_they_are_many_enough(
    pipeline: Pipeline, sim: Simulator, tmp_path: Path, concurrency: int, marks: str | None
) -> None:
    spec = caching_job(tmp_path, mode="realtime", limits={}, realtime={"concurrency": concurrency})
    assert run(pipeline, spec, PARTITION).complete
    assert sent_with(pipeline) == [(60, marks)]
    check_money(pipeline, spec, sim)
