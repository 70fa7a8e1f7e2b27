"""The instant that a deadline means: time zones, clocks put forward and back, backfills."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.jobs.partitions.declared_partitions import PartitionsSpec
from batch_pipeline.jobs.partitions.due_times import Start, due, of_night
from batch_pipeline_tests.support import job


def partitions(zone: str = "UTC", **declared: Any) -> PartitionsSpec:
    return PartitionsSpec(start=date(2026, 1, 1), timezone=zone, **declared)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("deadline", "zone", "taken", "expected"),
    [
        ("06:00", "UTC", "2026-03-10 01:00", "2026-03-10 06:00"),
        ("06:00", "UTC", "2026-03-10 05:59:59", "2026-03-10 06:00"),
        # Exactly at it, the next one is meant.
        ("06:00", "UTC", "2026-03-10 06:00", "2026-03-11 06:00"),
        ("06:00", "UTC", "2026-03-10 23:30", "2026-03-11 06:00"),
        ("00:00", "UTC", "2026-03-10 00:00", "2026-03-11 00:00"),
        ("00:00", "UTC", "2026-12-31 23:59", "2027-01-01 00:00"),
        # 01:00 in Zurich is 00:00 in UTC: the day of the job's zone counts.
        ("06:00", "Europe/Zurich", "2026-03-10 00:00", "2026-03-10 05:00"),
        ("00:30", "Europe/Zurich", "2026-03-09 23:15", "2026-03-09 23:30"),
        ("06:00", "Asia/Tokyo", "2026-03-10 20:00", "2026-03-10 21:00"),
        ("06:00", "Asia/Tokyo", "2026-03-10 21:00", "2026-03-11 21:00"),
        # The clocks are put forward in the night of the 29th: 06:00 comes an hour sooner.
        ("06:00", "Europe/Zurich", "2026-03-28 23:00", "2026-03-29 04:00"),
        ("06:00", "Europe/Zurich", "2026-10-24 22:00", "2026-10-25 05:00"),
        # 02:30 is left out that night: it is met at 03:30.
        ("02:30", "Europe/Zurich", "2026-03-28 23:00", "2026-03-29 01:30"),
        # 02:30 comes twice on the 25th of October.
        ("02:30", "Europe/Zurich", "2026-10-24 23:00", "2026-10-25 00:30"),
        ("02:30", "Europe/Zurich", "2026-10-25 00:30", "2026-10-25 01:30"),
        ("02:30", "Europe/Zurich", "2026-10-25 01:30", "2026-10-26 01:30"),
        # Hours are hours, whatever the clocks do.
        ("8h", "Europe/Zurich", "2026-03-28 23:00", "2026-03-29 07:00"),
        ("1h", "UTC", "2026-03-10 23:30", "2026-03-11 00:30"),
        ("36h", "UTC", "2026-03-10 12:00", "2026-03-12 00:00"),
    ],
)
def test_a_deadline_is_its_first_occurrence_after_the_snapshot(
    deadline: str, zone: str, taken: str, expected: str
) -> None:
    assert due(deadline, utc(taken), partitions(zone)) == utc(expected)


def test_without_partitions_a_time_of_day_is_in_utc() -> None:
    assert due("06:00", utc("2026-03-10 05:00"), None) == utc("2026-03-10 06:00")


DAILY = {"start": "2026-01-01", "timezone": "Europe/Zurich"}


@pytest.mark.parametrize(
    ("declared", "partition", "start", "expected"),
    [
        # The input is taken on the 10th at 02:00 in Zurich; the schedule runs the 9th.
        ({}, "2026-03-09", Start.SCHEDULE, "2026-03-10 05:00"),
        ({}, "2026-03-09", Start.PERSON, "2026-03-10 05:00"),
        ({}, "2026-03-09", Start.BACKFILL, None),
        ({}, "2026-03-08", Start.PERSON, None),
        # A scheduled run that waited for a worker over midnight is no backfill.
        ({}, "2026-03-08", Start.SCHEDULE, "2026-03-10 05:00"),
        (
            {"partitions": {**DAILY, "end_offset": 1}},
            "2026-03-10",
            Start.PERSON,
            "2026-03-10 05:00",
        ),
        ({"partitions": {**DAILY, "end_offset": 1}}, "2026-03-09", Start.PERSON, None),
        ({"partitions": None}, "all", Start.PERSON, "2026-03-10 06:00"),
        (
            {"partitions": {**DAILY, "every": "hour"}},
            "2026-03-10-01:00",
            Start.PERSON,
            "2026-03-10 05:00",
        ),
        ({"partitions": {**DAILY, "every": "hour"}}, "2026-03-10-00:00", Start.PERSON, None),
        (
            {"partitions": {**DAILY, "every": "week"}},
            "2026-03-01",
            Start.PERSON,
            "2026-03-10 05:00",
        ),
        (
            {"partitions": {**DAILY, "every": "month"}},
            "2026-02-01",
            Start.PERSON,
            "2026-03-10 05:00",
        ),
        ({"partitions": {**DAILY, "every": "month"}}, "2026-01-01", Start.PERSON, None),
        ({"partitions": ["acme", "globex"]}, "globex", Start.PERSON, "2026-03-10 06:00"),
        ({"deadline": "8h"}, "2026-03-09", Start.PERSON, "2026-03-10 09:00"),
        ({"deadline": None}, "2026-03-09", Start.SCHEDULE, None),
    ],
)
def test_backfills_have_no_deadline(
    tmp_path: Path, declared: dict[str, Any], partition: str, start: Start, expected: str | None
) -> None:
    auto = {"mode": "auto", "deadline": "06:00", "partitions": DAILY}
    spec = job(tmp_path / "{partition}.jsonl", **(auto | declared))
    found = of_night(spec, partition, utc("2026-03-10 01:00").timestamp(), start)
    assert found == (None if expected is None else utc(expected).timestamp())
