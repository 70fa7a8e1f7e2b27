"""What a tick asks for, as tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.ledger.admission.night_state import Facts
from batch_pipeline.ledger.admission.queue import REFUSED_BY_API, Queue
from batch_pipeline.orchestration.names import Kind
from batch_pipeline.orchestration.runs import last_was_canceled
from batch_pipeline.orchestration.sensor.run_requests import (
    LONGEST_REST_SECONDS,
    EarlierRun,
    PilotStage,
    UnfinishedNight,
    attempt,
    might_submit,
    plan,
)
from batch_pipeline_tests.support import alone

FACTS = Facts("review", "2026-11-01")
AT_THE_API = UnfinishedNight(
    partition="2026-11-01",
    marker="1.0.0",
    facts=FACTS,
    queue=alone(Queue(1_000)),
    pilot=PilotStage.JUDGED,
    next_requests=0,
    waiting=0,
    to_collect=0,
    settled_up=False,
    summary="",
)
WAITS = replace(AT_THE_API, next_requests=100, waiting=150)
ENDED = replace(AT_THE_API, to_collect=100)
SUBMIT, COLLECT = Kind.SUBMIT, Kind.COLLECT
BOTH = {COLLECT, SUBMIT}
MOVABLE = PilotStage.MOVABLE


def held(night: UnfinishedNight) -> UnfinishedNight:
    return replace(night, facts=replace(night.facts, held=True))


def not_asked(night: UnfinishedNight) -> UnfinishedNight:
    return replace(night, facts=replace(night.facts, asked=False))


def queued(night: UnfinishedNight, **queue: Any) -> UnfinishedNight:
    return replace(night, queue=alone(replace(night.queue["default"], **queue)))


@pytest.mark.parametrize(
    ("night", "kinds", "waits"),
    [
        (AT_THE_API, set(), None),
        (WAITS, {SUBMIT}, None),
        (queued(WAITS, used=900), {SUBMIT}, None),
        (queued(WAITS, used=901), set(), "the account's queue limit (1,000 requests)"),
        (queued(WAITS, job_limit=100, job_used=1), set(), "the job's share of the queue (100"),
        (queued(WAITS, refused=REFUSED_BY_API), set(), REFUSED_BY_API),
        (queued(WAITS, older_night="other 1"), set(), "an older night (other 1) goes first"),
        (held(WAITS), set(), "held"),
        (ENDED, {COLLECT}, None),
        (queued(ENDED, used=1_000), {COLLECT}, None),
        (held(ENDED), {COLLECT}, "held"),
        (replace(WAITS, to_collect=1), BOTH, None),
        (replace(AT_THE_API, settled_up=True), {COLLECT}, None),
        (replace(AT_THE_API, pilot=MOVABLE), {SUBMIT}, None),
        (replace(ENDED, pilot=MOVABLE), {SUBMIT}, None),
        (held(replace(ENDED, pilot=MOVABLE)), {COLLECT}, "held"),
        (not_asked(WAITS), set(), "its submission has not been asked for"),
        (not_asked(replace(WAITS, pilot=MOVABLE)), set(), "its submission has not been asked for"),
        (not_asked(replace(ENDED, pilot=MOVABLE)), {SUBMIT}, "its submission has not been"),
        (not_asked(ENDED), {COLLECT}, "its submission has not been asked for"),
        (replace(AT_THE_API, pilot=PilotStage.BUSY, waiting=9), set(), None),
        (queued(replace(WAITS, calls_due=True), refused=REFUSED_BY_API), {SUBMIT}, REFUSED_BY_API),
    ],
)
def test_a_night_gets_the_runs_that_bring_it_forward(
    night: UnfinishedNight, kinds: set[Kind], waits: str | None
) -> None:
    found = plan([night], set())
    assert {run.kind for run in found.wanted} == kinds
    state = found.waits[night.partition]
    assert (state is None) if waits is None else str(state).startswith(waits)


@pytest.mark.parametrize("kind", list(Kind))
def test_a_kind_that_has_an_unfinished_run_gets_no_other(kind: Kind) -> None:
    night = replace(WAITS, to_collect=1)
    found = plan([night], {(night.partition, kind)})
    assert {run.kind for run in found.wanted} == BOTH - {kind}


def test_a_run_of_another_partition_does_not_count() -> None:
    assert plan([WAITS], {("2026-10-31", SUBMIT)}).wanted


@pytest.mark.parametrize(
    ("night", "assets"),
    [
        (WAITS, ("submitted_batches",)),
        (replace(WAITS, pilot=PilotStage.MOVABLE), ("pilot_sample", "submitted_batches")),
        (not_asked(replace(ENDED, pilot=MOVABLE)), ("pilot_sample",)),
    ],
)
def test_a_submission_is_narrowed_to_what_is_left(
    night: UnfinishedNight, assets: tuple[str, ...]
) -> None:
    [run] = plan([night], set()).wanted
    assert run.assets == assets


def on(day: int, night: UnfinishedNight) -> UnfinishedNight:
    partition = f"2026-11-0{day}"
    return replace(night, partition=partition, facts=replace(night.facts, partition=partition))


def test_an_older_night_that_does_not_fit_keeps_younger_ones_waiting() -> None:
    room = queued(WAITS, used=950)
    found = plan([on(1, room), on(2, replace(room, next_requests=10))], set())
    assert found.wanted == ()
    large, small = map(str, found.waits.values())
    assert "the account's queue limit (1,000 requests) is in use" in large
    assert "an older night (review 2026-11-01) goes first" in small


def test_room_is_given_away_once() -> None:
    found = plan([on(day, queued(WAITS, used=700)) for day in (1, 2, 3)], set())
    assert [run.partition for run in found.wanted] == ["2026-11-01", "2026-11-02"]


def test_a_held_night_does_not_keep_others_waiting() -> None:
    found = plan([held(on(1, replace(WAITS, next_requests=5_000))), on(2, WAITS)], set())
    assert [run.partition for run in found.wanted] == ["2026-11-02"]


NOW = 10_000.0


def earlier(*failed: bool, marker: str = "1", ended_at: float = 0.0) -> list[EarlierRun]:
    return [EarlierRun(marker, failure, ended_at) for failure in failed]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([], 1),
        (earlier(False), 2),
        (earlier(True, False), 3),
        (earlier(True, True, False), 4),
        (earlier(True, True, True, marker="another"), 1),
        (earlier(True, True, True), "its run failed 3 times, see the runs; launch it again"),
        (earlier(False, ended_at=NOW - 10), "the last run changed nothing; another in 50 s"),
        (
            earlier(False, False, ended_at=NOW - 10),
            "the last run changed nothing; another in 110 s",
        ),
        (earlier(*[False] * 20, ended_at=NOW - LONGEST_REST_SECONDS), 21),
    ],
)
def test_an_attempt_follows_from_those_before(runs: list[EarlierRun], expected: int | str) -> None:
    found = attempt(runs, "1", NOW)
    if isinstance(expected, int):
        assert found == expected
    else:
        assert str(found).startswith(expected)


some_nights = st.lists(
    st.builds(
        UnfinishedNight,
        partition=st.dates().map(str),
        marker=st.just("1"),
        facts=st.builds(
            Facts, st.just("review"), st.just("p"), st.just("default"),
            held=st.booleans(), asked=st.booleans(),
        ),
        queue=st.just(alone(Queue(0))),
        pilot=st.sampled_from(PilotStage),
        next_requests=st.integers(0, 100),
        waiting=st.integers(100, 200),
        to_collect=st.integers(0, 2),
        settled_up=st.booleans(),
        summary=st.just(""),
    ),
    max_size=6,
    unique_by=lambda night: night.partition,
)  # fmt: skip


@given(some_nights, st.integers(0, 500), st.sets(st.sampled_from(Kind)))
def test_no_night_gets_two_runs_of_a_kind_or_more_room_than_there_is(
    nights: list[UnfinishedNight], room: int, busy: set[Kind]
) -> None:
    nights = [replace(night, queue=alone(Queue(room))) for night in nights]
    unfinished = {(night.partition, kind) for night in nights[:1] for kind in busy}
    wanted = plan(nights, unfinished).wanted
    asked = [(run.partition, run.kind) for run in wanted]
    assert len(set(asked)) == len(asked)
    assert not unfinished & set(asked)
    sent = {run.partition for run in wanted if "submitted_batches" in run.assets}
    assert sum(n.next_requests for n in nights if n.partition in sent) <= room
    assert not any(night.blocked for night in nights if night.partition in sent)
    assert all(night.facts.asked for night in nights if night.partition in sent)


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
        (held(WAITS), False),
    ],
)
def test_only_what_might_go_out_can_rest(night: UnfinishedNight, might: bool) -> None:
    assert might_submit(night) is might
