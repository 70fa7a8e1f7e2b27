"""Minimum lengths, break-even hit rates and savings of the prompt cache, at published prices."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from batch_pipeline.pricing.caching import break_even, describe_prefix, minimum_tokens, saved_usd
from batch_pipeline.pricing.prices import UnitPrices, find_price
from batch_pipeline.pricing.tokens import Lifetime
from batch_pipeline.simulator.models import all_models

AT = datetime(2026, 11, 1, tzinfo=UTC)


def prices(model: str) -> UnitPrices:
    return find_price(model, AT).batch.prices[0]


def test_each_model_has_the_minimum_that_the_simulator_keeps() -> None:
    for model in all_models():
        assert minimum_tokens(model.id) == model.cached_from, model.id
    assert minimum_tokens("claude-haiku-4-5") == 4_096
    assert minimum_tokens("claude-opus-7") is None


@pytest.mark.parametrize(
    ("model", "lifetime", "rate"),
    [
        ("claude-haiku-4-5", "5m", 0.2174),
        ("claude-haiku-4-5", "1h", 0.5263),
        # A read costs a twentieth.
        ("claude-sonnet-5-5", "5m", 0.2083),
        ("claude-sonnet-5-5", "1h", 0.5128),
    ],
)
def test_marks_cost_nothing_at_the_break_even(model: str, lifetime: Lifetime, rate: float) -> None:
    found = break_even(prices(model), lifetime)
    assert found is not None
    assert round(found, 4) == rate
    amounts = [saved_usd(prices(model), lifetime, 10**6, found + by) for by in (-0.1, 0.0, 0.1)]
    assert amounts[0] < 0 < amounts[2]
    assert abs(amounts[1]) < Decimal("1e-9")


def test_without_cheaper_reads_nothing_pays() -> None:
    flat = UnitPrices(*[Decimal(1)] * 5)
    assert break_even(flat, "5m") is None


@pytest.mark.parametrize(
    ("model", "tokens", "said"),
    [
        ("claude-haiku-4-5", 900, "cannot pay: 900 tokens, minimum 4,096"),
        ("claude-haiku-4-5", 5_000, "the minimum of claude-haiku-4-5 is 4,096"),
        ("claude-opus-7", 900, "the minimum of claude-opus-7 is not known"),
    ],
)
def test_what_is_said_of_a_prefix(model: str, tokens: int, said: str) -> None:
    assert said in describe_prefix(model, f"{tokens:,}", tokens)
