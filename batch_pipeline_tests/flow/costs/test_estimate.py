"""Estimates of whole nights: what is left to buy, where the tokens are known from, nothing sent."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import GateClosedError
from batch_pipeline.flow.costs.estimate import Estimate, estimate
from batch_pipeline.flow.costs.estimate_json import as_json
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.pricing.tokens import RULE_BYTES_PER_TOKEN
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    Faults,
    documents,
    error,
    job,
    submissions_of,
    write_rows,
)

BATCH_INPUT, BATCH_OUTPUT = Decimal("0.0000005"), Decimal("0.0000025")


def long_documents(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Texts of 400 to some thousand bytes; the simulator counts a token for every four."""
    rows = documents(count, start)
    return [
        row | {"text": row["text"] + " text" * (70 + 10 * (n % 50))} for n, row in enumerate(rows)
    ]


def a_job(tmp_path: Path, count: int, **changes: Any) -> JobSpec:
    source = write_rows(tmp_path / "in.jsonl", long_documents(count))
    return job(source, **{"max_tokens": 100, **changes})


def expected(found: Estimate) -> Decimal:
    """By hand: the tokens said, at the published batch prices."""
    prompt = Decimal(str(found.work.prompt.mean)) * BATCH_INPUT
    return (prompt + Decimal(str(found.work.output.mean)) * BATCH_OUTPUT) * found.work.requests


def test_without_a_key_a_rule_is_used_and_said(
    make_pipeline: MakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sim: Simulator
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    pipeline = make_pipeline()
    found = estimate(pipeline, a_job(tmp_path, 50), PARTITION)
    assert found.tokens.source == "rule"
    assert "a rule, 3.5 bytes a token" in found.tokens.prompt
    assert "max_tokens (100) for each: none was measured yet" in found.tokens.answer
    assert found.warnings == ("the API was not asked to count tokens: there is no key",)
    assert found.work.prompt.mean == pytest.approx(
        found.snapshot.request_bytes / 50 / RULE_BYTES_PER_TOKEN
    )
    assert float(found.batch.expected) == pytest.approx(float(expected(found)), rel=1e-6)
    assert found.realtime.expected == 2 * found.batch.expected
    with pipeline.ledger.read() as connection:
        assert nights.list_nights(connection) == []
    assert not list(Path(pipeline.settings.home, ".staging").iterdir())


def test_with_a_key_the_api_counts_a_sample(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    found = estimate(make_pipeline(), a_job(tmp_path, 200, pilot={"size": 100}), PARTITION)
    assert found.tokens.source == "count_tokens"
    assert "24 requests of all lengths, counted by the API" in found.tokens.prompt
    # What the requests are beside the prompt's text makes for a little less than a quarter.
    assert 0.2 < found.tokens.per_byte < 0.25
    assert faults.calls.count(("POST", "/v1/messages/count_tokens")) == 24
    assert sim.books.accepted_requests == sim.books.batches_created == 0
    # Twenty of 200 go first, at twice the price.
    assert found.pilot_extra_usd == found.batch.expected / 10
    assert found.expected_usd == found.batch.expected + found.pilot_extra_usd
    actual = run(make_pipeline(), a_job(tmp_path, 200), PARTITION)
    measured = actual.usage["input_tokens"] / 200
    assert found.work.prompt.mean == pytest.approx(measured, rel=0.02)


def test_an_api_that_does_not_count_leaves_the_rule(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    counts = "/v1/messages/count_tokens"
    faults.on_request = lambda request: (
        error(403, "permission_error") if request.url.path == counts else None
    )
    assert estimate(make_pipeline(), a_job(tmp_path, 20), PARTITION).tokens.source == "rule"


def test_only_what_would_still_be_bought_costs(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    rows = long_documents(40)
    repeated = [row | {"id": f"again {row['id']}"} for row in rows[:10]]
    unsendable: list[dict[str, Any]] = [
        {"id": "none", "text": None},
        {"id": "huge", "text": "x" * 40_000},
    ]
    source = write_rows(tmp_path / "in.jsonl", rows + repeated + unsendable)
    spec = job(source, max_tokens=100, limits={"max_bytes_per_batch": 30_000})
    before = as_json(estimate(make_pipeline(), spec, PARTITION))
    counts = ("items", "requests", "duplicates", "invalid_input", "too_large", "already_bought")
    assert [before[name] for name in counts] == [52, 40, 10, 1, 1, 0]

    run(make_pipeline(), spec, PARTITION)
    after = as_json(estimate(make_pipeline(), spec, PARTITION))
    assert (after["requests"], after["already_bought"], after["expected_usd"]) == (0, 40, 0)
    assert after["recommendation"]["reason"] == "there is nothing left to buy"

    write_rows(source, rows + long_documents(7, start=1_000))
    more = as_json(estimate(make_pipeline(), spec, PARTITION))
    assert (more["requests"], more["already_bought"]) == (7, 40)
    assert more["tokens"]["source"] == "measured"


def test_what_is_in_flight_is_bought(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    sim.hold()
    spec = a_job(tmp_path, 30)
    run(make_pipeline(), spec, PARTITION, wait=False)
    assert estimate(make_pipeline(), spec, PARTITION).work.requests == 0


def test_the_pilots_tokens_are_used_for_the_rest(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """A closed gate leaves a measured pilot, and everything else to buy."""
    closed = {"size": 20, "max_truncated_rate": 0, "max_error_rate": 0}
    spec = a_job(tmp_path, 200, max_tokens=3, pilot=closed)
    with pytest.raises(GateClosedError):
        run(make_pipeline(), spec, PARTITION)
    found = estimate(make_pipeline(), spec, PARTITION)
    assert found.tokens.source == "measured"
    assert "20 billed answers of this job: the pilot of all" in found.tokens.prompt
    assert found.work.requests == 180
    assert found.work.output.mean <= 3
    assert "measured" in found.realtime_hours_from
    assert found.pilot_extra_usd == 0  # it has been bought
    opened = a_job(tmp_path, 200, max_tokens=3, pilot={**closed, "max_truncated_rate": 1})
    run(make_pipeline(), opened, PARTITION)
    billed = sum(
        (s.cost_usd or Decimal(0) for s in submissions_of(make_pipeline())[1:]), Decimal(0)
    )
    assert float(found.batch.expected) == pytest.approx(float(billed), rel=0.01)


def test_a_new_night_goes_by_the_last_ones(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """The latest first: names are no times, and follow one another as they were begun."""
    names = ("globex", "acme", "initech")
    for number, name in enumerate(names):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "in.jsonl", long_documents(30, start=number * 100))
    declared = {"partitions": names, "max_tokens": 100}
    spec = job(tmp_path / "{partition}" / "in.jsonl", **declared)
    for name in names[:2]:
        run(make_pipeline(), spec, name)
    found = estimate(make_pipeline(), spec, "initech")
    assert found.tokens.prompt == "60 billed answers of this job: acme, globex"
    assert found.work.output.mean < 100
    assert "of this account's latest 2 batches" in found.batch_hours_from
    # Another prompt has other answers, but the model cuts its text into tokens the same way.
    other = job(tmp_path / "{partition}" / "in.jsonl", prompt={"user": "Why? {text}"}, **declared)
    faultless = estimate(make_pipeline(), other, "initech")
    assert faultless.tokens.source == "count_tokens"


def test_a_night_keeps_what_it_was_expected_to_cost(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    pipeline, spec = make_pipeline(), a_job(tmp_path, 30)
    run(pipeline, spec, PARTITION)
    with pipeline.ledger.read() as connection:
        [night] = nights.list_nights(connection)
    assert night.estimate is not None
    assert (night.estimate["requests"], night.estimate["tokens"]["source"]) == (30, "rule")
    assert night.estimate["expected_usd"] > 0
