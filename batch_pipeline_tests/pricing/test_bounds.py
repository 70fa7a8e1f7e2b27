"""Upper bounds of requests: tokens a byte, cache classes, tiers, the way they go."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.pricing.bounds import LEAST_ANSWERS, Bounds, Measured
from batch_pipeline.pricing.prices import Mode, ModelPrice, Tiers, UnitPrices, find_price
from batch_pipeline.pricing.tokens import TokenUsage

AT = datetime(2026, 11, 20, tzinfo=UTC)


def units(*amounts: int) -> UnitPrices:
    return UnitPrices(*map(Decimal, amounts))


# Input, output, cache write of 5 minutes and of an hour, cache read; dearer above 100 tokens.
PRICE = ModelPrice(
    "m",
    "1",
    batch=Tiers((100,), (units(1, 7, 2, 3, 1), units(10, 70, 20, 30, 10))),
    realtime=Tiers((), (units(2, 14, 4, 6, 2),)),
)


@pytest.mark.parametrize(
    ("measured", "buffer", "ratio"),
    [
        (Measured(), 0.2, 1),
        (Measured(answers=LEAST_ANSWERS - 1, bytes=4_000, tokens=1_000), 0.2, 1),
        (Measured(answers=LEAST_ANSWERS, bytes=4_000, tokens=1_000), 0.2, "0.3"),
        (Measured(answers=100, bytes=4_000, tokens=1_000), 0, "0.25"),
        # Short prompts with tools have more tokens than bytes of their own.
        (Measured(answers=100, bytes=1_000, tokens=2_000), 0.5, 3),
        (Measured(answers=100, bytes=1_000, tokens=0), 0.2, 1),
    ],
)
def test_tokens_a_byte(measured: Measured, buffer: float, ratio: int | str) -> None:
    assert measured.tokens_per_byte(buffer) == Decimal(ratio)


@pytest.mark.parametrize(
    ("bounds", "sizes", "usd"),
    [
        (Bounds(PRICE), (60, 40, 10), 60 * 3 + 10 * 7),
        (Bounds(PRICE, caching=False), (60, 40, 10), 60 * 1 + 10 * 7),
        # The whole shard is longer than a tier's start, no request of it is.
        (Bounds(PRICE, caching=False), (600, 100, 10), 600 * 1 + 10 * 7),
        (Bounds(PRICE, caching=False), (600, 101, 10), 600 * 10 + 10 * 70),
        (Bounds(PRICE, Decimal("0.3"), caching=False), (600, 101, 10), 180 * 1 + 10 * 7),
        (Bounds(PRICE, Decimal("0.3"), caching=False), (601, 601, 0), 181 * 10),
        # Marks of the pipeline's: the prefix alone may be written.
        (Bounds(PRICE, caching=False, written=(20, "5m")), (60, 40, 10), 60 + 20 * 1 + 70),
        (Bounds(PRICE, caching=False, written=(20, "1h")), (60, 40, 10), 60 + 20 * 2 + 70),
    ],
)
def test_bounds_of_a_batch(bounds: Bounds, sizes: tuple[int, int, int], usd: int) -> None:
    size, largest, output = sizes
    found = bounds.usd("batch", input_bytes=size, largest_bytes=largest, output_tokens=output)
    assert found == usd


def test_real_time_has_its_own_prices() -> None:
    found = Bounds(PRICE).usd("realtime", input_bytes=60, largest_bytes=600, output_tokens=10)
    assert found == 60 * 6 + 10 * 14


MODES: tuple[Mode, ...] = ("batch", "realtime")
TOKENS = st.integers(min_value=0, max_value=150_000)


@given(
    usages=st.lists(st.builds(TokenUsage, TOKENS, TOKENS, TOKENS, TOKENS, TOKENS), min_size=1),
    geo=st.sampled_from([None, "us"]),
    mode=st.sampled_from(MODES),
)
@pytest.mark.parametrize("model", ["claude-haiku-4-5", "claude-haiku-5-5", "claude-sonnet-4-5"])
def test_no_usage_within_the_tokens_costs_more_than_the_bound(
    model: str, usages: list[TokenUsage], geo: str | None, mode: Mode
) -> None:
    """At the published prices, with tiers, residency and every class of tokens."""
    price = find_price(model, AT, inference_geo=geo)
    bound = Bounds(price).usd(
        mode,
        input_bytes=sum(usage.prompt_tokens for usage in usages),
        largest_bytes=max(usage.prompt_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
    )
    assert sum((price.cost(usage, mode=mode) for usage in usages), Decimal(0)) <= bound
