"""What is saved, by cause: documents that are not asked, and requests that are asked otherwise.

Each row is what the night would have cost without that part of the job's declaration, less what it
costs with it; negative: that part costs more. How each is computed stands in `docs/thrift.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

ZERO = Decimal(0)
# The causes of rows whose requests are sent, but otherwise than the job's own model is asked.
ROUTES, ESCALATION, CACHING = "routes", "escalation", "caching"
ASKED_OTHERWISE = (ROUTES, ESCALATION, CACHING)


@dataclass(frozen=True)
class Avoided:
    """What one cause saves: `documents` (rows), their requests with the tokens of their prompts,
    and USD.

    Requests that are not asked are those that these rows alone would have made. A `conditional` row
    is saved only if the pilot shows that it may be: it is bought until then, and is in no sum.
    """

    cause: str
    documents: int
    requests: int
    input_tokens: int
    usd: Decimal
    conditional: bool = False

    @property
    def is_asked(self) -> bool:
        """Whether the requests are sent."""
        return self.cause in ASKED_OTHERWISE

    @property
    def label(self) -> str:
        """`filter: min words`, for people."""
        name = self.cause.replace(":", ": ").replace("_", " ")
        return f"{name}, if they agree" if self.conditional else name

    def as_json(self) -> dict[str, Any]:
        return {
            "cause": self.cause,
            "documents": self.documents,
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "avoided_usd": self.usd,
            "conditional": self.conditional,
        }


@dataclass(frozen=True)
class Cascade:
    """What the requests that may be escalated cost, first answers and second ones together, and
    what they would cost if the stronger model were asked at first."""

    model_id: str
    usd: Decimal
    at_first_usd: Decimal

    @property
    def saved_usd(self) -> Decimal:
        return self.at_first_usd - self.usd

    def as_json(self) -> dict[str, Any]:
        return {
            "model_id": self.model_id,
            "cost_usd": self.usd,
            "at_first_usd": self.at_first_usd,
            "saved_usd": self.saved_usd,
        }


def settled(found: Iterable[Avoided]) -> list[Avoided]:
    """The rows that depend on nothing."""
    return [each for each in found if not each.conditional]


def not_asked(found: Iterable[Avoided]) -> list[Avoided]:
    """Those of the settled rows whose requests are not sent."""
    return [each for each in settled(found) if not each.is_asked]


def asked_otherwise(found: Iterable[Avoided]) -> list[Avoided]:
    return [each for each in found if each.is_asked]


def total_usd(found: Sequence[Avoided]) -> Decimal:
    return sum((each.usd for each in settled(found)), ZERO)


def by_cause(found: Iterable[Avoided]) -> dict[str, Decimal]:
    return {each.cause: each.usd for each in settled(found)}
