"""Partition keys: what the time says, and the same set as Dagster's."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from batch_pipeline.errors import UsageError
from batch_pipeline.jobs.partitions import (
    PartitionsSpec,
    all_keys,
    check_key,
    default_key,
    keys_between,
    newest_key,
)

START = date(2026, 1, 1)
# Zones whose clocks change at midnight (Havana, Cairo, Santiago, Beirut), by half an hour (Lord
# Howe), that stand at the ends of the day (Apia, Midway), and some that people live in.
ZONES = [
    "UTC",
    "Europe/Zurich",
    "America/New_York",
    "America/Havana",
    "Africa/Cairo",
    "America/Santiago",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Midway",
]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("timezone", "end_offset", "now", "newest"),
    [
        ("UTC", 0, "2026-01-22T01:00", "2026-01-21"),
        ("UTC", 0, "2026-01-21T23:59", "2026-01-20"),
        ("UTC", 0, "2026-01-22T00:00", "2026-01-21"),
        ("UTC", 1, "2026-01-22T01:00", "2026-01-22"),
        ("Asia/Tokyo", 0, "2026-01-21T15:00", "2026-01-21"),
        ("America/New_York", 0, "2026-01-22T01:00", "2026-01-20"),
        ("UTC", 0, "2026-01-01T12:00", None),
        ("UTC", 1, "2026-01-01T00:00", "2026-01-01"),
        ("UTC", 1, "2025-12-31T12:00", None),
    ],
)
def test_newest_key(timezone: str, end_offset: int, now: str, newest: str | None) -> None:
    spec = PartitionsSpec(start=START, timezone=timezone, end_offset=end_offset)
    assert newest_key(spec, at(now)) == newest


def test_a_job_without_partitions_has_one_key() -> None:
    now = at("2026-01-22T01:00")
    assert newest_key(None, now) == default_key(None, now) == "all"
    assert all_keys(None, now) == keys_between(None, "all", "all", now) == ["all"]
    check_key(None, "all", now)
    with pytest.raises(UsageError, match="one partition, 'all'"):
        check_key(None, "2026-01-21", now)


def test_default_key_before_the_first_night_says_when_it_comes() -> None:
    with pytest.raises(UsageError, match="the first is 2026-01-01, which becomes one when it has"):
        default_key(PartitionsSpec(start=START), at("2026-01-01T12:00"))


@pytest.mark.parametrize(
    "key",
    ["2025-12-31", "2026-01-22", "2026-1-5", "20260105", "all", "", "2026-01-32", "2026/01/05"],
)
def test_an_unknown_key_is_refused_with_the_valid_range(key: str) -> None:
    with pytest.raises(UsageError, match=r"2026-01-01 to 2026-01-21"):
        check_key(PartitionsSpec(start=START), key, at("2026-01-22T01:00"))


def test_keys_between_includes_both_ends_and_checks_them() -> None:
    spec, now = PartitionsSpec(start=START), at("2026-01-22T01:00")
    assert keys_between(spec, "2026-01-19", "2026-01-21", now) == [
        "2026-01-19",
        "2026-01-20",
        "2026-01-21",
    ]
    assert keys_between(spec, "2026-01-21", "2026-01-19", now) == []
    with pytest.raises(UsageError, match="2026-01-22"):
        keys_between(spec, "2026-01-19", "2026-01-22", now)


@settings(max_examples=150, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    end_offset=st.integers(0, 3),
    seconds=st.integers(-5 * 86_400, 400 * 86_400),
)
def test_the_same_keys_as_dagster(zone: str, end_offset: int, seconds: int) -> None:
    _assert_same_as_dagster(zone, end_offset, at("2026-01-01T00:00") + timedelta(seconds=seconds))


@pytest.mark.parametrize("zone", ZONES)
def test_the_same_keys_as_dagster_through_every_change_of_clocks(zone: str) -> None:
    """Every hour of the days on which this zone's offset from UTC changes in 2026."""
    hours = [at("2026-01-01T00:00") + timedelta(hours=n) for n in range(366 * 24)]
    offsets = [hour.astimezone(ZoneInfo(zone)).utcoffset() for hour in hours]
    changes = [n for n in range(1, len(hours)) if offsets[n] != offsets[n - 1]]
    for change in changes:
        for hour in hours[change - 26 : change + 26]:
            _assert_same_as_dagster(zone, 0, hour)


def _assert_same_as_dagster(zone: str, end_offset: int, now: datetime) -> None:
    spec = PartitionsSpec(start=START, timezone=zone, end_offset=end_offset)
    theirs = dg.DailyPartitionsDefinition(
        start_date=START.isoformat(), timezone=zone, end_offset=end_offset
    ).get_partition_keys(current_time=now)
    assert all_keys(spec, now) == list(theirs)
    for key in theirs[-3:]:
        check_key(spec, key, now)
    newest = newest_key(spec, now)
    assert newest == (theirs[-1] if theirs else None) or (newest is None and len(theirs) == 1)


@pytest.mark.parametrize("start", ["2026-01-01", START])
def test_start_may_be_text_or_a_date(start: object) -> None:
    assert PartitionsSpec.model_validate({"start": start}).start == START


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "start"),
        ({"start": "2026-1-1"}, "must be a date like 2026-01-01, not '2026-1-1'"),
        ({"start": datetime(2026, 1, 1, 5, tzinfo=UTC)}, "valid date"),
        ({"start": 20260101}, "valid date"),
        ({"start": START, "timezone": "Europe/Zurick"}, "did you mean Europe/Zurich"),
        ({"start": START, "timezone": "../etc/passwd"}, "IANA"),
        ({"start": START, "end_offset": -1}, "greater than or equal to 0"),
        ({"start": START, "end_offset": True}, "valid integer"),
        ({"start": START, "end_offset": "1"}, "valid integer"),
        ({"start": START, "end": START}, "Extra"),
    ],
)
def test_wrong_partitions_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PartitionsSpec.model_validate(given)


def test_a_time_without_a_zone_is_a_bug() -> None:
    with pytest.raises(ValueError, match="time zone"):
        newest_key(PartitionsSpec(start=START), datetime(2026, 1, 22))  # noqa: DTZ001  # the point
