"""Upper bounds of what requests can cost, before they are sent: ceilings are checked against them.

A bound takes constant time for any number of requests: it follows from their bytes together, from
the bytes of the largest, and from the tokens that they may answer. What was spent, and the
ceilings, are in `ledger.admission.budget`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from typing import Any

from batch_pipeline.pricing.prices import Mode, ModelPrice, find_price, stated_price
from batch_pipeline.pricing.tokens import Lifetime

# With fewer answers than these the tokens of the next documents are too uncertain.
LEAST_ANSWERS = 10


@dataclass(frozen=True)
class Measured:
    """Prompt tokens that were billed, and the bytes of the requests that they were billed for."""

    answers: int = 0
    bytes: int = 0
    tokens: int = 0

    def __add__(self, other: Measured) -> Measured:
        return Measured(
            self.answers + other.answers, self.bytes + other.bytes, self.tokens + other.tokens
        )

    def __sub__(self, other: Measured) -> Measured:
        return Measured(
            self.answers - other.answers, self.bytes - other.bytes, self.tokens - other.tokens
        )

    def tokens_per_byte(self, buffer: float) -> Decimal:
        """Tokens for each byte of the next requests: as measured, and `buffer` more (0.2: 20 %).

        1 until enough answers are measured, because a token has at least one byte.
        """
        if self.answers < LEAST_ANSWERS or not self.bytes or not self.tokens:
            return Decimal(1)
        return Decimal(self.tokens) / self.bytes * (1 + Decimal(str(buffer)))


@dataclass(frozen=True)
class Part:
    """Requests of a shard that are priced alike: their model, and what else their price follows
    from (`geo` is the region of inference, `searches` the most web searches of a request).

    `input_bytes` are those of all requests, `largest_bytes` of the largest, `output_tokens` the
    most that they may answer together.
    """

    model_id: str
    geo: str | None
    caching: bool
    searches: int
    requests: int
    input_bytes: int
    largest_bytes: int
    output_tokens: int


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


@dataclass(frozen=True)
class ShardSize:
    """What a bound in USD follows from: of all requests (by the names of `Bounds.usd`), and by what
    they are priced at where that is not the declared model alone."""

    whole: Mapping[str, int]
    parts: Sequence[Part] | None = None


@dataclass(frozen=True)
class ModelBounds(Bounds):
    """The bounds of requests of the declared model, and what those of its other models follow from.

    `measured` are the tokens that the night has measured of each other model, `stated` the prices
    that the job states of its own.
    """

    model_id: str = ""
    buffer: float = 0.0
    measured: Mapping[str, Measured] = field(default_factory=dict)
    stated: Mapping[str, Any] | None = None
    # Per answer, beside what a bound on its searches has.
    measured_fees: Decimal = Decimal(0)

    def of(self, part: Part) -> Bounds:
        """The bounds of requests that are priced alike."""
        own = part.model_id == self.model_id
        price = _price_of_part(part, self.stated if own else None)
        known = self.measured.get(part.model_id, Measured())
        return Bounds(
            price,
            self.tokens_per_byte if own else known.tokens_per_byte(self.buffer),
            part.caching,
            self.measured_fees + part.searches * (price.web_search or Decimal(0)),
            self.written,
        )

    def of_size(self, mode: Mode, size: ShardSize) -> Decimal:
        """The most in USD for requests of this size, each at its own model."""
        if size.parts is None:
            return self.usd(mode, **size.whole)
        return sum((self._of_part(mode, part) for part in size.parts), Decimal(0))

    def _of_part(self, mode: Mode, part: Part) -> Decimal:
        return self.of(part).usd(
            mode,
            input_bytes=part.input_bytes,
            largest_bytes=part.largest_bytes,
            output_tokens=part.output_tokens,
            requests=part.requests,
        )


def _price_of_part(part: Part, stated: Mapping[str, Any] | None) -> ModelPrice:
    at = datetime.now(UTC)
    if stated is not None:
        return stated_price(part.model_id, stated, at)
    return find_price(part.model_id, at, inference_geo=part.geo)
