"""The time windows of hours, days, weeks and months in a time zone, and their keys.

The windows of a calendar are numbered, so that "three windows before" is a subtraction, whatever
the clocks did meanwhile. Keys and windows are those of Dagster's `HourlyPartitionsDefinition`,
`DailyPartitionsDefinition`, `WeeklyPartitionsDefinition` and `MonthlyPartitionsDefinition`; tests
compare them over every change of the clocks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal, assert_never
from zoneinfo import ZoneInfo

Every = Literal["hour", "day", "week", "month"]

HOUR_FORMAT = "%Y-%m-%d-%H:%M"
_HOUR_SECONDS = 3_600
_HOUR_KEY = re.compile(r"(\d{4}-\d\d-\d\d-\d\d:\d\d)([+-]\d{4})?", re.ASCII)
_DAY_KEY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


@dataclass(frozen=True)
class Window:
    """A time window, in the time zone of its job: `start` is part of it, `end` is not."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class Calendar:
    """The windows of one length in one time zone.

    A day, a week or a month begins at midnight: the first one, where the clocks show two, and
    where they show none, the moment at which they are put forward. A week begins on Sunday.
    """

    every: Every
    zone: ZoneInfo

    def number_at(self, instant: datetime) -> int:
        """The number of the window that an instant (aware) lies in."""
        local = instant.astimezone(self.zone)
        match self.every:
            case "hour":
                return int(instant.timestamp() + _past_the_hour(local)) // _HOUR_SECONDS
            case "day":
                return local.toordinal()
            case "week":
                # The ordinal of each Sunday is a multiple of seven.
                return local.toordinal() // 7
            case "month":
                return _month(local)
            case never:
                assert_never(never)

    def first(self, start: date) -> int:
        """The number of the first window that begins at or after the start of a day, or at or after
        a time by the zone's clocks (naive)."""
        match self.every:
            case "hour":
                hour = (start.hour, start.minute) if isinstance(start, datetime) else (0, 0)
                instant = datetime(*_ymd(start), *hour, tzinfo=self.zone).astimezone(UTC)
                number = self.number_at(instant)
                return number if self._instant(number) >= instant else number + 1
            case "day":
                return start.toordinal()
            case "week":
                return -(-start.toordinal() // 7)
            case "month":
                return _month(start) + (start.day > 1)
            case never:
                assert_never(never)

    def window(self, number: int) -> Window:
        """The window of a number."""
        start, end = self._instant(number), self._instant(number + 1)
        return Window(start.astimezone(self.zone), end.astimezone(self.zone))

    def key(self, number: int) -> str:
        """The partition key of a window's number."""
        if self.every != "hour":
            return self._day(number).isoformat()
        local = self._instant(number).astimezone(self.zone)
        key = local.strftime(HOUR_FORMAT)
        # The second of two hours that the clocks show alike: Dagster adds its offset from UTC.
        return f"{key}{local:%z}" if local.fold else key

    def number(self, key: str) -> int | None:
        """The number of the window that a key names; None where no window has exactly this key."""
        if self.every != "hour":
            day = _day_of(key)
            number = None if day is None else self.first(day)
        else:
            number = self._hour_number(key)
        return number if number is not None and self.key(number) == key else None

    def is_skipped(self, key: str) -> bool:
        """Whether a key is written like one and names an hour that the clocks are put over."""
        found = _HOUR_KEY.fullmatch(key) if self.every == "hour" else None
        wall = None if found is None else _wall(found[1])
        if wall is None or wall.minute:
            return False
        back = wall.replace(tzinfo=self.zone).astimezone(UTC).astimezone(self.zone)
        return back.replace(tzinfo=None, fold=0) != wall

    def _hour_number(self, key: str) -> int | None:
        found = _HOUR_KEY.fullmatch(key)
        wall = None if found is None else _wall(found[1])
        if found is None or wall is None:
            return None
        # Only the second of two equal hours is written with its offset.
        instant = wall.replace(tzinfo=self.zone, fold=1 if found[2] else 0)
        return self.number_at(instant.astimezone(UTC))

    def _instant(self, number: int) -> datetime:
        """When a window starts, in UTC: times of one zone are compared by what its clocks show."""
        if self.every != "hour":
            midnight = datetime(*_ymd(self._day(number)), tzinfo=self.zone)
            return midnight.astimezone(UTC)
        begin = datetime.fromtimestamp(number * _HOUR_SECONDS, UTC)
        return begin - timedelta(seconds=_past_the_hour(begin.astimezone(self.zone)))

    def _day(self, number: int) -> date:
        match self.every:
            case "month":
                return date(number // 12, number % 12 + 1, 1)
            case "week":
                return date.fromordinal(number * 7)
            case _:
                return date.fromordinal(number)


def changes_by_whole_hours(zone: ZoneInfo, start: date) -> bool:
    """Whether a zone's clocks are put by whole hours only, in the ten years from a day on."""
    begin = datetime(*_ymd(start), tzinfo=UTC)
    months = (begin + timedelta(days=30 * n) for n in range(120))
    return len({_past_the_hour(month.astimezone(zone)) for month in months}) == 1


def _past_the_hour(local: datetime) -> int:
    """By how many seconds a zone's offset from UTC passes a whole number of hours."""
    offset = local.utcoffset()
    assert offset is not None, "a time in a zone has an offset"
    return int(offset.total_seconds()) % _HOUR_SECONDS


def _month(day: date) -> int:
    return day.year * 12 + day.month - 1


def _ymd(day: date) -> tuple[int, int, int]:
    return day.year, day.month, day.day


def _day_of(key: str) -> date | None:
    try:
        return date.fromisoformat(key) if _DAY_KEY.fullmatch(key) else None
    except ValueError:
        return None


def _wall(text: str) -> datetime | None:
    """What the clocks show, of `2026-10-25-02:00`; None where no clock ever does."""
    try:
        return datetime.strptime(text, HOUR_FORMAT)  # noqa: DTZ007  # what clocks show has no zone
    except ValueError:
        return None


def parse_start(text: str, every: Every) -> date | None:
    """The start of a declaration: a day, or for hours `2026-01-01-05:00` too; None if it is none.

    The time by the clocks is a naive `datetime`.
    """
    found = _HOUR_KEY.fullmatch(text) if every == "hour" else None
    if found is not None:
        return None if found[2] else _wall(found[1])
    return _day_of(text)
