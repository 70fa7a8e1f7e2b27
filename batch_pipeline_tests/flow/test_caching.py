"""Caching: marks as told, and what `auto` makes of warm-ups, read rates, waits and deadlines."""

from __future__ import annotations

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
from batch_pipeline.flow.dataset.requests import Declaration, RequestBuilder
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
from batch_pipeline.ledger.submissions import State
from batch_pipeline.simulator import Simulator
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

MARKED = Marks("1h")
GAIN = CacheSums(20, read_tokens=900, written_1h_tokens=100, saved_usd=Decimal("0.1"))
LOSS = CacheSums(20, read_tokens=100, written_1h_tokens=900, saved_usd=Decimal("-0.1"))
SENT: dict[str, Any] = {"began": 0.0, "wait_until": 3_600.0}
WARM: dict[str, Any] = {**SENT, "wrote": True, "warm_until": 5_000.0}
LONG, SHORT = 1_000, 10


@pytest.mark.parametrize(
    ("standing", "marks"),
    [
        ({"can_pay": False, **WARM}, NO_MARKS),
        ({}, NO_MARKS),  # nothing warmed the cache up
        ({"warming": True, **SENT}, Marks(wait=WARMING)),
        ({"warming": True, **SENT, "now": 3_600.0}, NO_MARKS),  # waited for an hour
        ({"warming": True, **SENT, "wait_until": 99.0}, NO_MARKS),  # the deadline presses
        (SENT, NO_MARKS),  # the warm-up wrote nothing
        (WARM, MARKED),  # the first batch
        ({"measuring": True, **WARM}, Marks(wait=MEASURING)),
        ({"measuring": True, **WARM, "now": 4_000.0}, NO_MARKS),
        ({"measuring": True, "measured": GAIN, **WARM}, MARKED),
        ({"measured": GAIN, **WARM}, MARKED),
        ({"measured": LOSS, **WARM}, NO_MARKS),
        ({"measured": GAIN, **WARM, "now": 5_000.0}, NO_MARKS),  # the entry has expired
    ],
)
def test_what_the_next_batch_is_sent_with(standing: dict[str, Any], marks: Marks) -> None:
    assert decide(Standing(**{"now": 100.0, **standing})) == marks


@pytest.mark.parametrize(
    ("standing", "wanted"),
    [
        ({}, True),
        ({"can_pay": False}, False),
        ({"warm_up_until": 99.0}, False),  # the deadline presses
        ({"warming": True, **SENT}, False),
        (SENT, False),  # the last one wrote nothing
        (WARM, False),
        ({**WARM, "now": 5_000.0}, True),  # it is cold again
        ({**WARM, "now": 5_000.0, "measured": LOSS}, False),
    ],
)
def test_when_a_batch_of_its_own_warms_the_cache_up(standing: dict[str, Any], wanted: bool) -> None:
    found = Standing(**{"now": 100.0, **standing})
    assert wants_warm_up(found) is wanted
    pays_not = not found.can_pay or found.pays is False
    assert decide(found, warms=True) == (NO_MARKS if pays_not else MARKED)


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


@pytest.mark.parametrize(("told", "written"), [("5m", "5m"), ("1h", "1h"), ("off", None)])
def test_marks_are_sent_as_told_by_batches_and_calls(
    pipeline: Pipeline, sim: Simulator, tmp_path: Path, told: str, written: str | None
) -> None:
    spec = caching_job(
        tmp_path, caching=told, pilot={"size": 6, "max_error_rate": 1, "max_truncated_rate": 1}
    )
    assert run(pipeline, spec, PARTITION).complete
    found = submissions_of(pipeline)
    assert [(s.engine, s.caching) for s in found] == [
        (engine, written) for engine in ("realtime", "batch", "batch", "batch")
    ]
    for each in found:
        other = {"5m": "1h", "1h": "5m"}.get(told, "1h")
        assert not each.tokens[f"cache_write_{other}_tokens"]
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
    steps.poll_account(pipeline, night.account)
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
        again = body_of(pipeline, planned[each.shard_id], each.token, each.caching)
        assert again.length == length == len(b"".join(again.chunks))


@pytest.mark.parametrize(("concurrency", "marks"), [(20, "5m"), (31, None)])
def test_calls_are_marked_where_they_are_many_enough(
    pipeline: Pipeline, sim: Simulator, tmp_path: Path, concurrency: int, marks: str | None
) -> None:
    spec = caching_job(tmp_path, mode="realtime", limits={}, realtime={"concurrency": concurrency})
    assert run(pipeline, spec, PARTITION).complete
    assert sent_with(pipeline) == [(60, marks)]
    check_money(pipeline, spec, sim)
