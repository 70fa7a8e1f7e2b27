"""The nights that a job's schedule was to run, by its ticks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from batch_pipeline.errors import UsageError
from batch_pipeline.jobs.partitions import partitions
from batch_pipeline.jobs.spec import JobSpec

# How far back nights that were due are looked for: what was missed before is history.
LOOK_BACK = timedelta(days=31)
# How ticks are written and read again, with their offset from UTC.
_TICK = "%Y-%m-%dT%H:%M:%S%z"


@dataclass(frozen=True)
class DueNight:
    """A partition and when its schedule was to run it, in seconds since the epoch."""

    partition: str
    at: float


def due_nights(spec: JobSpec, since: datetime, now: datetime) -> list[DueNight]:
    """What the job's schedule was to run after `since` and up to `now`, oldest first."""
    if spec.schedule is None:
        return []
    ticks = dg.TimeWindowPartitionsDefinition(
        start=since,
        fmt=_TICK,
        cron_schedule=spec.schedule,
        timezone=partitions.timezone_of(spec.partitions),
        end_offset=1,
    )
    found: dict[str, DueNight] = {}
    for text in ticks.get_partition_keys(current_time=now):
        tick = datetime.fromisoformat(text)
        if not since < tick <= now:
            continue
        try:
            keys = partitions.due_keys(spec.partitions, tick)
        except UsageError:
            # The job has no partition yet at this tick.
            continue
        for key in keys:
            found.setdefault(key, DueNight(key, tick.timestamp()))
    return list(found.values())


def due_at(spec: JobSpec, partition: str) -> float | None:
    """When the job's schedule runs a partition first, in seconds since the epoch; None: it does not
    within two windows after it, or the partition is no time."""
    window = partitions.window_of(spec.partitions, partition)
    if window is None:
        return None
    until = window.end + 2 * (window.end - window.start) + timedelta(days=1)
    due = due_nights(spec, window.start - timedelta(seconds=1), until)
    return next((night.at for night in due if night.partition == partition), None)
