"""The most that requests can cost, before they go out: what ceilings are checked against.

A bound takes constant time, whatever the number of requests: it follows from their bytes, from the
largest, and from what they may answer. What was spent, and the ceilings, stand in `state.budget`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from batch_pipeline.pricing.prices import Mode, ModelPrice

# Fewer answers than these say too little about the next document's tokens.
LEAST_ANSWERS = 10


@dataclass(frozen=True)
class Measured:
    """Prompt tokens that were billed, and the request bytes that they were billed for."""

    answers: int = 0
    bytes: int = 0
    tokens: int = 0

    def tokens_per_byte(self, buffer: float) -> Decimal:
        """What to reckon with for the next requests: as measured, and `buffer` more (0.2: 20 %).

        Before enough is measured it is 1: a token has at least a byte.
        """
        if self.answers < LEAST_ANSWERS or not self.bytes or not self.tokens:
            return Decimal(1)
        return Decimal(self.tokens) / self.bytes * (1 + Decimal(str(buffer)))


@dataclass(frozen=True)
class Bounds:
    """Bounds of requests of one declaration; `caching`: it asks for prompt caching."""

    price: ModelPrice
    tokens_per_byte: Decimal = Decimal(1)
    caching: bool = True

    def usd(
        self, mode: Mode, *, input_bytes: int, largest_bytes: int, output_tokens: int
    ) -> Decimal:
        """The most in USD for requests of `input_bytes` together, the largest of which has
        `largest_bytes`, with at most `output_tokens` of output together."""
        return self.price.upper_bound(
            self._tokens(input_bytes),
            output_tokens,
            mode,
            caching=self.caching,
            longest=self._tokens(largest_bytes),
        )

    def _tokens(self, size: int) -> int:
        return int((self.tokens_per_byte * size).to_integral_value(ROUND_CEILING))
