"""What meeting a night's deadline cost: a value for the report, and its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any


@dataclass(frozen=True)
class DeadlineCost:
    """A night's deadline; amounts in USD.

    `requests` were answered in real time only because batches would have been too late: billed
    `realtime_usd`, as batches they would have been `batch_usd`. `met` is None while that is open.
    """

    wanted_at: datetime
    met: bool | None
    requests: int = 0
    realtime_usd: Decimal = Decimal(0)
    batch_usd: Decimal = Decimal(0)

    @property
    def extra_usd(self) -> Decimal:
        return self.realtime_usd - self.batch_usd

    @property
    def outcome(self) -> str:
        return {True: "met", False: "missed", None: "not over yet"}[self.met]

    def as_json(self) -> dict[str, Any]:
        return {
            "wanted_at": self.wanted_at.isoformat(timespec="seconds"),
            "met": self.met,
            "realtime_requests": self.requests,
            "realtime_cost_usd": self.realtime_usd,
            "as_batches_usd": self.batch_usd,
            "extra_cost_usd": self.extra_usd,
        }
