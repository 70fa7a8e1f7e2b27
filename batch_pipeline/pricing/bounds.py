"""Upper bounds of what requests can cost, before they are sent: ceilings are checked against them.

A bound takes constant time for any number of requests: it follows from their bytes together, from
the bytes of the largest, and from the tokens that they may answer. What was spent, and the
ceilings, are in `ledger.admission.budget`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from batch_pipeline.pricing.prices import Mode, ModelPrice
from batch_pipeline.pricing.tokens import Lifetime

# With fewer answers than these the tokens of the next documents are too uncertain.
LEAST_ANSWERS = 10


@dataclass(frozen=True)
class Measured:
    """Prompt tokens that were billed, and the bytes of the requests that they were billed for."""

    answers: int = 0
    bytes: int = 0
    tokens: int = 0

    def tokens_per_byte(self, buffer: float) -> Decimal:
        """Tokens for each byte of the next requests: as measured, and `buffer` more (0.2: 20 %).

        1 until enough answers are measured, because a token has at least one byte.
        """
        if self.answers < LEAST_ANSWERS or not self.bytes or not self.tokens:
            return Decimal(1)
        return Decimal(self.tokens) / self.bytes * (1 + Decimal(str(buffer)))


@dataclass(frozen=True)
class Bounds:
    """Bounds for requests of one declaration; `caching` says that it asks for prompt caching, and
    `fees` are USD of each request beside its tokens.

    `written` is what the pipeline's own cache marks may have the API write of each request: the
    bytes of the shared prefix, and the lifetime of the marks at most.
    """

    price: ModelPrice
    tokens_per_byte: Decimal = Decimal(1)
    caching: bool = True
    fees: Decimal = Decimal(0)
    written: tuple[int, Lifetime] | None = None

    def usd(
        self,
        mode: Mode,
        *,
        input_bytes: int,
        largest_bytes: int,
        output_tokens: int,
        requests: int = 1,
    ) -> Decimal:
        """The most in USD for `requests` with `input_bytes` and at most `output_tokens` together;
        the largest request has `largest_bytes`."""
        tokens = self.price.upper_bound(
            self._tokens(input_bytes),
            output_tokens,
            mode,
            caching=self.caching,
            longest=self._tokens(largest_bytes),
        )
        if self.written is not None:
            size, lifetime = self.written
            longest = self._tokens(largest_bytes)
            dearer = self.price.most_above_input(lifetime, mode, longest)
            tokens += dearer * self._tokens(size) * requests
        return tokens + self.fees * requests

    def _tokens(self, size: int) -> int:
        return int((self.tokens_per_byte * size).to_integral_value(ROUND_CEILING))
