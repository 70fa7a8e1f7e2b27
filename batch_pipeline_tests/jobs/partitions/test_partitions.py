"""Partition keys: what the time says, and the same set as Dagster's."""

from __future__ import annotations

import functools
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from batch_pipeline.errors import UsageError
from batch_pipeline.jobs.partitions.declared_partitions import PartitionNames, PartitionsSpec
from batch_pipeline.jobs.partitions.partitions import (
    all_keys,
    check_boundary,
    check_key,
    default_key,
    due_keys,
    in_ranges,
    keys_in_range,
    keys_up_to,
    newest_key,
    number_of,
    order_of,
    window_of,
)
from batch_pipeline.jobs.partitions.time_windows import Every
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.dagster_partitions import partitions_definition

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
    # By two hours.
    "Antarctica/Troll",
]
HALF_HOURS = "Australia/Lord_Howe"
EVERY: list[Every] = ["hour", "day", "week", "month"]
DECLARED: dict[str, Any] = {
    "name": "contract_review",
    "input": {"path": "/data/{partition}/*.parquet"},
    "prompt": {"user": "{text}"},
    "model_id": "claude-haiku-4-5-20251001",
    "max_tokens": 500,
}


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
    assert all_keys(None, now) == ["all"]
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


@settings(max_examples=150, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    every=st.sampled_from(EVERY),
    end_offset=st.integers(0, 3),
    start=st.dates(date(2025, 12, 1), date(2026, 2, 1)),
    # Not from 2 November 2025, when a Sunday's midnight came twice in Havana: Dagster itself fails.
    seconds=st.integers(-45 * 86_400, 120 * 86_400),
    whole=st.sampled_from([1, 3_600, 86_400]),
)
def test_the_same_keys_as_dagster(
    zone: str, every: Every, end_offset: int, start: date, seconds: int, whole: int
) -> None:
    if (zone, every) == (HALF_HOURS, "hour"):
        return
    spec = PartitionsSpec(every=every, start=start, timezone=zone, end_offset=end_offset)
    # Whole days in the zone too: at the very end of a window.
    begin = datetime(2026, 1, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    _assert_same_as_dagster(spec, begin + timedelta(seconds=seconds // whole * whole))


@functools.cache
def changes_of(zone: str) -> tuple[list[datetime], list[int]]:
    """The hours of 2026, and before which of them a zone's clocks are put."""
    hours = [at("2026-01-01T00:00") + timedelta(hours=n) for n in range(366 * 24)]
    offsets = [hour.astimezone(ZoneInfo(zone)).utcoffset() for hour in hours]
    return hours, [n for n in range(1, len(hours)) if offsets[n] != offsets[n - 1]]


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("zone", ZONES)
def test_the_same_keys_as_dagster_through_every_change_of_clocks(zone: str, every: Every) -> None:
    """Every hour of the days on which this zone's offset from UTC changes in 2026."""
    if (zone, every) == (HALF_HOURS, "hour"):
        with pytest.raises(ValidationError, match=r"by less than an hour.*timezone: UTC"):
            PartitionsSpec(every=every, start=START, timezone=zone)
        return
    hours, changes = changes_of(zone)
    for change in changes:
        start = (hours[change] - timedelta(days=3)).date() if every == "hour" else START
        spec = PartitionsSpec(every=every, start=start, timezone=zone)
        for hour in hours[change - 26 : change + 26]:
            _assert_same_as_dagster(spec, hour)
        _assert_same_windows(spec, hours[change + 40])


@functools.cache
def dagster_of(spec: PartitionsSpec) -> dg.TimeWindowPartitionsDefinition:
    job = JobSpec(**{**DECLARED, "partitions": spec})
    found = partitions_definition(job)
    assert isinstance(found, dg.TimeWindowPartitionsDefinition)
    return found


def _assert_same_as_dagster(spec: PartitionsSpec, now: datetime) -> None:
    theirs = list(dagster_of(spec).get_partition_keys(current_time=now))
    assert all_keys(spec, now) == theirs
    for key in theirs[-3:]:
        check_key(spec, key, now)
        assert number_of(spec, key) is not None
    newest = newest_key(spec, now)
    assert newest == (theirs[-1] if theirs else None) or (newest is None and len(theirs) == 1)


def _assert_same_windows(spec: PartitionsSpec, now: datetime) -> None:
    """The same times, which follow one another, in the order of their keys' numbers."""
    definition, end = dagster_of(spec), None
    for key in all_keys(spec, now):
        theirs, ours = definition.time_window_for_partition_key(key), window_of(spec, key)
        assert ours is not None
        begins, ends = ours.start.astimezone(UTC), ours.end.astimezone(UTC)
        assert (begins, ends) == (theirs.start.astimezone(UTC), theirs.end.astimezone(UTC)), key
        assert end in (None, begins)
        end = ends


ZURICH = PartitionsSpec(every="hour", start=date(2026, 3, 1), timezone="Europe/Zurich")


def test_the_hour_that_clocks_show_twice_is_two_partitions() -> None:
    now = at("2026-10-26T00:00")
    keys = ["2026-10-25-01:00", "2026-10-25-02:00", "2026-10-25-02:00+0100", "2026-10-25-03:00"]
    assert keys_in_range(ZURICH, keys[0], keys[-1]) == keys
    first, second = (window_of(ZURICH, key) for key in keys[1:3])
    assert first
    assert second
    assert first.start.isoformat() == "2026-10-25T02:00:00+02:00"
    assert second.start.isoformat() == "2026-10-25T02:00:00+01:00"
    assert in_ranges(ZURICH, [keys[3], keys[0], keys[1]], 5) == [keys[:2], keys[3:]]
    assert in_ranges(ZURICH, keys, 3) == [keys[:3], keys[3:]]
    assert keys_up_to(ZURICH, keys[-1], 3) == keys[1:]
    with pytest.raises(UsageError, match=r"02:00\+0200' is not an hour written like"):
        check_key(ZURICH, "2026-10-25-02:00+0200", now)


def test_nights_are_in_the_order_of_time() -> None:
    """In Troll the clocks are put back by two hours; names follow as their nights were begun."""
    troll = PartitionsSpec(every="hour", start=START, timezone="Antarctica/Troll")
    hours = keys_in_range(troll, "2026-10-25-00:00", "2026-10-25-03:00")
    assert hours != sorted(hours)
    assert sorted(hours, key=lambda hour: order_of(troll, hour, 0.0)) == hours
    assert order_of(troll, "2026-12-24", 1.0) < order_of(troll, hours[0], 0.0)
    assert order_of(NAMES, "globex", 1.0) < order_of(NAMES, "acme", 2.0)


def test_the_hour_that_clocks_pass_over_is_no_partition() -> None:
    """Dagster's `has_partition_key` takes it, and none of its lists has it."""
    assert dagster_of(ZURICH).has_partition_key("2026-03-29-02:00")
    with pytest.raises(UsageError, match="the clocks of Europe/Zurich are put forward"):
        check_key(ZURICH, "2026-03-29-02:00", at("2026-10-26T00:00"))


@pytest.mark.parametrize(
    ("every", "key", "message"),
    [
        ("week", "2026-01-07", r"a week written like 2026-01-11 \(did you mean 2026-01-04\?\)"),
        ("month", "2026-01-05", r"is not a month written like .* \(did you mean 2026-01-01\?\)"),
        ("month", "2026-01", "is not a month written like"),
        ("hour", "2026-01-05", "is not an hour written like 2026-01-22-00:00"),
        ("hour", "2026-01-05-01:30", "is not an hour written like"),
        ("hour", "2026-01-22-01:00", "2026-01-01-00:00 to 2026-01-22-00:00"),
    ],
)
def test_a_key_of_another_window_is_refused(every: Every, key: str, message: str) -> None:
    spec = PartitionsSpec(every=every, start=date(2025, 12, 1) if every == "month" else START)
    with pytest.raises(UsageError, match=message):
        check_key(spec, key, at("2026-01-22T01:00"))


NAMES = PartitionNames(("acme", "globex", "007"))


def test_partitions_may_be_names() -> None:
    now = at("2026-01-22T01:00")
    assert all_keys(NAMES, now) == due_keys(NAMES, now) == ["acme", "globex", "007"]
    assert in_ranges(NAMES, ["007", "globex"], 5) == [["globex", "007"]]
    assert keys_in_range(NAMES, "globex", "007") == ["globex", "007"]
    assert newest_key(NAMES, now) is None
    assert window_of(NAMES, "acme") is None
    check_key(NAMES, "007", now)
    with pytest.raises(UsageError, match="did you mean acme"):
        check_key(NAMES, "acmee", now)
    with pytest.raises(UsageError, match=r"3 partitions.*name one with --partition"):
        default_key(NAMES, now)
    assert default_key(PartitionNames(("acme",)), now) == "acme"
    with pytest.raises(UsageError, match="none is before another"):
        check_boundary(NAMES, "acme")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "names no partition"),
        (["a", "a"], "'a' is there twice"),
        (["acme", "Acme"], "share a folder"),
        (["a/b"], "cannot be a partition"),
        (["a..b"], "cannot be a partition"),
        (["-a"], "cannot be a partition"),
        (["ü"], "cannot be a partition"),
        (["x" * 201], "at most 200"),
        ([7], "7 is no text; write it in quotes"),
        ("daily", "or a list of names"),
        ({"every": "hourly", "start": START}, "'hour', 'day', 'week' or 'month'"),
        ({"start": "2026-01-01-05:00"}, "must be a date like 2026-01-01, not"),
        ({"every": "hour", "start": "2026-01-01-25:00"}, "or an hour like 2026-01-01-05:00"),
    ],
)
def test_partitions_that_cannot_be_are_refused(given: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as refused:
        JobSpec(**{**DECLARED, "partitions": given})
    # Once, and at a key that the declaration has.
    assert len(refused.value.errors()) == 1
    path = refused.value.errors()[0]["loc"]
    assert path[0] == "partitions"
    assert path[1:] in [(), (0,), ("every",), ("start",)]


@pytest.mark.parametrize(
    ("start", "first"),
    [
        ("2026-01-01", "2026-01-01-00:00"),
        (START, "2026-01-01-00:00"),
        ("2026-01-01-05:00", "2026-01-01-05:00"),
        ("2026-01-01-05:30", "2026-01-01-06:00"),
    ],
)
def test_an_hourly_start_may_have_its_hour(start: object, first: str) -> None:
    spec = PartitionsSpec.model_validate({"every": "hour", "start": start})
    now = at("2026-01-02T00:00")
    assert all_keys(spec, now)[0] == first == dagster_of(spec).get_partition_keys(now)[0]


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
