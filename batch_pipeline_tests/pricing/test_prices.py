"""Prices: equal to the library's own arithmetic, and never a guess."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import genai_prices
import pytest
from genai_prices.data import providers
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.errors import UsageError
from batch_pipeline.pricing.prices import Mode, ModelPrice, find_price, stated_price
from batch_pipeline.pricing.tokens import TokenUsage

AT = datetime(2026, 11, 20, 1, 0, tzinfo=UTC)
HAIKU = "claude-haiku-4-5-20251001"
TIERED = "claude-haiku-5-5"
MILLION = 1_000_000


def models_with_a_batch_price() -> list[str]:
    (anthropic,) = (provider for provider in providers if provider.id == "anthropic")
    return [model.id for model in anthropic.models if model.price_variants]


PRICES: dict[str, ModelPrice] = {name: find_price(name, AT) for name in models_with_a_batch_price()}

counts = st.integers(0, 300_000)
usages = st.builds(TokenUsage, counts, counts, counts, counts, counts)


@given(st.sampled_from(sorted(PRICES)), usages, st.sampled_from(["batch", "realtime"]))
def test_cost_equals_the_librarys(model_id: str, usage: TokenUsage, mode: Mode) -> None:
    calculated = genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=usage.prompt_tokens,  # the library's includes the cached tokens
            output_tokens=usage.output_tokens,
            cache_write_tokens=usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
            cache_read_tokens=usage.cache_read_tokens,
        ),
        model_id,
        provider_id="anthropic",
        genai_request_timestamp=AT,
        price_context={"processing": "batch"} if mode == "batch" else None,
    )
    assert PRICES[model_id].cost(usage, mode=mode) == calculated.total_price


@pytest.mark.parametrize(
    ("usage", "mode", "usd"),
    [
        (TokenUsage(input_tokens=MILLION), "realtime", "1"),
        (TokenUsage(input_tokens=MILLION), "batch", "0.5"),
        (TokenUsage(output_tokens=MILLION), "realtime", "5"),
        (TokenUsage(output_tokens=MILLION), "batch", "2.5"),
        (TokenUsage(cache_write_5m_tokens=MILLION), "batch", "0.625"),
        (TokenUsage(cache_write_1h_tokens=MILLION), "batch", "1"),
        (TokenUsage(cache_read_tokens=MILLION), "batch", "0.05"),
        (TokenUsage(3000, 200), "batch", "0.002"),
        (TokenUsage(1, 1, 1, 1, 1), "batch", "0.000004675"),
        (TokenUsage(), "batch", "0"),
    ],
)
def test_the_published_price_of_a_model(usage: TokenUsage, mode: Mode, usd: str) -> None:
    assert find_price(HAIKU, AT).cost(usage, mode=mode) == Decimal(usd)


def test_the_archive_run_of_the_documentation() -> None:
    price = find_price(HAIKU, AT)
    one = TokenUsage(input_tokens=3000, output_tokens=200)
    assert 1_200_000 * price.cost(one, mode="batch") == 2400
    assert 1_200_000 * price.cost(one, mode="realtime") == 4800


@pytest.mark.parametrize(
    ("usage", "per_token"),
    [
        (TokenUsage(input_tokens=100_000), "0.00000005"),
        (TokenUsage(input_tokens=100_001), "0.00000025"),
        (TokenUsage(cache_read_tokens=100_001), "0.000000025"),
    ],
)
def test_a_long_prompt_reaches_the_next_tier_with_all_its_tokens(
    usage: TokenUsage, per_token: str
) -> None:
    expected = usage.prompt_tokens * Decimal(per_token)
    assert find_price(TIERED, AT).cost(usage, mode="batch") == expected


@pytest.mark.parametrize("mode", ["batch", "realtime"])
def test_residency_costs_a_tenth_more(mode: Mode) -> None:
    usage = TokenUsage(3000, 200, 10, 20, 30)
    plain = find_price(HAIKU, AT).cost(usage, mode=mode)
    assert find_price(HAIKU, AT, inference_geo="us").cost(usage, mode=mode) == plain * Decimal(
        "1.1"
    )
    assert find_price(HAIKU, AT, inference_geo="global").cost(usage, mode=mode) == plain


@pytest.mark.parametrize(
    ("model_id", "said"),
    [
        ("claude-of-tomorrow", "has no price"),
        ("gpt-4o", "has no price"),
        ("", "has no price"),
        ("claude-opus-4-1", "no batch price"),
        ("claude-2", "no standard price"),
    ],
)
def test_a_model_without_a_price_is_refused(model_id: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        find_price(model_id, AT)
    assert repr(model_id) in str(caught.value)
    assert genai_prices.__version__ in str(caught.value)


def test_before_the_batch_price_was_published_there_is_none() -> None:
    with pytest.raises(UsageError, match=r"no batch price .* on 2026-10-13"):
        find_price(HAIKU, datetime(2026, 10, 13, 23, 59, tzinfo=UTC))
    find_price(HAIKU, datetime(2026, 10, 14, tzinfo=UTC))
    zone = timezone(timedelta(hours=-2))
    find_price(HAIKU, datetime(2026, 10, 13, 22, 1, tzinfo=zone))


def test_an_unknown_residency_is_refused() -> None:
    with pytest.raises(UsageError, match="inference_geo 'eu'"):
        find_price(HAIKU, AT, inference_geo="eu")


def test_a_time_without_a_zone_is_a_bug() -> None:
    with pytest.raises(ValueError, match="zone"):
        find_price(HAIKU, AT.replace(tzinfo=None))


def test_the_match_is_named() -> None:
    price = find_price(HAIKU, AT)
    assert price.matched_model == "claude-haiku-4-5"
    assert price.library_version == genai_prices.__version__


def test_stated_prices_are_a_million_tokens_each() -> None:
    classes = ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read")
    batch = dict(zip(classes, (0.4, 2, 0.5, 0.8, 0.04), strict=True))
    realtime = {name: 2 * usd for name, usd in batch.items()}
    price = stated_price("a-model", {"batch": batch, "realtime": realtime}, AT)
    usage = TokenUsage(*[MILLION] * 5)
    assert price.cost(usage, mode="batch") == Decimal("3.74")
    assert price.cost(usage, mode="realtime") == Decimal("7.48")
    assert price.upper_bound(MILLION, 0, "batch") == Decimal("0.8")
    assert (price.matched_model, price.source) == ("a-model", "stated by the job")
    assert find_price(HAIKU, AT).source == f"genai-prices {genai_prices.__version__}"


@given(
    st.sampled_from(sorted(PRICES)), usages, st.sampled_from(["batch", "realtime"]), counts, counts
)
def test_no_usage_within_the_bound_costs_more(
    model_id: str, usage: TokenUsage, mode: Mode, more_input: int, more_output: int
) -> None:
    price = PRICES[model_id]
    bound = price.upper_bound(
        usage.prompt_tokens + more_input, usage.output_tokens + more_output, mode
    )
    assert bound >= price.cost(usage, mode=mode)
    uncached = TokenUsage(usage.prompt_tokens, usage.output_tokens)
    assert bound >= price.upper_bound(
        uncached.input_tokens, uncached.output_tokens, mode, caching=False
    )
    assert price.upper_bound(
        uncached.input_tokens + more_input, uncached.output_tokens, mode, caching=False
    ) >= price.cost(uncached, mode=mode)


def test_the_bound_counts_the_dearest_class() -> None:
    price = find_price(HAIKU, AT)
    assert price.upper_bound(MILLION, MILLION, "batch") == Decimal("3.5")
    assert price.upper_bound(MILLION, MILLION, "batch", caching=False) == Decimal(3)


@given(usages, usages)
def test_usages_add_up_class_by_class(left: TokenUsage, right: TokenUsage) -> None:
    total = left + right
    assert total == right + left
    assert total.prompt_tokens == left.prompt_tokens + right.prompt_tokens
    assert left + TokenUsage() == left


def test_pricing_a_usage_asks_the_library_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its own calculation takes twenty times as long, and there are millions of answers.
    price = find_price(TIERED, AT)
    for name in ("calc_price", "Usage"):
        monkeypatch.delattr(genai_prices, name)
    assert price.cost(TokenUsage(3000, 200, 10, 20, 30), mode="batch") > 0
