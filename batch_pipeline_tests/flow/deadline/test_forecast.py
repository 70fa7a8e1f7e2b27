"""The decision for each unit of work before a deadline, as a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from batch_pipeline.flow.deadline.forecast import (
    ASSUMED_CANCEL_SECONDS,
    Flying,
    Forecast,
    Outlook,
    Speed,
    Turnaround,
    decide,
)

NOW = 1_000_000.0
MINUTE = 60.0
HOUR = 3_600.0


def outlook(hours: float, **changes: Any) -> Outlook:
    """A night with so many hours left, batches of half an hour and 10 real-time answers a second.

    `flying` are pairs of requests and age in minutes.
    """
    flying = [
        Flying(number, requests, NOW - age * MINUTE)
        for number, (requests, age) in enumerate(changes.pop("flying", ()), start=1)
    ]
    usual: dict[str, Any] = {
        "now": NOW,
        "deadline": NOW + hours * HOUR,
        "unsent": 0,
        "calling": 0,
        "flying": flying,
        "slowest": max((NOW - batch.since for batch in flying), default=0.0),
        "room": 10_000,
        "queue": 10_000,
        "turnaround": Turnaround(0.5 * HOUR, 20),
        "speed": Speed(10.0, measured=True),
    }
    return Outlook(**(usual | changes))


@pytest.mark.parametrize(
    ("seen", "to_realtime"),
    [
        # Batches are back in time: they are waited for.
        (outlook(1, unsent=5_000), 0),
        (outlook(0.5, unsent=5_000), 0),
        # They are not: all goes now.
        (outlook(0.49, unsent=5_000), 5_000),
        # The queue takes 10,000 with each turnaround, and there are two before the deadline.
        (outlook(1.2, unsent=20_000), 0),
        (outlook(1.2, unsent=23_000), 3_000),
        # What fills the queue now leaves its room once.
        (outlook(0.7, unsent=12_000, room=4_000), 8_000),
        (outlook(1.2, unsent=12_000, room=4_000), 0),
        # Real time takes what it can finish (0.4 h: 14,400), and not what misses either way.
        (outlook(0.4, unsent=14_400), 14_400),
        (outlook(0.4, unsent=17_000), 17_000),
        (outlook(0.4, unsent=30_000), 14_400),
        (outlook(0.4, unsent=30_000, calling=10_000), 4_400),
        # What was never measured keeps nothing from being tried.
        (outlook(0.4, unsent=30_000, speed=Speed(4.0, measured=False)), 30_000),
        # Nothing measured at all: an hour is assumed.
        (outlook(1.1, unsent=100, turnaround=Turnaround()), 0),
        (outlook(0.9, unsent=100, turnaround=Turnaround()), 100),
        # A night whose batches are slow is a night with slow batches.
        (outlook(0.7, unsent=100, flying=[(5, 29)]), 0),
        (outlook(0.7, unsent=100, flying=[(5, 55)]), 100),
        # Once real time has begun, what is open again stays with it; what waits as a batch may.
        (outlook(5, unsent=100, unplanned=30), 0),
        (outlook(5, unsent=100, unplanned=30, moved=True), 30),
        (outlook(0.4, unsent=100, unplanned=30, moved=True), 100),
        # After the deadline what real time left open is asked like that again, and nothing new is.
        (outlook(0, unsent=100, unplanned=100), 0),
        (outlook(-1, unsent=100, unplanned=100), 0),
        (outlook(-1, unsent=100, unplanned=30, moved=True), 30),
        (outlook(1), 0),
    ],
)
def test_what_is_not_sent_moves_once_batches_would_miss_the_deadline(
    seen: Outlook, to_realtime: int
) -> None:
    assert decide(seen).to_realtime == to_realtime


LAST_MINUTES = (ASSUMED_CANCEL_SECONDS + 2 * MINUTE) / HOUR


@pytest.mark.parametrize(
    ("seen", "taken"),
    [
        # In time as batches.
        (outlook(0.1, flying=[(100, 25)]), ()),
        # Overdue, and real time would still be in time later: 600 requests take a minute.
        (outlook(1, flying=[(600, 40)]), ()),
        (outlook(LAST_MINUTES + 0.03, flying=[(600, 40)]), ()),
        # The last moment: a minute and a quarter, a cancel and two polls before the deadline.
        (outlook(LAST_MINUTES + 0.02, flying=[(600, 40)]), (1,)),
        # A cancel that takes longer needs an earlier start.
        (outlook(LAST_MINUTES + 0.12, flying=[(600, 40)]), ()),
        (outlook(LAST_MINUTES + 0.12, flying=[(600, 40)], cancel_seconds=0.2 * HOUR), (1,)),
        # Not overdue, but not expected in time either.
        (outlook(0.08, flying=[(600, 10)]), (1,)),
        (outlook(0.08, flying=[(600, 27)]), ()),
        # Each by itself; one that is slow makes the others slow.
        (outlook(0.08, flying=[(600, 27), (600, 29)]), ()),
        (outlook(0.08, flying=[(600, 40), (600, 27)]), (1, 2)),
        # Many requests need an earlier start.
        (outlook(1.0, flying=[(30_000, 40)]), (1,)),
        # The youngest go, as many as real time can finish (0.1 h: 3,600); more is left alone.
        (outlook(0.1, flying=[(3_000, 50), (3_000, 45)]), (2,)),
        (outlook(0.1, flying=[(50_000, 50)]), ()),
        (outlook(0.1, flying=[(3_000, 50)], calling=3_000), ()),
        (outlook(0.1, flying=[(3_000, 50)], speed=Speed(4.0, measured=False)), (1,)),
        # After the deadline a batch runs to its end.
        (outlook(0, flying=[(100, 50)]), ()),
        (outlook(-1, flying=[(100, 500)]), ()),
    ],
)
def test_batches_are_taken_over_at_the_last_moment_that_is_safe(
    seen: Outlook, taken: tuple[int, ...]
) -> None:
    assert decide(seen).take_over == taken


def test_what_is_not_proven_ours_is_never_taken_over() -> None:
    seen = outlook(0.05, flying=[(100, 50)])
    unknown = replace(seen, flying=[replace(seen.flying[0], takable=False)])
    assert decide(unknown) == replace(decide(unknown), take_over=(), to_realtime=0)
    assert not decide(unknown).meets


@pytest.mark.parametrize(
    ("seen", "meets", "words"),
    [
        (
            outlook(1, unsent=100),
            True,
            "batches take 30 min (measured on 20); all is expected",
        ),
        (
            outlook(0.4, unsent=100, turnaround=Turnaround()),
            True,
            "assumed, none was measured); 100 requests go in real time (10 a second, measured)",
        ),
        (outlook(0.4, unsent=30_000), False, "a part is expected after it, until 1970-01-12"),
        (outlook(0.1, flying=[(100, 40)]), True, "1 of them are late and are taken over at 1970-"),
        (outlook(0.1, flying=[(50_000, 40)]), False, "a part is expected after it"),
        (outlook(0.05, flying=[(100, 40)]), True, "1 of them (100 requests) are taken over; 100"),
        (outlook(-1, unsent=100), False, "the deadline has passed"),
    ],
)
def test_a_forecast_says_when_all_is_there_and_why(
    seen: Outlook, *, meets: bool, words: str
) -> None:
    found: Forecast = decide(seen)
    assert found.meets is meets
    assert words in found.reason


def test_minute_by_minute_nothing_moves_twice_and_all_that_was_not_sent_has_moved_in_time() -> None:
    """A queue that stays full: 3,000 are too many at once, the others once a turnaround is left."""
    seen = outlook(1.2, unsent=23_000)
    moves: list[tuple[int, int]] = []
    unsent, calling = 23_000, 0
    for minute in range(72):
        calling = max(0, calling - 600)
        now = replace(seen, now=NOW + minute * MINUTE, unsent=unsent, calling=calling)
        found = decide(replace(now, moved=bool(moves)))
        if found.to_realtime:
            moves.append((minute, found.to_realtime))
        unsent, calling = unsent - found.to_realtime, calling + found.to_realtime
    assert moves == [(0, 3_000), (13, 10_000), (43, 10_000)]
    assert (unsent, calling) == (0, 0)
