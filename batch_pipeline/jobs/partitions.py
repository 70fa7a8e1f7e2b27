"""Partition keys of a job: which nights exist, from the declaration and the time.

The keys are those of Dagster's `DailyPartitionsDefinition`, so that the command line and Dagster
mean the same night; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from difflib import get_close_matches
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator

from batch_pipeline.errors import UsageError
from batch_pipeline.jobs.declared_model import DeclaredModel

SINGLE_KEY = "all"
"""The one key of a job that declares no partitions."""


class PartitionsSpec(DeclaredModel):
    """One partition a day; the key is the day's ISO date, which never holds a slash.

    A day becomes a partition when it has ended in `timezone`; `end_offset` adds that many days, so
    that with 1 the running day is a partition too.
    """

    start: date = Field(description="The first day.", examples=["2026-01-01"])
    timezone: str = Field(
        default="UTC",
        description="The IANA time zone in which a day begins and ends.",
        examples=["Europe/Zurich"],
    )
    end_offset: int = Field(
        default=0,
        ge=0,
        description="0: the newest partition is the day that has ended; 1: the running one.",
        examples=[1],
    )

    @field_validator("start", mode="before")
    @classmethod
    def _iso_date(cls, value: object) -> object:
        """YAML reads 2026-01-01 as a date and "2026-01-01" as text; both mean the day."""
        if isinstance(value, str):
            parsed = _parse_key(value)
            if parsed is None:
                raise ValueError(f"must be a date like 2026-01-01, not {value!r}")
            return parsed
        return value

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        names = available_timezones()
        if value in names:
            return value
        close = get_close_matches(value, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"must be an IANA time zone like Europe/Zurich, not {value!r}{hint}")


def newest_key(spec: PartitionsSpec | None, now: datetime) -> str | None:
    """The newest partition that exists at `now` (aware); None while the first is yet to come.

    At 01:00 on the 22nd it is the 21st, in the job's time zone; with `end_offset` 1 the 22nd.
    """
    if spec is None:
        return SINGLE_KEY
    last = _last_day(spec, now)
    return last.isoformat() if last >= spec.start else None


def default_key(spec: PartitionsSpec | None, now: datetime) -> str:
    """The partition that the schedule would run at `now`; UsageError while there is none."""
    key = newest_key(spec, now)
    if key is None:
        raise UsageError(_nothing_yet(spec, now))
    return key


def check_key(spec: PartitionsSpec | None, key: str, now: datetime) -> None:
    """Raise UsageError, naming the valid range, unless `key` is a partition at `now`."""
    if spec is None:
        if key != SINGLE_KEY:
            raise UsageError(
                f"partition {key!r} does not exist: the job has one partition, {SINGLE_KEY!r}, "
                f"since it declares no partitions; use --partition {SINGLE_KEY} or leave it out"
            )
        return
    last = _last_valid_day(spec, now)
    if last < spec.start:
        raise UsageError(f"partition {key!r} does not exist: {_nothing_yet(spec, now)}")
    valid = f"the job's partitions are {spec.start.isoformat()} to {last.isoformat()}"
    day = _parse_key(key)
    if day is None:
        raise UsageError(f"partition {key!r} is not a day written like {last}; {valid}")
    if not spec.start <= day <= last:
        raise UsageError(
            f"partition {key!r} does not exist: {valid} "
            f"(a day in {spec.timezone} becomes one {_becomes(spec)})"
        )


def check_day(spec: PartitionsSpec | None, key: str) -> None:
    """Raise UsageError unless the job has one night a day and `key` is a day, existing or not."""
    if spec is None:
        raise UsageError(f"the job has one night, {SINGLE_KEY!r}, and none before another")
    if _parse_key(key) is None:
        raise UsageError(f"{key!r} is not a day written like {spec.start.isoformat()}")


def keys_between(spec: PartitionsSpec | None, first: str, last: str, now: datetime) -> list[str]:
    """All keys from `first` to `last`, both included and both checked; empty if out of order."""
    check_key(spec, first, now)
    check_key(spec, last, now)
    if spec is None:
        return [SINGLE_KEY]
    return _days(date.fromisoformat(first), date.fromisoformat(last))


def key_before(spec: PartitionsSpec, key: str, count: int) -> str:
    """The key `count` partitions before an existing one, or the first where there are fewer."""
    day = date.fromisoformat(key)
    return (day - timedelta(days=min(count, (day - spec.start).days))).isoformat()


@dataclass(frozen=True)
class Window:
    """A time window, in the time zone of its job: `start` is part of it, `end` is not."""

    start: datetime
    end: datetime


def window_of(spec: PartitionsSpec | None, key: str) -> Window | None:
    """The time that a partition stands for; None where partitions are no times, or for a key that
    is none of the job as declared now."""
    day = _parse_key(key)
    if spec is None or day is None:
        return None
    zone = ZoneInfo(spec.timezone)
    starts = (datetime.combine(each, time(), zone) for each in (day, day + timedelta(days=1)))
    return Window(*starts)


def all_keys(spec: PartitionsSpec | None, now: datetime) -> list[str]:
    """Every partition that exists at `now`, oldest first."""
    if spec is None:
        return [SINGLE_KEY]
    return _days(spec.start, _last_valid_day(spec, now))


def _last_day(spec: PartitionsSpec, now: datetime) -> date:
    """The last day that is a partition at `now`.

    A day has ended when the calendar of its time zone shows a later one: where the clocks change,
    it has 23 or 25 hours.
    """
    if now.tzinfo is None:
        raise ValueError("now must carry a time zone")
    return now.astimezone(ZoneInfo(spec.timezone)).date() + timedelta(days=spec.end_offset - 1)


def _last_valid_day(spec: PartitionsSpec, now: datetime) -> date:
    """The last day that Dagster accepts: with an offset it has the first day one day early.

    Dagster 1.13 does so, and a key that its UI offers must exist here too. No schedule runs it yet,
    so that `newest_key` does not return it.
    """
    last = _last_day(spec, now)
    if spec.end_offset > 0 and last == spec.start - timedelta(days=1):
        return spec.start
    return last


def _days(first: date, last: date) -> list[str]:
    return [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]


def _parse_key(key: str) -> date | None:
    """The day of a key; None for other spellings of a date (`2026-1-5`, `20260105`)."""
    try:
        day = date.fromisoformat(key)
    except ValueError:
        return None
    return day if day.isoformat() == key else None


def _nothing_yet(spec: PartitionsSpec | None, now: datetime) -> str:
    assert spec is not None, "a job without partitions always has its one key"
    return (
        f"the job has no partition yet: the first is {spec.start.isoformat()}, "
        f"which becomes one {_becomes(spec)} in {spec.timezone} (it is {now.isoformat()})"
    )


def _becomes(spec: PartitionsSpec) -> str:
    match spec.end_offset:
        case 0:
            return "when it has ended"
        case 1:
            return "when it begins"
        case days:
            return f"{days - 1} days before it begins"
