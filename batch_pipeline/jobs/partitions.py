"""Partitions of a job: which there are, their keys, and the time that each stands for.

The one place that knows a key's meaning: nothing else parses a key, or compares two as texts. Keys
are those of Dagster's own definitions, so that the command line and Dagster mean the same night; a
test compares the two. The calendar itself is in `time_windows`.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from difflib import get_close_matches
from typing import Annotated, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from batch_pipeline.errors import UsageError
from batch_pipeline.jobs.declared_model import DeclaredModel
from batch_pipeline.jobs.time_windows import (
    HOUR_FORMAT,
    Calendar,
    Every,
    Window,
    changes_by_whole_hours,
    parse_start,
)

SINGLE_KEY = "all"
"""The one key of a job that declares no partitions."""

MOST_KEY_LENGTH = 200
"""As many characters as the ledger keeps of a key."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
# How the first window of each length is written.
_EXAMPLES: dict[Every, str] = {
    "hour": "2026-01-01-05:00",
    "day": "2026-01-01",
    "week": "2026-01-04 (a Sunday)",
    "month": "2026-01-01",
}


class PartitionsSpec(DeclaredModel):
    """One partition an hour, day, week or month; its key is the start of its window.

    A window becomes a partition when it has ended in `timezone`; `end_offset` adds that many
    windows, so that with 1 the running one is a partition too. Weeks begin on Sunday. `start` is a
    day, or for hours a time too (then a naive `datetime`); the first window begins at it or after.
    """

    every: Every = "day"
    start: date
    timezone: str = "UTC"
    end_offset: int = Field(default=0, ge=0)

    @field_validator("start", mode="wrap")
    @classmethod
    def _iso_start(
        cls, value: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> date:
        """YAML reads 2026-01-01 as a date and "2026-01-01" as text; both mean the day."""
        every: Every = info.data.get("every", "day")
        if not isinstance(value, str):
            found = handler(value)
            assert isinstance(found, date)
            return found
        parsed = parse_start(value, every)
        if parsed is None:
            hour = " or an hour like 2026-01-01-05:00" if every == "hour" else ""
            raise ValueError(f"must be a date like 2026-01-01{hour}, not {value!r}")
        return parsed

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        names = available_timezones()
        if value in names:
            return value
        close = get_close_matches(value, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"must be an IANA time zone like Europe/Zurich, not {value!r}{hint}")

    @model_validator(mode="after")
    def _hours_that_dagster_can_count(self) -> Self:
        zone = ZoneInfo(self.timezone)
        if self.every == "hour" and not changes_by_whole_hours(zone, self.start):
            # Dagster's keys of such hours depend on the hour from which it counts.
            raise ValueError(
                f"the clocks of {self.timezone} are put by less than an hour, so that its hours "
                "have no certain keys; use timezone: UTC"
            )
        return self

    @property
    def calendar(self) -> Calendar:
        return Calendar(self.every, ZoneInfo(self.timezone))

    @property
    def first(self) -> int:
        """The number of the first window."""
        return self.calendar.first(self.start)

    @property
    def dagster_start(self) -> str:
        """`start` as Dagster's definitions take it: for hours with a time."""
        if self.every != "hour":
            return self.start.isoformat()
        midnight = datetime(self.start.year, self.start.month, self.start.day)  # noqa: DTZ001
        start = self.start if isinstance(self.start, datetime) else midnight
        return start.strftime(HOUR_FORMAT)


def _key_as_text(value: object) -> object:
    if isinstance(value, str):
        if not _NAME.fullmatch(value) or ".." in value or len(value) > MOST_KEY_LENGTH:
            raise ValueError(
                f"{value!r} cannot be a partition: letters, digits, `_`, `-` and single dots, "
                f"beginning with a letter or digit, at most {MOST_KEY_LENGTH} characters"
            )
        return value
    raise ValueError(f"{value!r} is no text; write it in quotes")


class PartitionNames(RootModel[tuple[Annotated[str, BeforeValidator(_key_as_text)], ...]]):
    """Partitions that are a list of names (customers, for example), in the order declared."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    @field_validator("root")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("names no partition; leave `partitions` out for a job with one")
        folded: dict[str, str] = {}
        for name in value:
            other = folded.setdefault(name.casefold(), name)
            if other is not name or value.count(name) > 1:
                raise ValueError(
                    f"{other!r} and {name!r} would share a folder where the file system does not "
                    "tell capitals apart"
                    if other != name
                    else f"{name!r} is there twice"
                )
        return value

    @property
    def names(self) -> tuple[str, ...]:
        return self.root


Declared = PartitionsSpec | PartitionNames | None
"""What a job may declare; None: one partition, `SINGLE_KEY`."""


def either(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    """Validates what is declared as what it is, so that a problem is told once, with its key."""
    if isinstance(value, list | tuple):
        return PartitionNames.model_validate(tuple(value))
    if isinstance(value, dict):
        return PartitionsSpec.model_validate(value)
    if isinstance(value, PartitionsSpec | PartitionNames) or value is None:
        return handler(value)
    raise ValueError(
        'must be {start: "2026-01-01", every: hour, day, week or month}, or a list of names'
    )


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
            article = "an" if declared.every == "hour" else "a"
            return (
                f"one {article} {declared.every} from {_first_key(declared)}, {declared.timezone}"
            )


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
    if declared is None:
        if key != SINGLE_KEY:
            raise UsageError(
                f"partition {key!r} does not exist: the job has one partition, {SINGLE_KEY!r}, "
                f"since it declares no partitions; use --partition {SINGLE_KEY} or leave it out"
            )
        return
    if isinstance(declared, PartitionNames):
        if key not in declared.names:
            close = get_close_matches(key, declared.names, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(
                f"partition {key!r} does not exist: the job's partitions are "
                f"{describe(declared)}{hint}"
            )
        return
    calendar, first, last = declared.calendar, declared.first, _last_valid(declared, now)
    if last < first:
        raise UsageError(f"partition {key!r} does not exist: {_nothing_yet(declared, now)}")
    newest = calendar.key(last)
    valid = f"the job's partitions are {calendar.key(first)} to {newest}"
    number = calendar.number(key)
    if number is None and calendar.is_skipped(key):
        raise UsageError(
            f"partition {key!r} does not exist: the clocks of {declared.timezone} are put forward "
            f"over that hour; {valid}"
        )
    if number is None:
        raise UsageError(
            f"partition {key!r} is not {_a_window(declared)} written like {newest}; {valid}"
        )
    if not first <= number <= last:
        raise UsageError(
            f"partition {key!r} does not exist: {valid} "
            f"({_a_window(declared)} in {declared.timezone} becomes one {_becomes(declared)})"
        )


def window_of(declared: Declared, key: str) -> Window | None:
    """The time that a partition stands for; None where partitions are no times, or for a key that
    is none of the job as declared now."""
    number = number_of(declared, key)
    return None if number is None else _timed(declared).calendar.window(number)


def number_of(declared: Declared, key: str) -> int | None:
    """The number of a partition's window, by which windows are ordered and counted; None as for
    `window_of`."""
    if not isinstance(declared, PartitionsSpec):
        return None
    return declared.calendar.number(key)


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


def keys_between(declared: Declared, first: str, last: str, now: datetime) -> list[str]:
    """All keys from `first` to `last`, both included and both checked; empty if out of order."""
    check_key(declared, first, now)
    check_key(declared, last, now)
    return keys_in_range(declared, first, last)


def keys_in_range(declared: Declared, first: str, last: str) -> list[str]:
    """All keys from `first` to `last`, both included, whether they exist yet or not; empty if one
    of the two is no partition of the job as declared now."""
    if not isinstance(declared, PartitionsSpec):
        names = (SINGLE_KEY,) if declared is None else declared.names
        if first not in names or last not in names:
            return []
        return list(names[names.index(first) : names.index(last) + 1])
    start, end = declared.calendar.number(first), declared.calendar.number(last)
    if start is None or end is None:
        return []
    return _keys(declared, start, end)


def keys_up_to(declared: Declared, key: str, count: int) -> list[str]:
    """At most `count` partitions that end with this one, the newest last."""
    if isinstance(declared, PartitionsSpec):
        number = declared.calendar.number(key)
        if number is None:
            return [key]
        return _keys(declared, max(declared.first, number - count + 1), number)
    every = all_keys(declared, datetime.now(UTC))
    if key not in every:
        return [key]
    end = every.index(key) + 1
    return every[max(0, end - count) : end]


def key_before(spec: PartitionsSpec, key: str, count: int) -> str:
    """The key `count` partitions before an existing one, or the first where there are fewer."""
    return keys_up_to(spec, key, count + 1)[0]


def all_keys(declared: Declared, now: datetime) -> list[str]:
    """Every partition that exists at `now`, oldest first; names in the order declared."""
    if declared is None:
        return [SINGLE_KEY]
    if isinstance(declared, PartitionNames):
        return list(declared.names)
    return _keys(declared, declared.first, _last_valid(declared, now))


def _timed(declared: Declared) -> PartitionsSpec:
    assert isinstance(declared, PartitionsSpec)
    return declared


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
