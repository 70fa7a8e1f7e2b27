"""A report to change: what tests of its arithmetic and of its renderers start from."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from batch_pipeline.pricing.tokens import TokenUsage
from batch_pipeline.reporting.distribution import Bins, Distribution
from batch_pipeline.reporting.report.account_cost import AccountCost
from batch_pipeline.reporting.report.avoided import Avoided
from batch_pipeline.reporting.report.difference import Difference
from batch_pipeline.reporting.report.report import (
    Costs,
    Duplicates,
    ModelUsage,
    NightCost,
    Pilot,
    PricedModel,
    Report,
    SetAside,
    Wasted,
)

MODEL = "claude-haiku-4-5-20251001"
BATCH_TOKENS = TokenUsage(35_700_000, 2_380_000, 10_000, 20_000, 4_000_000)
PILOT_TOKENS = TokenUsage(300_000, 20_000)
TURNAROUND = Distribution.of_seconds([900.0, 1741.0])

REPORT = Report(
    job="contract_review",
    partition="2026-11-21",
    account="default",
    simulated=False,
    complete=True,
    model=PricedModel("claude-haiku-4-5-20251001", "claude-haiku-4-5", "genai-prices 0.2.3"),
    other_models=(),
    items=12_000,
    statuses={"succeeded": 11_750, "errored": 160, "truncated": 60, "invalid_input": 30},
    succeeded=11_750,
    dead_letter=250,
    filtered=0,
    reused=0,
    batches=2,
    retries=310,
    costs=Costs(
        batch_usd=Decimal("24.812345678901"),
        realtime_usd=Decimal("0.412"),
        counterfactual_usd=Decimal("50.036691357802"),
        attributed_usd=Decimal("25.224345678901"),
    ),
    duplicates=Duplicates(),
    tokens=TokenUsage(36_000_000, 2_400_000, 10_000, 20_000, 4_000_000),
    pilot=Pilot(
        open=True,
        reasons=(),
        sample=100,
        error_rate=0.01,
        truncated_rate=0.0,
        projected_usd=Decimal("24.5"),
    ),
    turnaround=TURNAROUND,
    set_aside=(
        SetAside("errored", "overloaded_error", "Overloaded", 160, ("a/1.txt", "a/2.txt"), True),
        SetAside("truncated", "max_tokens", "cut off at max_tokens", 60, ("b/7.txt",), False),
        SetAside("invalid_input", "invalid_input", "column text is null", 30, ("c/9.txt",), False),
    ),
    started_at=datetime(2026, 11, 22, 2, 0, tzinfo=UTC),
    completed_at=datetime(2026, 11, 22, 3, 10, tzinfo=UTC),
    results_path="/data/home/contract_review/results/partition=2026-11-21",
    models=(
        ModelUsage(
            MODEL, "claude-haiku-4-5", "batch", 11_900, BATCH_TOKENS,
            Decimal("24.812345678901"), Decimal("49.624691357802"),
        ),
        ModelUsage(
            MODEL, "claude-haiku-4-5", "realtime", 100, PILOT_TOKENS,
            Decimal("0.412"), Decimal("0.412"),
        ),
    ),
    prompt_tokens=Distribution(
        12_000, 400.0, 3_334.2, 3_100.0, 7_200.0, 48_000.0, Bins(0.0, 1_000.0, 10),
        (300, 1_200, 3_700, 3_900, 1_500, 600, 300, 300, 150, 50),
    ),
    output_tokens=Distribution(
        12_000, 20.0, 200.0, 190.0, 380.0, 500.0, Bins(0.0, 100.0, 6),
        (700, 5_400, 4_900, 800, 140, 60),
    ),
    wasted=(Wasted("truncated", 60, Decimal("0.31")), Wasted("refused", 4, Decimal("0.008"))),
    differences=(
        Difference(
            "before sending (by a rule, answers at max_tokens)",
            Decimal("39.2"), Decimal("25.224345678901"),
            {
                "items": Decimal(0), "errors": Decimal("-0.13"), "input_tokens": Decimal("-2.1"),
                "output_tokens": Decimal("-12.02"), "retries": Decimal("0.3"),
                "duplicates": Decimal(0), "price": Decimal("-0.025654321099"),
            },
        ),
        Difference(
            "by the pilot", Decimal("24.5"), Decimal("25.224345678901"),
            {
                "items": Decimal(0), "errors": Decimal("-0.11"), "input_tokens": Decimal("0.61"),
                "output_tokens": Decimal("0.02"), "retries": Decimal("0.3"),
                "duplicates": Decimal(0), "price": Decimal("-0.095654321099"),
            },
        ),
    ),
    trend=tuple(
        NightCost(
            f"2026-11-{day}", Decimal(20 + day % 7), Decimal("0.4"), 11_000 + day, 10_900, True
        )
        for day in range(10, 22)
    ),
)  # fmt: skip

EMPTY = replace(
    REPORT,
    items=0,
    statuses={},
    succeeded=0,
    dead_letter=0,
    batches=0,
    retries=0,
    costs=Costs(),
    tokens=TokenUsage(),
    pilot=None,
    turnaround=None,
    set_aside=(),
    models=(),
    prompt_tokens=None,
    output_tokens=None,
    wasted=(),
    differences=(),
    trend=(),
)


FILTERED = replace(
    REPORT,
    filtered=700,
    filtered_by={"where": 500, "language:fr": 200},
    avoided=(
        Avoided("filter:where", 500, 480, 1_500_000, Decimal("2.4")),
        Avoided("filter:language:fr", 200, 200, 300_000, Decimal("0.61")),
    ),
    accounts=(
        AccountCost("research_a", "north", 1, 5_000, Decimal("14.12")),
        AccountCost("research_b", "south", 1, 7_000, Decimal("11.1")),
    ),
)


def changed(**changes: Any) -> Report:
    return replace(REPORT, **changes)
