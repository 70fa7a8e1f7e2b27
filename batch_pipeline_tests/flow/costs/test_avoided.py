"""What a snapshot does not buy, priced for exactly those documents."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from batch_pipeline.flow.costs.avoided import priced
from batch_pipeline.flow.costs.cost_report import build_report
from batch_pipeline.flow.costs.estimate import estimate
from batch_pipeline.flow.costs.estimate_json import as_json
from batch_pipeline.flow.costs.tokens import Tokens
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.flow.gates.prices import price_at
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.pricing.estimate import Spread
from batch_pipeline.pricing.prices import Mode
from batch_pipeline.pricing.tokens import TokenUsage
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.flow.dataset.test_kept_units import SNAPSHOT
from batch_pipeline_tests.support import PARTITION, documents, job, write_rows

SPEC = job("in.jsonl")
# Claude Haiku 4.5 as batches, USD a token; real time costs twice as much.
INPUT, OUTPUT = Decimal("0.0000005"), Decimal("0.0000025")


@pytest.mark.parametrize(("mode", "times"), [("batch", 1), ("realtime", 2)])
@pytest.mark.parametrize("measured", [100, None])
def test_each_cause_is_priced_by_its_own_bytes(
    mode: Mode, times: int, measured: int | None
) -> None:
    snapshot = replace(
        SNAPSHOT,
        set_aside={"filtered": {"where": 12, "where:null": 3}, "invalid_input": {"blank": 1}},
        avoided={
            "filter:where": {"documents": 10, "bytes": 35_000},
            "duplicates": {"documents": 2, "bytes": 2_000},
        },
    )
    declaration = Declaration.of(SPEC)
    output = None if measured is None else Spread(*[float(measured)] * 3)
    found = priced(
        snapshot,
        declaration,
        Tokens("measured", "", "", 0.5, output),
        price_at(declaration, datetime.now(UTC), None),
        mode,
    )
    answers = measured or SPEC.max_tokens
    assert [(each.cause, each.documents, each.requests, each.input_tokens) for each in found] == [
        ("filter:where", 12, 10, 17_500),
        ("duplicates", 2, 2, 1_000),
        ("filter:where:null", 3, 0, 0),
    ]
    assert [each.usd for each in found] == [
        times * (tokens * INPUT + requests * answers * OUTPUT)
        for tokens, requests in ((17_500, 10), (1_000, 2), (0, 0))
    ]


def test_the_report_prices_at_what_the_night_has_measured(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    rows = documents(60) + [{"id": f"short {n}", "text": "a" * n} for n in range(1, 21)]
    spec = job(write_rows(tmp_path / "in.jsonl", rows), filters={"min_words": 2})
    before = as_json(estimate(pipeline, spec, PARTITION))
    night = run(pipeline, spec, PARTITION).night
    report = build_report(pipeline, spec, night)

    builder = RequestBuilder(Declaration.of(spec))
    asked = sum(len(builder.build(row)) for row in rows[:60])
    dropped = sum(len(builder.build(row)) for row in rows[60:])
    usage: TokenUsage = report.tokens
    expected = dropped * usage.prompt_tokens * INPUT / asked + usage.output_tokens * OUTPUT / 3
    [found] = report.avoided
    assert (found.cause, found.documents, found.requests) == ("filter:min_words", 20, 20)
    assert found.usd == pytest.approx(expected, rel=Decimal("0.000001"))
    assert (before["filtered_by"], before["requests"]) == ({"min_words": 20}, 60)
    assert before["avoided_usd"].keys() == {"filter:min_words"}
    assert report.costs.savings_usd == report.costs.counterfactual_usd - report.costs.billed_usd
