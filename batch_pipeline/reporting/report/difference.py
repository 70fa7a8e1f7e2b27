"""Why a night cost more or less than expected: the difference in USD, as reasons that add up to it.

The reasons replace one expected figure after the other by the actual one: the number of requests,
then their tokens, at the list price of plain input and output. What retries and duplicates cost is
known exactly. What is left is the reason `price`: token classes, tiers, caching, real time, another
model or price.
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
    """What was expected of a whole night; `source` says in a few words where that is from.

    Tokens are means of one request; prompt tokens are of all classes together.
    """

    source: str
    requests: int
    input_tokens: Decimal
    output_tokens: Decimal
    usd: Decimal


@dataclass(frozen=True)
class Asked:
    """What the first attempts of the night's requests came to.

    `requests` were answered in any way, `billed` of them cost something; tokens are sums over them.
    `again_usd` is what further attempts cost, `duplicates_usd` what batches bought twice cost.
    """

    requests: int = 0
    billed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    again_usd: Decimal = ZERO
    duplicates_usd: Decimal = ZERO


@dataclass(frozen=True)
class Difference:
    """Expected and billed USD, and the reasons by name, in the order in which they are shown."""

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

    `prices` are USD a token, of a batch request of usual length.
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
