"""Partitions of a job: which there are, their keys, and the time that each stands for.

The one place that knows a key's meaning: nothing else parses a key, or compares two as texts. Keys
are those of Dagster's own definitions, so that the command line and Dagster mean the same night; a
test compares the two. What a job declares is in `declared_partitions`, the calendar itself in
`time_windows`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from difflib import get_close_matches
from zoneinfo import ZoneInfo

from batch_pipeline.errors import UsageError
from batch_pipeline.jobs.partitions.declared_partitions import (
    Declared,
    PartitionNames,
    PartitionsSpec,
)
from batch_pipeline.jobs.partitions.time_windows import Calendar, Every, Window, parse_start

SINGLE_KEY = "all"
"""The one key of a job that declares no partitions."""

# How the first window of each length is written.
_EXAMPLES: dict[Every, str] = {
    "hour": "2026-01-01-05:00",
    "day": "2026-01-01",
    "week": "2026-01-04 (a Sunday)",
    "month": "2026-01-01",
}


def timezone_of(declared: Declared) -> str:
    """The time zone of a job's schedule and deadline."""
    return declared.timezone if isinstance(declared, PartitionsSpec) else "UTC"


def kind_of(declared: Declared) -> str:
    """`hourly`, `daily`, `weekly`, `monthly`, `static`, or `one`."""
    match declared:
        case None:
            return "one"
        case PartitionNames():
            return "static"
        case PartitionsSpec(every="day"):
            return "daily"
        case _:
            return f"{declared.every}ly"


def describe(declared: Declared) -> str:
    """The partitions in a few words."""
    match declared:
        case None:
            return "one"
        case PartitionNames(names=names):
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            return f"{', '.join(names[:5])}{more}"
        case _:
            return f"one {_a_window(declared)} from {_first_key(declared)}, {declared.timezone}"


def newest_key(declared: Declared, now: datetime) -> str | None:
    """The newest partition that exists at `now` (aware); None while the first is yet to come, and
    where partitions are names: none of those is newer than another.

    At 01:00 on the 22nd it is the 21st, in the job's time zone; with `end_offset` 1 the 22nd.
    """
    if declared is None:
        return SINGLE_KEY
    if isinstance(declared, PartitionNames):
        return None
    last = _last(declared, now)
    return declared.calendar.key(last) if last >= declared.first else None


def due_keys(declared: Declared, now: datetime) -> list[str]:
    """The partitions that the schedule runs at `now`: the newest, or each of the names.

    UsageError while there is none.
    """
    if isinstance(declared, PartitionNames):
        return list(declared.names)
    key = newest_key(declared, now)
    if key is None:
        assert isinstance(declared, PartitionsSpec)
        raise UsageError(_nothing_yet(declared, now))
    return [key]


def default_key(declared: Declared, now: datetime) -> str:
    """The partition that a command means which names none; UsageError where there is no such."""
    due = due_keys(declared, now)
    if len(due) > 1:
        raise UsageError(
            f"the job has {len(due):,} partitions ({describe(declared)}); name one with --partition"
        )
    return due[0]


def is_due(declared: Declared, key: str, now: datetime) -> bool:
    """Whether the schedule would run a partition now."""
    if isinstance(declared, PartitionNames):
        return key in declared.names
    return key == newest_key(declared, now)


def check_key(declared: Declared, key: str, now: datetime) -> None:
    """Raise UsageError, naming the valid range, unless `key` is a partition at `now`."""
    problem = problem_with(declared, key, now)
    if problem is not None:
        raise UsageError(problem)


def problem_with(declared: Declared, key: str, now: datetime) -> str | None:
    """Why `key` is no partition at `now`, naming the valid range; None: it is one."""
    if isinstance(declared, PartitionsSpec):
        return _problem_with_time(declared, key, now)
    if key in _names(declared):
        return None
    if declared is None:
        return (
            f"partition {key!r} does not exist: the job has one partition, {SINGLE_KEY!r}, "
            f"since it declares no partitions; use --partition {SINGLE_KEY} or leave it out"
        )
    close = get_close_matches(key, declared.names, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"partition {key!r} does not exist: the job's partitions are {describe(declared)}{hint}"


def _problem_with_time(declared: PartitionsSpec, key: str, now: datetime) -> str | None:
    calendar, first, last = declared.calendar, declared.first, _last_valid(declared, now)
    if last < first:
        return f"partition {key!r} does not exist: {_nothing_yet(declared, now)}"
    newest = calendar.key(last)
    valid = f"the job's partitions are {calendar.key(first)} to {newest}"
    number = calendar.number(key)
    if number is None and calendar.is_skipped(key):
        return (
            f"partition {key!r} does not exist: the clocks of {declared.timezone} are put forward "
            f"over that hour; {valid}"
        )
    if number is None:
        hint = _with_the_day(declared, key)
        return (
            f"partition {key!r} is not {_a_window(declared)} written like {newest}{hint}; {valid}"
        )
    if not first <= number <= last:
        return (
            f"partition {key!r} does not exist: {valid} "
            f"({_a_window(declared)} in {declared.timezone} becomes one {_becomes(declared)})"
        )
    return None


def _with_the_day(spec: PartitionsSpec, key: str) -> str:
    """A hint at the week or the month that a day lies in; empty for what is no day."""
    day, calendar = parse_start(key, "day"), spec.calendar
    if day is None or spec.every == "hour":
        return ""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=calendar.zone)
    return f" (did you mean {calendar.key(calendar.number_at(noon))}?)"


def window_of(declared: Declared, key: str) -> Window | None:
    """The time that a partition stands for; None where partitions are no times, or for a key that
    is none of the job as declared now."""
    if not isinstance(declared, PartitionsSpec):
        return None
    number = declared.calendar.number(key)
    return None if number is None else declared.calendar.window(number)


def number_of(declared: Declared, key: str) -> int | None:
    """The number of a partition's window, by which windows are ordered and counted; None as for
    `window_of`."""
    if not isinstance(declared, PartitionsSpec):
        return None
    return declared.calendar.number(key)


def order_of(declared: Declared, key: str, begun_at: float) -> tuple[int, float]:
    """What a job's nights are sorted by: their windows, and where partitions are names, when each
    night was begun. A night of a former declaration comes before those of this one."""
    number = number_of(declared, key)
    return (0, begun_at) if number is None else (1, number)


def begin_of(declared: Declared, text: str) -> datetime | None:
    """When the window of a key, or a day written as a date, begins; None for any other text, and
    where partitions are no times."""
    found = window_of(declared, text)
    if found is not None or not isinstance(declared, PartitionsSpec):
        return None if found is None else found.start
    day = Calendar("day", ZoneInfo(declared.timezone))
    number = day.number(text)
    return None if number is None else day.window(number).start


def check_boundary(declared: Declared, text: str) -> None:
    """Raise UsageError unless the job's partitions are times and a text names a moment between two
    of them: a key, existing or not, or a day."""
    if declared is None:
        raise UsageError(f"the job has one night, {SINGLE_KEY!r}, and none before another")
    if isinstance(declared, PartitionNames):
        raise UsageError(
            f"the job's partitions are names ({describe(declared)}), and none is before another; "
            "name one with --partition"
        )
    if begin_of(declared, text) is None:
        raise UsageError(
            f"{text!r} is not {_a_window(declared)} written like {_EXAMPLES[declared.every]}"
            + ("" if declared.every == "day" else ", nor a day like 2026-01-01")
        )


def keys_in_range(declared: Declared, first: str, last: str) -> list[str]:
    """All keys from `first` to `last`, both included, whether they exist yet or not; empty if one
    of the two is no partition of the job as declared now."""
    if isinstance(declared, PartitionsSpec):
        start, end = declared.calendar.number(first), declared.calendar.number(last)
        return [] if start is None or end is None else _keys(declared, start, end)
    names = _names(declared)
    if first not in names or last not in names:
        return []
    return names[names.index(first) : names.index(last) + 1]


def in_ranges(declared: Declared, keys: Iterable[str], most: int) -> list[list[str]]:
    """Partitions of the job as ranges without a gap, of at most `most` each."""
    place = {key: _place(declared, key) for key in keys}
    found: list[list[str]] = []
    for key in sorted(place, key=place.__getitem__):
        if found and len(found[-1]) < most and place[key] == place[found[-1][-1]] + 1:
            found[-1].append(key)
        else:
            found.append([key])
    return found


def keys_up_to(declared: Declared, key: str, count: int) -> list[str]:
    """At most `count` partitions that end with this one, the newest last."""
    if isinstance(declared, PartitionsSpec):
        number = declared.calendar.number(key)
        if number is None or number < declared.first:
            return [key]
        return _keys(declared, max(declared.first, number - count + 1), number)
    names = _names(declared)
    if key not in names:
        return [key]
    end = names.index(key) + 1
    return names[max(0, end - count) : end]


def all_keys(declared: Declared, now: datetime) -> list[str]:
    """Every partition that exists at `now`, oldest first; names in the order declared."""
    if isinstance(declared, PartitionsSpec):
        return _keys(declared, declared.first, _last_valid(declared, now))
    return _names(declared)


def _place(declared: Declared, key: str) -> int:
    if not isinstance(declared, PartitionsSpec):
        return _names(declared).index(key)
    number = declared.calendar.number(key)
    assert number is not None, f"{key!r} is no partition of the job"
    return number


def _names(declared: PartitionNames | None) -> list[str]:
    return [SINGLE_KEY] if declared is None else list(declared.names)


def _last(spec: PartitionsSpec, now: datetime) -> int:
    """The number of the last window that is a partition at `now`.

    A window has ended when the next one has begun: where the clocks change, a day has 23 or 25
    hours.
    """
    if now.tzinfo is None:
        raise ValueError("now must carry a time zone")
    return spec.calendar.number_at(now) + spec.end_offset - 1


def _last_valid(spec: PartitionsSpec, now: datetime) -> int:
    """The last window that Dagster accepts: with an offset it has the first one window early.

    Dagster 1.13 does so, and a key that its UI offers must exist here too. No schedule runs it yet,
    so that `newest_key` does not return it.
    """
    last = _last(spec, now)
    if spec.end_offset > 0 and last == spec.first - 1:
        begins_now = spec.calendar.window(spec.calendar.number_at(now)).start == now
        return last if begins_now else spec.first
    return last


def _keys(spec: PartitionsSpec, first: int, last: int) -> list[str]:
    calendar = spec.calendar
    return [calendar.key(number) for number in range(first, last + 1)]


def _first_key(spec: PartitionsSpec) -> str:
    return spec.calendar.key(spec.first)


def _a_window(spec: PartitionsSpec) -> str:
    return f"{'an' if spec.every == 'hour' else 'a'} {spec.every}"


def _nothing_yet(spec: PartitionsSpec, now: datetime) -> str:
    return (
        f"the job has no partition yet: the first is {_first_key(spec)}, "
        f"which becomes one {_becomes(spec)} in {spec.timezone} (it is {now.isoformat()})"
    )


def _becomes(spec: PartitionsSpec) -> str:
    match spec.end_offset:
        case 0:
            return "when it has ended"
        case 1:
            return "when it begins"
        case offset:
            return f"{offset - 1} {spec.every}s before it begins"
