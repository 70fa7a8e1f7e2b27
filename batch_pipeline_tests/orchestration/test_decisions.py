"""What a tick asks for, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.orchestration.decisions import (
    LONGEST_REST_SECONDS,
    Former,
    PilotStage,
    Room,
    Standing,
    attempt,
    last_was_canceled,
    might_submit,
    plan,
)
from batch_pipeline.orchestration.names import Kind

PLENTY = Room(1_000)
AT_THE_API = Standing(
    partition="2026-11-01",
    marker="1.0.0",
    asked=True,
    blocked=None,
    pilot=PilotStage.JUDGED,
    next_requests=0,
    waiting=0,
    to_collect=0,
    settled_up=False,
    older_first=None,
    summary="",
)
WAITS = replace(AT_THE_API, next_requests=100, waiting=150)
ENDED = replace(AT_THE_API, to_collect=100)
SUBMIT, COLLECT = Kind.SUBMIT, Kind.COLLECT
BOTH = {COLLECT, SUBMIT}
NOT_ASKED = "nobody has asked for its submission; materialize submitted_batches"


@pytest.mark.parametrize(
    ("night", "room", "kinds", "reason"),
    [
        (AT_THE_API, PLENTY, set(), None),
        (WAITS, PLENTY, {SUBMIT}, None),
        (WAITS, Room(100), {SUBMIT}, None),
        (WAITS, Room(99), set(), "waits for room in the API's queue"),
        (WAITS, Room(1_000, "the queue is full"), set(), "the queue is full"),
        (replace(WAITS, blocked="held"), PLENTY, set(), "held"),
        (
            replace(WAITS, older_first="other 1"),
            PLENTY,
            set(),
            "an older night (other 1) goes first",
        ),
        (ENDED, PLENTY, {COLLECT}, None),
        (ENDED, Room(0), {COLLECT}, None),
        (replace(ENDED, blocked="held"), PLENTY, {COLLECT}, "held"),
        (replace(WAITS, to_collect=1), PLENTY, BOTH, None),
        (replace(AT_THE_API, settled_up=True), PLENTY, {COLLECT}, None),
        (replace(AT_THE_API, pilot=PilotStage.MOVABLE), PLENTY, {SUBMIT}, None),
        (replace(ENDED, pilot=PilotStage.MOVABLE), PLENTY, {SUBMIT}, None),
        (replace(ENDED, pilot=PilotStage.MOVABLE, blocked="held"), PLENTY, {COLLECT}, "held"),
        (replace(WAITS, asked=False), PLENTY, set(), NOT_ASKED),
        (replace(WAITS, asked=False, pilot=PilotStage.MOVABLE), PLENTY, set(), NOT_ASKED),
        (replace(ENDED, asked=False, pilot=PilotStage.MOVABLE), PLENTY, {SUBMIT}, NOT_ASKED),
        (replace(ENDED, asked=False), PLENTY, {COLLECT}, NOT_ASKED),
        (replace(AT_THE_API, pilot=PilotStage.BUSY, waiting=9), PLENTY, set(), None),
    ],
)
def test_a_night_gets_the_runs_that_bring_it_forward(
    night: Standing, room: Room, kinds: set[Kind], reason: str | None
) -> None:
    found = plan([night], room, set())
    assert {wish.kind for wish in found.wishes} == kinds
    assert found.reasons[night.partition] == reason


@pytest.mark.parametrize("kind", list(Kind))
def test_a_kind_that_has_an_unfinished_run_gets_no_other(kind: Kind) -> None:
    night = replace(WAITS, to_collect=1)
    found = plan([night], PLENTY, {(night.partition, kind)})
    assert {wish.kind for wish in found.wishes} == BOTH - {kind}


def test_a_run_of_another_partition_does_not_count() -> None:
    assert plan([WAITS], PLENTY, {("2026-10-31", SUBMIT)}).wishes


@pytest.mark.parametrize(
    ("night", "assets"),
    [
        (WAITS, ("submitted_batches",)),
        (replace(WAITS, pilot=PilotStage.MOVABLE), ("pilot_sample", "submitted_batches")),
        (replace(ENDED, asked=False, pilot=PilotStage.MOVABLE), ("pilot_sample",)),
    ],
)
def test_a_submission_is_narrowed_to_what_is_left(night: Standing, assets: tuple[str, ...]) -> None:
    [wish] = plan([night], PLENTY, set()).wishes
    assert wish.assets == assets


def test_an_older_night_that_does_not_fit_keeps_younger_ones_waiting() -> None:
    large = replace(WAITS, partition="2026-11-01", next_requests=100)
    small = replace(WAITS, partition="2026-11-02", next_requests=10)
    found = plan([large, small], Room(50), set())
    assert found.wishes == ()
    assert set(found.reasons.values()) == {"waits for room in the API's queue"}


def test_room_is_given_away_once() -> None:
    nights = [replace(WAITS, partition=f"2026-11-0{day}") for day in (1, 2, 3)]
    found = plan(nights, Room(300), set())
    assert [wish.partition for wish in found.wishes] == ["2026-11-01", "2026-11-02"]


def test_a_held_night_does_not_keep_others_waiting() -> None:
    held = replace(WAITS, blocked="held", next_requests=5_000)
    other = replace(WAITS, partition="2026-11-02")
    assert [wish.partition for wish in plan([held, other], PLENTY, set()).wishes] == ["2026-11-02"]


NOW = 10_000.0


def former(*failed: bool, marker: str = "1", ended_at: float = 0.0) -> list[Former]:
    return [Former(marker, failure, ended_at) for failure in failed]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([], 1),
        (former(False), 2),
        (former(True, False), 3),
        (former(True, True, False), 4),
        (former(True, True, True, marker="an earlier one"), 1),
        (former(True, True, True), "its run failed 3 times, see the runs; launch it again"),
        (former(False, ended_at=NOW - 10), "the last run changed nothing; another in 50 s"),
        (former(False, False, ended_at=NOW - 10), "the last run changed nothing; another in 110 s"),
        (former(*[False] * 20, ended_at=NOW - LONGEST_REST_SECONDS), 21),
    ],
)
def test_an_attempt_follows_from_those_before(runs: list[Former], expected: int | str) -> None:
    found = attempt(runs, "1", NOW)
    if isinstance(expected, int):
        assert found == expected
    else:
        assert str(found).startswith(expected)


standings = st.lists(
    st.builds(
        Standing,
        partition=st.dates().map(str),
        marker=st.just("1"),
        asked=st.booleans(),
        blocked=st.none() | st.just("held"),
        pilot=st.sampled_from(PilotStage),
        next_requests=st.integers(0, 100),
        waiting=st.integers(100, 200),
        to_collect=st.integers(0, 2),
        settled_up=st.booleans(),
        older_first=st.none(),
        summary=st.just(""),
    ),
    max_size=6,
    unique_by=lambda night: night.partition,
)


@given(standings, st.integers(0, 500), st.sets(st.sampled_from(Kind)))
def test_no_night_gets_two_runs_of_a_kind_or_more_room_than_there_is(
    nights: list[Standing], room: int, busy: set[Kind]
) -> None:
    unfinished = {(night.partition, kind) for night in nights[:1] for kind in busy}
    wishes = plan(nights, Room(room), unfinished).wishes
    asked = [(wish.partition, wish.kind) for wish in wishes]
    assert len(set(asked)) == len(asked)
    assert not unfinished & set(asked)
    sent = {wish.partition for wish in wishes if "submitted_batches" in wish.assets}
    assert sum(n.next_requests for n in nights if n.partition in sent) <= room
    assert not any(night.blocked for night in nights if night.partition in sent)
    assert all(night.asked for night in nights if night.partition in sent)


@pytest.mark.parametrize(
    ("runs", "rests"),
    [
        ([], False),
        ([(1.0, False)], False),
        ([(1.0, True)], True),
        ([(1.0, True), (2.0, False)], False),
        ([(2.0, False), (1.0, True)], False),
        ([(1.0, False), (2.0, True)], True),
    ],
)
def test_a_night_rests_if_its_last_run_was_terminated(
    runs: list[tuple[float, bool]], rests: bool
) -> None:
    assert last_was_canceled(runs) is rests


@pytest.mark.parametrize(
    ("night", "might"),
    [
        (AT_THE_API, False),
        (WAITS, True),
        (replace(AT_THE_API, calls_due=True), True),
        (replace(AT_THE_API, pilot=PilotStage.MOVABLE), True),
        (replace(WAITS, blocked="held"), False),
    ],
)
def test_only_what_might_go_out_can_rest(night: Standing, might: bool) -> None:
    assert might_submit(night) is might
