"""The instant that a job's `deadline` means for a night: when its results are wanted.

Pure functions of the declaration and of the time at which the input was taken. What is done to meet
a deadline is in `flow.deadline`.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from batch_pipeline.jobs.partitions.declared_partitions import Declared
from batch_pipeline.jobs.partitions.partitions import is_due, timezone_of
from batch_pipeline.jobs.spec import JobSpec


class Start(StrEnum):
    """Who began a night, as far as its deadline is concerned."""

    SCHEDULE = "schedule"
    # Many nights are filled in: no single one is awaited in the morning.
    BACKFILL = "backfill"
    PERSON = "person"


def of_night(spec: JobSpec, partition: str, taken_at: float, start: Start) -> float | None:
    """When the results of a night are wanted whose input was taken at `taken_at`; None: any time.

    Both are in seconds since the epoch. The deadline follows from the time of the snapshot and
    never from the partition's window. A night that a person began has a deadline if it is the one
    that the schedule would run now; an older one is a backfill.
    """
    if spec.mode != "auto" or spec.deadline is None or start is Start.BACKFILL:
        return None
    taken = datetime.fromtimestamp(taken_at, UTC)
    if start is Start.PERSON and not is_due(spec.partitions, partition, taken):
        return None
    return due(spec.deadline, taken, spec.partitions).timestamp()


def due(deadline: str, taken: datetime, partitions: Declared) -> datetime:
    """The instant that `06:00` or `8h` means for an input taken at `taken` (aware); in UTC.

    A time of day means its first occurrence after `taken`, in the job's time zone. Where the clocks
    are put back over it, both occurrences count; where they are put forward over it, it is as much
    later as they are put.
    """
    if deadline.endswith("h"):
        return taken.astimezone(UTC) + timedelta(hours=int(deadline[:-1]))
    zone = ZoneInfo(timezone_of(partitions))
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
