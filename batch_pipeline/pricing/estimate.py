"""The arithmetic of an estimate: from tokens and prices to dollars and hours.

Where the tokens are known from is in `flow.costs.estimate`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from batch_pipeline.pricing.prices import Mode, ModelPrice, Tiers, UnitPrices
from batch_pipeline.pricing.tokens import TokenUsage

HOUR = 3600.0


@dataclass(frozen=True)
class Spread:
    """Tokens (or bytes) of a request: mean, median, and 95th percentile."""

    mean: float
    p50: float
    p95: float

    def scaled(self, factor: float) -> Spread:
        return Spread(self.mean * factor, self.p50 * factor, self.p95 * factor)


@dataclass(frozen=True)
class Shares:
    """The parts of a prompt's tokens that are written to the cache, and read from it."""

    cache_write_5m: float = 0.0
    cache_write_1h: float = 0.0
    cache_read: float = 0.0

    @classmethod
    def of(cls, usage: TokenUsage) -> Shares:
        whole = usage.prompt_tokens
        if not whole:
            return cls()
        return cls(
            usage.cache_write_5m_tokens / whole,
            usage.cache_write_1h_tokens / whole,
            usage.cache_read_tokens / whole,
        )

    def price(self, prices: UnitPrices) -> Decimal:
        """USD for one token of the prompt, as a mean over its classes."""
        written, longer, read = (
            Decimal(str(share))
            for share in (self.cache_write_5m, self.cache_write_1h, self.cache_read)
        )
        plain = 1 - written - longer - read
        return (
            plain * prices.input
            + written * prices.cache_write_5m
            + longer * prices.cache_write_1h
            + read * prices.cache_read
        )


UNCACHED = Shares()


@dataclass(frozen=True)
class Amounts:
    """USD for all requests one way.

    `buffered` is `expected` with a buffer for errors, retries and variance; `p95` is for prompts
    and answers that are all as long as the 95th percentile.
    """

    expected: Decimal
    buffered: Decimal
    p95: Decimal


@dataclass(frozen=True)
class Work:
    """What is still to be bought: requests, tokens of their prompts, and tokens of their answers.

    `lengths` has groups of requests from short to long, each as (number of requests, mean tokens of
    a prompt), because price tiers go by the length of each prompt. `fees` are USD of a request by
    mode, beside its tokens.
    """

    requests: int
    prompt: Spread
    output: Spread
    lengths: Sequence[tuple[float, float]]
    shares: Shares = UNCACHED
    fees: Mapping[Mode, Decimal] = field(default_factory=dict)


def amounts(work: Work, price: ModelPrice, mode: Mode, buffer: float) -> Amounts:
    """USD for the work one way, at the tokens that are assumed."""
    tiers = price.tiers(mode)
    expected = sum(
        (
            _usd(tiers, work.shares, length, work.output.mean) * Decimal(str(requests))
            for requests, length in work.lengths
        ),
        Decimal(0),
    )
    fees = work.fees.get(mode, Decimal(0)) * work.requests
    expected += fees
    longest = _usd(tiers, work.shares, work.prompt.p95, work.output.p95) * work.requests + fees
    return Amounts(
        expected=expected,
        buffered=expected * (1 + Decimal(str(buffer))),
        p95=max(expected, longest),
    )


def _usd(tiers: Tiers, shares: Shares, prompt: float, output: float) -> Decimal:
    """USD for a request with these mean tokens, which need not be whole numbers."""
    prices = tiers.at(math.ceil(prompt))
    return Decimal(str(prompt)) * shares.price(prices) + Decimal(str(output)) * prices.output


def batch_hours(requests: int, queue: int, turnaround_seconds: float) -> float:
    """Hours until the last batch has ended, where the queue takes `queue` requests at a time."""
    if not requests:
        return 0.0
    return math.ceil(requests / max(queue, 1)) * turnaround_seconds / HOUR


def realtime_hours(requests: int, requests_per_second: float) -> float:
    """Hours until the last call is answered."""
    return requests / requests_per_second / HOUR if requests else 0.0
