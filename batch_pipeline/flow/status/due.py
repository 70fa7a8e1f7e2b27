"""When a night's results are wanted: the instant that a job's `deadline` means.

Belongs here: pure functions of the declaration and of the time at which the input was taken, and
how a night stands towards its deadline. What
is done to meet a deadline stands in `forecast` (the decision) and `takeover` (the deed).
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from batch_pipeline.ledger.nights import Night
from batch_pipeline.reporting.wording import moment

if TYPE_CHECKING:
    from batch_pipeline.jobs.partitions import PartitionsSpec
    from batch_pipeline.jobs.spec import JobSpec

# Keys of a night's forecast that say why something stays with batches although it is late.
NOT_TAKEN_OVER = "not_taken_over"
KEPT_AS_BATCHES = "kept_as_batches"


class Start(StrEnum):
    """Who began a night, as far as its deadline is concerned."""

    SCHEDULE = "schedule"
    # Somebody wants many nights filled in: nobody waits for one of them at six in the morning.
    BACKFILL = "backfill"
    PERSON = "person"


def of_night(spec: JobSpec, partition: str, taken_at: float, start: Start) -> float | None:
    """When the results of a night are wanted, whose input was taken at `taken_at`; None: any time.

    Both in seconds since the epoch. Derived from the time of the snapshot and never from the
    partition's date. A night that a person began has a deadline if it is the one that the schedule
    would run now: an older one is a backfill, whatever it was started by.
    """
    if spec.mode != "auto" or spec.deadline is None or start is Start.BACKFILL:
        return None
    from batch_pipeline.jobs.partitions import newest_key  # noqa: PLC0415  # needs pydantic

    taken = datetime.fromtimestamp(taken_at, UTC)
    if start is Start.PERSON and partition != newest_key(spec.partitions, taken):
        return None
    return due(spec.deadline, taken, spec.partitions).timestamp()


def standing(night: Night, at: float) -> str | None:
    """How a night stands towards its deadline, in a few words; None where it has none."""
    if night.deadline_at is None:
        return None
    if night.completed_at is not None:
        how = "met" if night.completed_at <= night.deadline_at else "missed"
    elif at > night.deadline_at:
        how = "missed"
    elif night.forecast is None or "meets" not in night.forecast:
        how = "not forecast yet"
    else:
        how = "expected to be met" if night.forecast["meets"] else "expected to be missed"
    return f"deadline {moment(night.deadline_at)} {how}"


def details(night: Night, at: float) -> str | None:
    """The same with the forecast, and with what could not be done for it."""
    brief = standing(night, at)
    if brief is None or night.forecast is None or night.completed_at is not None:
        return brief
    late = [
        f"{what.replace('_', ' ')}: {night.forecast[what]}"
        for what in (NOT_TAKEN_OVER, KEPT_AS_BATCHES)
        if night.forecast.get(what) is not None
    ]
    return "; ".join(filter(None, [brief, night.forecast.get("reason"), *late]))


def due(deadline: str, taken: datetime, partitions: PartitionsSpec | None) -> datetime:
    """The instant that `06:00` or `8h` means for an input taken at `taken` (aware); in UTC.

    A time of day is its first occurrence after `taken`, in the job's time zone: one that comes
    twice when the clocks are put back is met twice, one that is left out when they are put forward
    is as much later as the clocks are put.
    """
    if deadline.endswith("h"):
        return taken.astimezone(UTC) + timedelta(hours=int(deadline[:-1]))
    zone = ZoneInfo(partitions.timezone if partitions else "UTC")
    wanted = time.fromisoformat(deadline)
    today = taken.astimezone(zone).date()
    occurrences = [
        found
        for days in (0, 1)
        for found in _occurrences(datetime.combine(today + timedelta(days), wanted, zone))
    ]
    return min(found for found in occurrences if found > taken)


def _occurrences(local: datetime) -> list[datetime]:
    """A wall-clock time as instants: two where the clocks are put back over it."""
    first, second = (local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    # In a gap the second one would be an hour before the first: no clock ever shows it.
    return [first, second] if second > first else [first]
