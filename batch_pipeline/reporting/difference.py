"""Why a night cost more or less than was expected: the difference, cut into reasons that add up.

Each reason is what changes if that one thing becomes as it was in fact, the former ones being so
already: first how many requests there were, then their tokens, at the list price of plain input and
output. What retries and duplicates cost is known exactly. All else (the class and tier that tokens
fell into, caching, the engine, another model or price) is the part of the price.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from batch_pipeline.pricing.prices import UnitPrices

ZERO = Decimal(0)


@dataclass(frozen=True)
class Expected:
    """What was foreseen for a whole night, and by what (`source`: a few words for people).

    Tokens are means of one request, prompt tokens of all classes together.
    """

    source: str
    requests: int
    input_tokens: Decimal
    output_tokens: Decimal
    usd: Decimal


@dataclass(frozen=True)
class Asked:
    """What the night's requests came to when they were asked for the first time.

    `requests` were answered in any way, `billed` of them cost something; tokens are sums. `again`
    and `duplicates` are what further attempts and batches bought twice cost.
    """

    requests: int = 0
    billed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    again_usd: Decimal = ZERO
    duplicates_usd: Decimal = ZERO


@dataclass(frozen=True)
class Difference:
    """Expected and billed USD, and the reasons by name, in the order of their telling."""

    source: str
    expected_usd: Decimal
    actual_usd: Decimal
    reasons: Mapping[str, Decimal]

    @property
    def usd(self) -> Decimal:
        return self.actual_usd - self.expected_usd

    def as_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "expected_usd": self.expected_usd,
            "actual_usd": self.actual_usd,
            "difference_usd": self.usd,
            "reasons_usd": dict(self.reasons),
        }


def explain(
    expected: Expected, asked: Asked, actual_usd: Decimal, prices: UnitPrices
) -> Difference:
    """The difference in USD by reason; the reasons add up to it exactly.

    `prices` are those of a batch request of usual length, USD a token.
    """
    each = expected.input_tokens * prices.input + expected.output_tokens * prices.output
    reasons = {
        "items": (asked.requests - expected.requests) * each,
        "errors": (asked.billed - asked.requests) * each,
        "input_tokens": (asked.input_tokens - asked.billed * expected.input_tokens) * prices.input,
        "output_tokens": (
            (asked.output_tokens - asked.billed * expected.output_tokens) * prices.output
        ),
        "retries": asked.again_usd,
        "duplicates": asked.duplicates_usd,
    }
    rest = actual_usd - expected.usd - sum(reasons.values(), ZERO)
    return Difference(expected.source, expected.usd, actual_usd, {**reasons, "price": rest})
