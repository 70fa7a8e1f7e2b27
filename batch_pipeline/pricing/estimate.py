"""What a night will cost, before anything is sent: the arithmetic of an estimate.

Belongs here: from tokens and prices to dollars and hours. Where the tokens come from, measured or
by a rule, stands in `flow.estimate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from batch_pipeline.pricing.prices import Mode, ModelPrice, Tiers, TokenUsage, UnitPrices

HOUR = 3600.0


@dataclass(frozen=True)
class Spread:
    """Tokens of a request: mean, median, and what 95 of 100 stay under."""

    mean: float
    p50: float
    p95: float

    def scaled(self, factor: float) -> Spread:
        return Spread(self.mean * factor, self.p50 * factor, self.p95 * factor)


@dataclass(frozen=True)
class Shares:
    """Of the prompt's tokens, the parts that are written to the cache and read from it."""

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
        """USD for one token of the prompt, whatever its class turns out to be."""
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
    """USD for all requests one way: expected, with the buffer, and if all were as long as the P95.

    The buffer is for errors, retries and variance.
    """

    expected: Decimal
    buffered: Decimal
    p95: Decimal


@dataclass(frozen=True)
class Work:
    """What is still to be bought: requests, their prompts' tokens, and those of the answers.

    `lengths` are groups of requests, from short to long, as their number and the mean tokens of
    their prompts: tiers of a price go by the length of each prompt.
    """

    requests: int
    prompt: Spread
    output: Spread
    lengths: Sequence[tuple[int, float]]
    shares: Shares = UNCACHED


def amounts(work: Work, price: ModelPrice, mode: Mode, buffer: float) -> Amounts:
    """USD one way, exact for the tokens that are assumed."""
    tiers = price.batch if mode == "batch" else price.realtime
    expected = sum(
        (
            _usd(tiers, work.shares, length, work.output.mean) * requests
            for requests, length in work.lengths
        ),
        Decimal(0),
    )
    longest = _usd(tiers, work.shares, work.prompt.p95, work.output.p95) * work.requests
    return Amounts(
        expected=expected,
        buffered=expected * (1 + Decimal(str(buffer))),
        p95=max(expected, longest),
    )


def _usd(tiers: Tiers, shares: Shares, prompt: float, output: float) -> Decimal:
    """USD for a request with so many tokens, which need not be whole ones."""
    prices = tiers.at(math.ceil(prompt))
    return Decimal(str(prompt)) * shares.price(prices) + Decimal(str(output)) * prices.output


def batch_hours(requests: int, queue: int, turnaround_seconds: float) -> float:
    """The queue takes as many requests at once as its limit; the rest follows with each return."""
    if not requests:
        return 0.0
    return math.ceil(requests / max(queue, 1)) * turnaround_seconds / HOUR


def realtime_hours(requests: int, requests_per_second: float) -> float:
    return requests / requests_per_second / HOUR if requests else 0.0
