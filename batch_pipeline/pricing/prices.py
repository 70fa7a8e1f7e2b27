"""Prices of a model on a date, from the library `genai-prices`, and what a usage costs at them.

Belongs here: finding prices, refusing a model that has none, and pricing tokens. This project keeps
no prices of its own. Estimates, bounds and reports are made elsewhere from these numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, NamedTuple

import genai_prices
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, TieredPrices

from batch_pipeline.errors import UsageError
from batch_pipeline.pricing.tokens import Lifetime, TokenUsage

Mode = Literal["batch", "realtime"]
MODES: tuple[Mode, Mode] = ("batch", "realtime")

_PROVIDER = "anthropic"
_BATCH = {"processing": "batch"}
# For data residency the API multiplies the prices of all token classes, which the library does not
# know. Other values are refused, because with an unknown factor every amount would be wrong.
_RESIDENCY_FACTORS = {None: Decimal(1), "global": Decimal(1), "us": Decimal("1.1")}


class UnitPrices(NamedTuple):
    """USD for one token of each class."""

    input: Decimal
    output: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal
    cache_read: Decimal

    def cache_write(self, lifetime: Lifetime) -> Decimal:
        """USD for one token that is written to the cache."""
        return self.cache_write_5m if lifetime == "5m" else self.cache_write_1h

    def cost(self, usage: TokenUsage) -> Decimal:
        """USD for tokens at these prices: those of one request, or of several of the same tier."""
        return (
            self.input * usage.input_tokens
            + self.output * usage.output_tokens
            + self.cache_write_5m * usage.cache_write_5m_tokens
            + self.cache_write_1h * usage.cache_write_1h_tokens
            + self.cache_read * usage.cache_read_tokens
        )


# The library's names of the same classes, in the same order; its prices are USD per million tokens.
_LIBRARY_KEYS = (
    "input_mtok",
    "output_mtok",
    "cache_write_mtok",
    "cache_write_1h_mtok",
    "cache_read_mtok",
)


@dataclass(frozen=True, slots=True)
class Tiers:
    """Unit prices by prompt length: `prices[n]` applies above `starts[n - 1]` prompt tokens.

    Crossing a start changes the price of all tokens of that request.
    """

    starts: tuple[int, ...]
    prices: tuple[UnitPrices, ...]

    def at(self, prompt_tokens: int) -> UnitPrices:
        """The unit prices of a request with `prompt_tokens`."""
        return self.prices[bisect_left(self.starts, prompt_tokens)]

    def up_to(self, prompt_tokens: int) -> tuple[UnitPrices, ...]:
        """The unit prices that may apply to a request of at most `prompt_tokens`."""
        return self.prices[: bisect_left(self.starts, prompt_tokens) + 1]

    def picodollars(self) -> tuple[tuple[int, ...], ...]:
        """The prices in whole picodollars (1e-12 USD), for exact sums of integers.

        Published and stated prices have at most six decimals for a million tokens, so that all are
        whole numbers; ValueError where one is not.
        """
        scaled = [[price.scaleb(12) for price in prices] for prices in self.prices]
        if any(price != int(price) for prices in scaled for price in prices):
            raise ValueError(f"a price is no whole number of picodollars: {self.prices}")
        return tuple(tuple(int(price) for price in prices) for prices in scaled)


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """The prices of one model on one date, both ways.

    `matched_model` is the library's id for the model: names match by prefix, so that a report names
    it too. `library_version` is None where the job states its own prices. `web_search` is USD for
    one search, the same both ways; None: not known.
    """

    matched_model: str
    library_version: str | None
    batch: Tiers
    realtime: Tiers
    web_search: Decimal | None = None

    @property
    def source(self) -> str:
        """Where the prices are from, for a report."""
        if self.library_version is None:
            return "stated by the job"
        return f"genai-prices {self.library_version}"

    def tiers(self, mode: Mode) -> Tiers:
        """The unit prices of one way."""
        return self.batch if mode == "batch" else self.realtime

    def cost(self, usage: TokenUsage, *, mode: Mode) -> Decimal:
        """USD for the usage of one request, exact.

        The price tier follows from the length of the request's own prompt, so that usages of
        several requests must not be added up before they are priced.
        """
        return self.tiers(mode).at(usage.prompt_tokens).cost(usage)

    def upper_bound(
        self,
        input_tokens: int,
        output_tokens: int,
        mode: Mode,
        *,
        caching: bool = True,
        longest: int | None = None,
    ) -> Decimal:
        """The most in USD that requests with at most these tokens can cost.

        Every prompt token counts at the dearest class that it may fall into; where the requests ask
        for no `caching` that is plain input. The tokens are those of one request, or of several
        whose longest prompt has `longest` tokens: all count at the dearest tier that it may reach.
        """
        reachable = self.tiers(mode).up_to(input_tokens if longest is None else longest)
        dearest_input = max(
            max(prices.input, prices.cache_write_5m, prices.cache_write_1h, prices.cache_read)
            if caching
            else prices.input
            for prices in reachable
        )
        dearest_output = max(prices.output for prices in reachable)
        return dearest_input * input_tokens + dearest_output * output_tokens

    def most_above_input(self, lifetime: Lifetime, mode: Mode, longest: int) -> Decimal:
        """The most in USD by which a token that is written to the cache costs more than plain
        input, in prompts of at most `longest` tokens."""
        return max(
            max(
                Decimal(0),
                p.cache_write(lifetime) - p.input,
            )
            for p in self.tiers(mode).up_to(longest)
        )


def find_price(model_id: str, at: datetime, *, inference_geo: str | None = None) -> ModelPrice:
    """The prices of a model at a time (aware, any zone), from the installed `genai-prices`.

    Raises UsageError for a model without a price, without a batch price at that time (the library
    would answer with the standard price, silently), or without one of the five token classes, and
    for a data residency whose factor is not known.
    """
    if at.tzinfo is None:
        raise ValueError("a price needs a time with a zone")
    version = genai_prices.__version__
    try:
        factor = _RESIDENCY_FACTORS[inference_geo]
    except KeyError:
        raise UsageError(
            f"no price is known for inference_geo {inference_geo!r}. Use 'us' or 'global'."
        ) from None
    model = _find_model(model_id)
    if model is None:
        raise UsageError(
            f"model {model_id!r} has no price in genai-prices {version}. Check model_id for a "
            "typing error, or update genai-prices."
        )

    standard = model.get_prices(at).__dict__
    batch = _batch_prices(model, at)
    for mode, prices in (("standard", standard), ("batch", batch)):
        missing = [key for key in _LIBRARY_KEYS if prices.get(key) is None]
        if missing:
            raise UsageError(
                f"model {model_id!r} (matched as {model.id!r}) has no {mode} price for "
                f"{', '.join(missing)} on {at.astimezone(UTC):%Y-%m-%d} in genai-prices "
                f"{version}. Choose a model with a published batch price, or update genai-prices."
            )
    return ModelPrice(
        model.id, version, _tiers(batch, factor), _tiers(standard, factor), _web_search(model, at)
    )


def library_id(model_id: str) -> str | None:
    """The library's id for a model, the same for its dated and undated names; None: not known."""
    model = _find_model(model_id)
    return None if model is None else model.id


def context_window(model_id: str) -> int | None:
    """The tokens of a model's context; None: not known."""
    model = _find_model(model_id)
    return None if model is None else model.context_window


def stated_price(
    model_id: str, stated: Mapping[str, Mapping[str, object]], at: datetime
) -> ModelPrice:
    """The prices that a job states: for each way USD per million tokens of the five classes.

    They are what is billed: no factor of data residency is put on top, and there are no tiers. A
    web search costs what the library says of the model at that time.
    """
    batch, realtime = (
        UnitPrices(*(Decimal(str(stated[mode][key])).scaleb(-6) for key in UnitPrices._fields))
        for mode in ("batch", "realtime")
    )
    model = _find_model(model_id)
    web_search = None if model is None else _web_search(model, at)
    return ModelPrice(model_id, None, Tiers((), (batch,)), Tiers((), (realtime,)), web_search)


def _find_model(model_id: str) -> ModelInfo | None:
    try:
        return get_snapshot().find_provider_model(model_id, None, _PROVIDER, None)[1]
    except LookupError:
        return None


def _web_search(model: ModelInfo, at: datetime) -> Decimal | None:
    """USD for one web search; batches have no other price for it."""
    thousand = model.get_prices(at).__dict__.get("web_searches_kcount")
    return thousand.scaleb(-3) if isinstance(thousand, Decimal) else None


def _batch_prices(model: ModelInfo, at: datetime) -> Mapping[str, Decimal | TieredPrices | None]:
    """The batch variant's own prices; `get_prices` would fill its gaps with standard prices."""
    found: dict[str, Decimal | TieredPrices | None] = {}
    for variant in model.price_variants or ():
        if variant.when == _BATCH and (variant.constraint is None or variant.constraint.active(at)):
            for key, price in variant.prices.__dict__.items():
                found.setdefault(key, price)
    return found


def _tiers(prices: Mapping[str, Decimal | TieredPrices | None], factor: Decimal) -> Tiers:
    by_class = [prices[key] for key in _LIBRARY_KEYS]
    starts = sorted(
        {
            tier.start
            for price in by_class
            if isinstance(price, TieredPrices)
            for tier in price.tiers
        }
    )

    def unit_price(price: Decimal | TieredPrices | None, above: int) -> Decimal:
        if isinstance(price, TieredPrices):
            reached = [tier.price for tier in price.tiers if tier.start <= above]
            price = reached[-1] if reached else price.base
        assert price is not None
        return price.scaleb(-6) * factor

    return Tiers(
        tuple(starts),
        tuple(
            UnitPrices(*(unit_price(price, above) for price in by_class)) for above in (-1, *starts)
        ),
    )
