"""Nights that were due and never began turn a check red, and alert once."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
import sqlalchemy as sa

from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.orchestration.checks import missing_nights
from batch_pipeline.orchestration.checks.due_nights import DueNight, due_nights
from batch_pipeline.orchestration.checks.missing_nights import never_began
from batch_pipeline.orchestration.names import EVERY_DUE_NIGHT_BEGAN, INPUT_DATASET, asset_key
from batch_pipeline.settings import Settings
from batch_pipeline_tests.orchestration.conftest import MakeSpec
from batch_pipeline_tests.orchestration.nightly import Nightly


@pytest.mark.parametrize(
    ("partitions", "schedule", "since", "now", "expected"),
    [
        # Ticks at and before the first night, and one that is yet to come, are not due.
        ({"start": "2026-03-01"}, "0 2 * * *", "03-10T02:00", "03-13T01:59", ["03-10", "03-11"]),
        # In a zone, over the night of 23 hours.
        (
            {"start": "2026-03-01", "timezone": "Europe/Zurich"},
            "30 1 * * *",
            "03-28T12:00",
            "03-30T12:00",
            ["03-28", "03-29"],
        ),
        # Several ticks a day run the same night; weekdays only.
        ({"start": "2026-03-01"}, "0 1,13 * * 1-5", "03-13T00:00", "03-16T14:00",
         ["03-12", "03-15"]),
        # Each name is due, once.
        (["a", "b"], "0 2 * * *", "03-10T00:00", "03-12T03:00", ["a", "b"]),
        # No partition yet at the tick.
        ({"start": "2026-03-12"}, "0 2 * * *", "03-10T00:00", "03-13T03:00", ["03-12"]),
    ],
)  # fmt: skip
def test_what_a_schedule_was_to_run(
    make_spec: MakeSpec,
    partitions: dict[str, str] | list[str],
    schedule: str,
    since: str,
    now: str,
    expected: list[str],
) -> None:
    spec = make_spec(partitions=partitions, schedule=schedule)
    times = (datetime.fromisoformat(f"2026-{text}").replace(tzinfo=UTC) for text in (since, now))
    assert [n.partition.removeprefix("2026-") for n in due_nights(spec, *times)] == expected


def test_nights_that_began_are_not_missing() -> None:
    due = [DueNight("a", 1.0), DueNight("b", 2.0)]
    assert never_began(due, {"a", "c"}) == (DueNight("b", 2.0),)


def due(job: Nightly) -> list[dg.AssetCheckEvaluation]:
    return [check for check in job.checks if check.check_name == EVERY_DUE_NIGHT_BEGAN]


def take_input(job: Nightly, night: str) -> None:
    assert job.launch(night, assets=[asset_key(job.name, INPUT_DATASET)]).success


def test_the_sensor_turns_the_check_red_and_green_again_and_alerts_once(
    nightly: Callable[..., Nightly], nights: list[str]
) -> None:
    last_tick = datetime.now(UTC) - timedelta(hours=2)
    # In the first two hours of a day that is yesterday's tick, of the night before yesterday.
    last_due = (last_tick.date() - timedelta(days=1)).isoformat()
    job = nightly(schedule=f"{last_tick.minute} {last_tick.hour} * * *")
    job.tick()
    assert due(job) == []
    take_input(job, nights[0])
    settings = Settings.from_environment()
    with Ledger(settings.ledger_url) as ledger, ledger.write() as connection:
        # As if the job's first night had begun two days ago.
        began = time.time() - timedelta(days=2).total_seconds()
        connection.execute(sa.update(tables.night).values(created_at=began))
    tick = job.tick()
    [red] = due(job)
    assert not red.passed
    assert last_due in str(red.metadata["partitions"].value)
    assert "never been started: start it" in str(red.metadata["schedule"].value)
    assert tick.skip_message is None or last_due in tick.skip_message
    job.tick()
    assert len(due(job)) == 1
    with Ledger(settings.ledger_url) as ledger, ledger.read() as connection:
        alerts = connection.execute(
            sa.select(tables.alert.c.cause).where(tables.alert.c.code == missing_nights.CODE)
        ).scalars()
        assert len(list(alerts)) == red.metadata["nights_missing"].value
    # Dagster shows a result as out of date once its asset has materialized again.
    take_input(job, nights[0])
    job.tick()
    assert [check.passed for check in due(job)] == [False, False]
    for night in nights[1:]:
        take_input(job, night)
    job.tick()
    assert due(job)[-1].passed
