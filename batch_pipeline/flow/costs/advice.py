"""The recommendation of an estimate (batches or real time) and its reason.

A pure function of what each way costs, how long it takes, and when the results are wanted. What is
done about a deadline while a night runs is in `deadline.forecast`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from batch_pipeline.wording import duration, usd

# The value of an hour without a declared deadline. It is small, so that it decides only for trials
# and small jobs, where batches save cents.
VALUE_OF_AN_HOUR_USD = Decimal(1)
# A person does not wait at the screen for a job that takes longer in real time.
LONGEST_QUICK_HOURS = 0.5


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
    """Recommends batches unless they would miss the deadline, or save less than the time is worth.

    `hours_left` is the time until the deadline; None: there is none.
    """
    if not batch.usd:
        return Advice("batch", "there is nothing left to buy")
    if hours_left is None:
        return _without_deadline(batch, realtime)
    left = f"the deadline is in {_hours(hours_left)}"
    if batch.hours <= hours_left:
        saved = usd(realtime.usd - batch.usd)
        took = f"batches are expected back within {_hours(batch.hours)}"
        return Advice("batch", f"it saves {saved}; {took}, {left}")
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


def _without_deadline(batch: Way, realtime: Way) -> Advice:
    """Real time only where batches save less than the value of the time that they take longer."""
    saved = realtime.usd - batch.usd
    sooner = max(0.0, batch.hours - realtime.hours)
    worth = VALUE_OF_AN_HOUR_USD * Decimal(str(round(sooner, 6)))
    if realtime.hours <= LONGEST_QUICK_HOURS and saved < worth:
        return Advice(
            "realtime",
            f"it is done in about {_hours(realtime.hours)}; batches would save {usd(saved)}, less "
            f"than {_hours(sooner)} of waiting are worth (at {usd(VALUE_OF_AN_HOUR_USD)} an hour)",
        )
    faster = f"real time would take about {_hours(realtime.hours)}"
    return Advice("batch", f"it saves {usd(saved)}, and no deadline is declared; {faster}")


def _hours(hours: float) -> str:
    return duration(hours * 3600)
