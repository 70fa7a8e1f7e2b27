"""What a night is in, and what is to be done: tables over plain facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from batch_pipeline.ledger.admission.decision import with_queue
from batch_pipeline.ledger.admission.night_state import (
    ClosedGate,
    Facts,
    Gates,
    Kind,
    ShortOfBudget,
    may_go,
    running,
    state_of,
    states_of,
)
from batch_pipeline.ledger.admission.queue import REFUSED_BY_API, Queue, Queues
from batch_pipeline_tests.support import alone

NIGHT = Facts("review", "2026-11-01", ("main",))
RUN = "`batch-pipeline run review --partition 2026-11-01`"
# What leads to each kind, in the order in which they are looked for, and what is said then.
WAYS: list[tuple[Kind, dict[str, Any], str, str]] = [
    (Kind.COMPLETE, {"complete": True}, "it is complete", ""),
    (Kind.HELD, {"held": True}, "held after a cancel", "--resume` lifts it"),
    (
        Kind.KEY_REFUSED,
        {"key_refused": "HTTP 401"},
        "the API refuses the key of account main: HTTP 401",
        "set a key of the same workspace",
    ),
    (
        Kind.PAUSED,
        {"paused": "pay first"},
        "submission is paused for account main: pay first",
        "API's console",
    ),
    (
        Kind.REFUSED,
        {"refused": "the API refused a batch as a whole: HTTP 400"},
        "the API refused a batch as a whole: HTTP 400",
        "correct the declaration",
    ),
    (
        Kind.FAILED,
        {"failed": ("no input file matches", "add the files and run it again")},
        "no input file matches",
        "add the files",
    ),
    (
        Kind.DECLARATION_CHANGED,
        {"gates": Gates(declaration_changed=True)},
        "the declaration changed after the input was taken",
        "materialize input_dataset",
    ),
    (
        Kind.PILOT_CLOSED,
        {"gates": Gates(pilot=ClosedGate("all were cut off"))},
        "the pilot's gate is closed: all were cut off",
        "--gate pilot",
    ),
    (
        Kind.BREAKER_OPEN,
        {"gates": Gates(breaker=ClosedGate("9 of 10 failed"))},
        "the circuit breaker is open: 9 of 10 failed",
        "--gate breaker",
    ),
    (
        Kind.API_UNAVAILABLE,
        {"unanswered": "HTTP 529"},
        "the API did not answer (HTTP 529)",
        "it is tried again",
    ),
    (Kind.RUNNING, {"at_work": "its calls are made"}, "its calls are made", ""),
    (
        Kind.EARLIER_ANSWERS_FIRST,
        {"waits_for": "2026-01-01"},
        "2026-01-01 is under way, whose answers are reused",
        "once that night is complete",
    ),
    (Kind.BACKING_OFF, {"backing_off": "the API fails"}, "the API fails", ""),
    (
        Kind.SHORT_OF_BUDGET,
        {"short_of_budget": ShortOfBudget("budget.max", "$5 has no room")},
        "$5 has no room",
        "raise budget.max and",
    ),
    (
        Kind.SHARD_TOO_LARGE,
        {"too_large": (1_000, 20)},
        "its next batch of 1,000 requests is larger than the queue limit (20)",
        "cuts it anew",
    ),
    (
        Kind.OLDER_NIGHT_FIRST,
        {"older_night": "other 1"},
        "an older night (other 1) goes first",
        "it follows",
    ),
    (Kind.QUEUE_FULL, {"queue_full": REFUSED_BY_API}, REFUSED_BY_API, "as batches end"),
    (Kind.OPEN, {}, "nothing stands in its way", RUN),
]


def test_the_table_has_every_kind_in_order() -> None:
    assert [kind for kind, *_ in WAYS] == list(Kind)


@pytest.mark.parametrize(("kind", "facts", "reason", "remedy"), WAYS)
def test_each_kind_says_why_and_what_to_do(
    kind: Kind, facts: dict[str, Any], reason: str, remedy: str
) -> None:
    state = state_of(replace(NIGHT, **facts))
    assert (state.kind, state.reason) == (kind, reason)
    assert remedy in state.remedy
    assert bool(state.remedy) is (kind not in (Kind.COMPLETE, Kind.RUNNING, Kind.BACKING_OFF))
    assert may_go(replace(NIGHT, **facts)) is (kind is Kind.OPEN)


@pytest.mark.parametrize("first", range(len(WAYS)))
def test_of_several_the_first_counts(first: int) -> None:
    facts = NIGHT
    for _, change, *_ in reversed(WAYS[first:]):
        gates = change.get("gates")
        if gates is not None:
            set_here = {name: value for name, value in vars(gates).items() if value}
            change = {"gates": replace(facts.gates, **set_here)}  # noqa: PLW2901
        facts = replace(facts, **change)
    assert state_of(facts).kind is WAYS[first][0]
    expected = [Kind.COMPLETE] if first == 0 else [kind for kind, *_ in WAYS[first:]]
    assert [state.kind for state in states_of(facts)] == expected


@pytest.mark.parametrize(
    ("facts", "kind", "reason"),
    [
        (replace(NIGHT, terminated=True), Kind.HELD, "its run was terminated"),
        (replace(NIGHT, asked=False), Kind.OPEN, "its submission has not been asked for"),
        (replace(NIGHT, gates=Gates(judged=False)), Kind.OPEN, "the pilot has not been judged yet"),
    ],
)
def test_what_may_not_go_for_other_reasons(facts: Facts, kind: Kind, reason: str) -> None:
    assert (state_of(facts).kind, state_of(facts).reason) == (kind, reason)
    assert not may_go(facts)


def test_as_text_and_as_json() -> None:
    held = state_of(replace(NIGHT, held=True))
    assert str(held) == f"held after a cancel; {RUN[:-1]} --resume` lifts it"
    assert held.as_json() == {"kind": "held", "reason": held.reason, "remedy": held.remedy}
    assert str(running("its calls are made")) == "its calls are made"


@pytest.mark.parametrize(
    ("queue", "requests", "room", "too_large", "full"),
    [
        (Queue(100), 100, 100, None, None),
        (Queue(100, 40), 61, 60, None, "the account's queue limit (100 requests) is in use"),
        (Queue(100), 101, 100, (101, 100), "the account's queue limit (100 requests) is in use"),
        (Queue(100, 0, 30), 31, 30, (31, 30), "the job's share of the queue (30 requests) is"),
        (Queue(100, 90, 30, 10), 15, 10, None, "the account's queue limit (100 requests) is"),
        (Queue(100, 90, 30, 20), 15, 10, None, "the job's share of the queue (30 requests)"),
        (Queue(100, refused=REFUSED_BY_API), 1, 100, None, REFUSED_BY_API),
    ],
)
def test_room_at_the_queue(
    queue: Queue, requests: int, room: int, too_large: tuple[int, int] | None, full: str | None
) -> None:
    assert (queue.room, queue.too_large(requests)) == (room, too_large)
    said = queue.full(requests)
    assert (said is None) if full is None else str(said).startswith(full)


@pytest.mark.parametrize(
    ("north", "south", "limit", "at_once", "room"),
    [
        # A limit that was lowered below what is in the queue takes no room from the others.
        (Queue(50, 30), Queue(30, 40), 30, 80, 20),
        (Queue(50, 30, 60, 45), Queue(30, 10, 60, 45), 30, 60, 15),
    ],
)
def test_the_queues_of_two_organisations(
    north: Queue, south: Queue, limit: int, at_once: int, room: int
) -> None:
    found = of_two(north, south)
    assert (found.limit, found.at_once, found.room) == (limit, at_once, room)


@pytest.mark.parametrize(
    ("north", "south", "best", "for_batch"),
    [
        (Queue(50, 10), Queue(50), "south", "south"),
        (Queue(50, older_night="job 1"), Queue(50, 10), "south", "south"),
        # None has room: not the one that never will, nor the one where an older night goes first.
        (Queue(10), Queue(50, 50), None, "south"),
        (Queue(50, older_night="job 1"), Queue(50, 40), None, "south"),
    ],
)
def test_which_queue_a_batch_may_join(
    north: Queue, south: Queue, best: str | None, for_batch: str
) -> None:
    found = of_two(north, south)
    assert found.best(20) == best
    assert found.for_batch(20) is found[for_batch]


def test_what_waits_for_its_jobs_share_waits_for_no_older_night() -> None:
    queue = Queue(100, 0, 30, 30, older_night="job 1")
    assert state_of(with_queue(NIGHT, queue, 10)).kind is Kind.QUEUE_FULL
    assert state_of(with_queue(NIGHT, Queue(100, older_night="job 1"), 10)).kind is (
        Kind.OLDER_NIGHT_FIRST
    )


def test_what_joins_fills_one_queue_after_the_other() -> None:
    joined = of_two(Queue(50, 30, 100, 5), Queue(30, 25, 100, 5)).joined_by(22)
    assert [(q.used, q.job_used) for q in joined.by_organisation.values()] == [(50, 27), (27, 27)]


def of_two(north: Queue, south: Queue) -> Queues:
    return Queues({"north": "n", "south": "s"}, {"n": north, "s": south})


def test_what_joins_the_queue_takes_room() -> None:
    joined = alone(Queue(100, 10, 60, 10)).joined_by(45)["default"]
    assert (joined.room, joined.full(5), joined.full(6) is None) == (5, None, False)
