"""The report's arithmetic is exact."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import reduce
from operator import add

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.pricing.prices import find_price
from batch_pipeline.pricing.tokens import TokenUsage
from batch_pipeline.reporting.report.report import Costs, Pilot, Report
from batch_pipeline_tests.reporting.reports import REPORT, changed

AT = datetime(2026, 11, 20, 1, 0, tzinfo=UTC)
PRICES = {name: find_price(name, AT) for name in ("claude-haiku-4-5", "claude-haiku-5-5")}

counts = st.integers(0, 150_000)
usages = st.builds(TokenUsage, counts, counts, counts, counts, counts)
amounts = st.decimals(0, 999_999, places=12)


@given(st.sampled_from(sorted(PRICES)), st.lists(usages, max_size=8))
def test_sums_by_tier_cost_what_the_answers_cost_one_by_one(
    model_id: str, answers: list[TokenUsage]
) -> None:
    price = PRICES[model_id]
    by_tier: dict[int, TokenUsage] = {}
    for usage in answers:
        tier = bisect_left(price.realtime.starts, usage.prompt_tokens)
        by_tier[tier] = by_tier.get(tier, TokenUsage()) + usage
    one_by_one = [price.cost(usage, mode="realtime") for usage in answers]
    by_tiers = [price.realtime.prices[tier].cost(usage) for tier, usage in by_tier.items()]
    assert reduce(add, by_tiers, Decimal(0)) == reduce(add, one_by_one, Decimal(0))


@given(amounts, amounts, amounts, amounts)
def test_costs_add_up(
    batch: Decimal, realtime: Decimal, counterfactual: Decimal, attributed: Decimal
) -> None:
    costs = Costs(batch, realtime, counterfactual, attributed)
    assert costs.savings_usd + costs.batch_usd + costs.realtime_usd == counterfactual
    assert attributed + costs.unattributed_usd == batch + realtime


def test_cost_per_document_is_over_settled_items_and_rounded_to_picodollars() -> None:
    report = changed(costs=Costs(batch_usd=Decimal(1)), statuses={"succeeded": 2, "errored": 1})
    report = replace(report, succeeded=2)
    assert report.cost_per_document_usd == Decimal("0.333333333333")
    assert report.cost_per_succeeded_usd == Decimal("0.5")


@pytest.mark.parametrize(
    ("projected", "share"), [("20", 0.25), ("50", -0.5), (None, None), ("0", None)]
)
def test_estimate_against_actual(projected: str | None, share: float | None) -> None:
    amount = None if projected is None else Decimal(projected)
    pilot = Pilot(True, (), 10, 0.0, 0.0, amount)
    report = changed(pilot=pilot, differences=(), costs=Costs(batch_usd=Decimal(25)))
    assert report.over_estimate_share == share
    assert report.estimated_usd == amount


def test_a_night_without_a_pilot_has_what_was_foreseen_before_sending_if_anything() -> None:
    report: Report = changed(pilot=None, differences=REPORT.differences[:1])
    assert report.estimated_usd == Decimal("39.2")
    report = changed(pilot=None, differences=())
    assert (report.estimated_usd, report.over_estimate_share) == (None, None)
