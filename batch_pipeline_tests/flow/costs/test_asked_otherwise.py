"""What routes, the escalation, caching and near duplicates save, by published prices."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.flow.costs.asked_otherwise import cached
from batch_pipeline.flow.costs.cost_report import build_report
from batch_pipeline.flow.costs.estimate import estimate
from batch_pipeline.flow.costs.estimate_json import as_json
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.ledger.cache_use import CacheSums
from batch_pipeline.reporting.report.avoided import Avoided
from batch_pipeline_tests.flow.planning.test_night_routes import (
    MIDDLE,
    SCHEMA,
    STRONG,
    escalating,
    routed,
    rows,
)
from batch_pipeline_tests.flow.reuse.test_night_twins import FORMS, SAME, forms
from batch_pipeline_tests.support import MODEL, PARTITION, documents, results, write_rows

# USD for a million tokens of input and of output, as batches.
PRICES = {MODEL: (0.5, 2.5), MIDDLE: (1.5, 7.5), STRONG: (2.5, 12.5)}


def usd(model: str, prompt: float, output: float) -> Decimal:
    """At published prices; real time costs twice as much."""
    of_input, of_output = PRICES[model]
    return Decimal(str(round(prompt * of_input + output * of_output, 9))) / 1_000_000


def row_of(found: tuple[Avoided, ...], cause: str) -> Avoided:
    return next(each for each in found if each.cause == cause)


def test_routes_are_priced_as_the_job_itself_would_ask_before_and_after(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    source = rows(16)
    spec = routed(write_rows(tmp_path / "in.jsonl", source), pilot={"size": 0})
    found = estimate(pipeline, spec, PARTITION)
    before = row_of(found.avoided, "routes")
    builders = {
        route: RequestBuilder(asked) for route, asked in Declaration.of(spec).by_route().items()
    }
    state = run(pipeline, spec, PARTITION)
    answers = {row["id"]: row for row in results(pipeline, spec)}
    expected, billed = Decimal(0), Decimal(0)
    for each in source:
        answer: dict[str, Any] = answers[each["id"]]
        if answer["route"] is None:
            continue
        size = len(builders[answer["route"]].build(each))
        tokens, most = size * found.tokens.per_byte, {"1": 900, "2": spec.max_tokens}
        expected += usd(MODEL, tokens, spec.max_tokens)
        expected -= usd(answer["model"], tokens, most[answer["route"]])
        billed += usd(MODEL, answer["input_tokens"], answer["output_tokens"])
        billed -= answer["cost_usd"]
    after = row_of(build_report(pipeline, spec, state.night).avoided, "routes")
    assert (before.documents, after.documents) == (4, 4)
    # Both routes ask dearer models.
    assert after.usd == billed < 0
    assert before.usd == pytest.approx(expected, rel=Decimal("0.0001"))
    assert before.usd < 0


def test_an_escalation_costs_its_answers_and_is_compared_with_the_stronger_model(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    spec = escalating(
        write_rows(tmp_path / "in.jsonl", documents(20)),
        output_schema=SCHEMA,
        pilot={"size": 0},
        escalate={"where": "content IS NOT NULL", "max_share": 0.5},
    )
    found = estimate(pipeline, spec, PARTITION)
    before = row_of(found.avoided, "escalation")
    assert (before.requests, before.usd < 0) == (10, True)
    assert found.cascade is not None
    assert found.cascade.usd == sum(way.batch.expected for way in found.ways)
    state = run(pipeline, spec, PARTITION)
    report = build_report(pipeline, spec, state.night)
    spent: defaultdict[str, Decimal] = defaultdict(Decimal)
    at_first = Decimal(0)
    for usage in report.models:
        spent[usage.model_id] += usage.usd
        if usage.model_id == MODEL:
            at_first += usd(STRONG, usage.tokens.input_tokens, usage.tokens.output_tokens)
    after = row_of(report.avoided, "escalation")
    assert (after.requests, after.usd) == (10, -spent[STRONG])
    assert report.cascade is not None
    assert report.cascade.usd == state.total_cost_usd
    assert report.cascade.at_first_usd == at_first
    assert report.costs.savings_usd == report.costs.counterfactual_usd - report.costs.billed_usd


def test_a_loss_by_the_cache_is_a_negative_row() -> None:
    [row] = cached(CacheSums(40, 100, 0, 900, Decimal("-0.02")))
    assert (row.cause, row.requests, row.input_tokens, row.usd) == (
        "caching", 40, 1_000, Decimal("-0.02"),
    )  # fmt: skip
    assert not cached(CacheSums())


@pytest.mark.parametrize(("min_agreement", "led"), [(0.5, FORMS - 8), (0.95, 0)])
def test_twins_are_bought_in_an_estimate_and_what_they_may_save_is_conditional(
    pipeline: Pipeline, tmp_path: Path, min_agreement: float, led: int
) -> None:
    near = {"threshold": 0.8, "action": "reuse", "min_agreement": min_agreement}
    found = estimate(pipeline, forms(tmp_path, SAME, near_duplicates=near), PARTITION)
    assert found.work.requests == 2 * FORMS
    # Where a night has too few pairs to show the agreement, nothing may be saved.
    assert [each.documents for each in found.avoided if each.conditional] == [led][: bool(led)]
    assert as_json(found)["avoided_usd"] == {}
