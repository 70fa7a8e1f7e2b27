"""What was not bought: documents that were not asked, by cause, and what they would have cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

ZERO = Decimal(0)


@dataclass(frozen=True)
class Avoided:
    """What one cause saves: `documents` (rows), and the requests that they alone would have made,
    with the tokens of their prompts and their price.

    `usd` is expected: these documents were never asked. It is of exactly their bytes, at the tokens
    a byte and an answer of the documents that were asked.
    """

    cause: str
    documents: int
    requests: int
    input_tokens: int
    usd: Decimal

    @property
    def label(self) -> str:
        """`filter: min words`, for people."""
        return self.cause.replace(":", ": ").replace("_", " ")

    def as_json(self) -> dict[str, Any]:
        return {
            "cause": self.cause,
            "documents": self.documents,
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "avoided_usd": self.usd,
        }


def total_usd(found: Iterable[Avoided]) -> Decimal:
    return sum((each.usd for each in found), ZERO)


def by_cause(found: Iterable[Avoided]) -> dict[str, Decimal]:
    return {each.cause: each.usd for each in found}
