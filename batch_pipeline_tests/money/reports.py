"""A report to change: what tests of its arithmetic and of its renderers start from."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from batch_pipeline.money.prices import TokenUsage
from batch_pipeline.money.report import (
    Costs,
    Duplicates,
    Pilot,
    PricedModel,
    Report,
    SetAside,
    Turnaround,
)

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
    turnaround=Turnaround(2, 900.0, 1320.5, 1741.0),
    set_aside=(
        SetAside("errored", "overloaded_error", "Overloaded", 160, ("a/1.txt", "a/2.txt"), True),
        SetAside("truncated", "max_tokens", "cut off at max_tokens", 60, ("b/7.txt",), False),
        SetAside("invalid_input", "invalid_input", "column text is null", 30, ("c/9.txt",), False),
    ),
    started_at=datetime(2026, 11, 22, 2, 0, tzinfo=UTC),
    completed_at=datetime(2026, 11, 22, 3, 10, tzinfo=UTC),
    results_path="/data/home/contract_review/results/partition=2026-11-21",
)

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
)


def changed(**changes: Any) -> Report:
    return replace(REPORT, **changes)
