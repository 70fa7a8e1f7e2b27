"""Batches or real time: the recommendation of an estimate, and its reason.

A pure function of what each way costs and takes, and of when the results are wanted. What is done
about a deadline while a night runs stands in `forecast`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from batch_pipeline.money.wording import duration, usd


@dataclass(frozen=True)
class Way:
    """One way to have all requests answered: USD, and hours until the last answer."""

    usd: Decimal
    hours: float


@dataclass(frozen=True)
class Advice:
    """What `mode` to declare, and why."""

    mode: Literal["batch", "realtime", "auto"]
    reason: str


def advise(batch: Way, realtime: Way, hours_left: float | None) -> Advice:
    """Batches, which cost half, unless they would miss the deadline, in so many hours (None: there
    is none)."""
    saved = realtime.usd - batch.usd
    faster = f"real time would take about {_hours(realtime.hours)}"
    if not batch.usd:
        return Advice("batch", "there is nothing left to buy")
    if hours_left is None:
        return Advice("batch", f"it saves {usd(saved)}, and no deadline is declared; {faster}")
    left = f"the deadline is in {_hours(hours_left)}"
    if batch.hours <= hours_left:
        took = f"batches are expected back within {_hours(batch.hours)}"
        return Advice("batch", f"it saves {usd(saved)}; {took}, {left}")
    if realtime.hours <= hours_left:
        return Advice(
            "auto",
            f"{left}, batches may take {_hours(batch.hours)}: what would miss it goes in real "
            f"time, which takes about {_hours(realtime.hours)}",
        )
    return Advice(
        "auto",
        f"{left}: neither batches ({_hours(batch.hours)}) nor real time "
        f"({_hours(realtime.hours)}) are expected to meet it for all requests",
    )


def _hours(hours: float) -> str:
    return duration(hours * 3600)
