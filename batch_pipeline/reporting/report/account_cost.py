"""What each account had to do with a night: batches, requests and USD."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any


@dataclass(frozen=True)
class AccountCost:
    """The part of a night that one account sent, and was billed for so far."""

    name: str
    organisation: str
    batches: int
    requests: int
    usd: Decimal

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "organisation": self.organisation,
            "batches": self.batches,
            "requests": self.requests,
            "cost_usd": self.usd,
        }
