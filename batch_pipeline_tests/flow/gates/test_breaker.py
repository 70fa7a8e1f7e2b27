"""When the circuit breaker opens: tables over results and over the ledger's rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from batch_pipeline.flow.gates import night_sums
from batch_pipeline.flow.gates.breaker import first_attempts, judge
from batch_pipeline.flow.gates.first_attempts import FirstAttempts
from batch_pipeline.flow.outcomes import Action, Outcome, Status
from batch_pipeline.jobs.spec import AlertsSpec
from batch_pipeline.ledger.approvals import Approval, Gate
from batch_pipeline.ledger.submissions import State, Submission
from batch_pipeline_tests.flow.dataset.prepared_rows import SHARD, SNAPSHOT, approval, submission

ALERTS = AlertsSpec(error_rate=0.10, after_items=50)
GOOD = Outcome(Status.SUCCEEDED, Action.KEEP)
INVALID = Outcome(Status.ERRORED, Action.SET_ASIDE, "invalid_request_error", "no such field")
BUSY = Outcome(Status.ERRORED, Action.RETRY, "overloaded_error", "busy")


@pytest.mark.parametrize(
    ("outcome", "attempt", "counts"),
    [
        (GOOD, 1, (1, 0)),
        (INVALID, 1, (1, 1)),
        (Outcome(Status.TRUNCATED, Action.SET_ASIDE, "max_tokens", "cut off"), 1, (1, 1)),
        (Outcome(Status.REFUSED, Action.SET_ASIDE, "refusal", "refused"), 1, (1, 1)),
        (Outcome(Status.INVALID_OUTPUT, Action.SET_ASIDE, "not_json", "not JSON"), 1, (1, 1)),
        (Outcome(Status.ERRORED, Action.STOP, "billing_error", "pay first"), 1, (0, 0)),
        (BUSY, 1, (0, 0)),
        (Outcome(Status.EXPIRED, Action.RETRY, "expired", "expired"), 1, (0, 0)),
        (Outcome(Status.CANCELED, Action.REOPEN), 1, (0, 0)),
        (Outcome(Status.CANCELED, Action.RETRY, "canceled", "canceled"), 1, (0, 0)),
        (Outcome(Status.ERRORED, Action.RETRY_ONCE, "novel_error", "?"), 1, (0, 0)),
        (INVALID, 2, (0, 0)),
        (GOOD, 2, (0, 0)),
    ],
)
def test_what_counts(outcome: Outcome, attempt: int, counts: tuple[int, int]) -> None:
    first = FirstAttempts()
    first.count("an id", attempt, outcome)
    assert (first.done, first.needs_fix) == counts


def test_a_summary_holds_the_most_frequent_errors_with_three_examples_each() -> None:
    first = FirstAttempts()
    for kind in range(10):
        for number in range(10 - kind):
            outcome = replace(INVALID, error_type=f"e{kind}", error_message="x" * 1_000)
            first.count(f"{kind}-{number}", 1, outcome)
    stored = first.as_json()
    assert (stored["done"], stored["needs_fix"]) == (55, 55)
    assert stored["errors"] == {"e0": 10, "e1": 9, "e2": 8, "e3": 7, "e4": 6}
    assert set(stored["examples"]) == set(stored["errors"])
    assert [text[:5] for text in stored["examples"]["e0"]] == ["0-0: ", "0-1: ", "0-2: "]
    assert max(map(len, stored["examples"]["e0"])) < 400


def counted(done: int, **errors: int) -> FirstAttempts:
    examples = {kind: [f"id: {kind}!"] for kind in errors}
    return FirstAttempts(done, sum(errors.values()), Counter(errors), examples)


@pytest.mark.parametrize(
    ("first", "alerts", "reason"),
    [
        (counted(0), ALERTS, None),
        (counted(0), AlertsSpec(after_items=0), None),
        (counted(49, refusal=49), ALERTS, None),
        (counted(50, refusal=5), ALERTS, None),
        (
            counted(50, refusal=6),
            ALERTS,
            "6 of 50 first attempts need a fix (12.0%, over 10.0%), most often refusal (6)",
        ),
        (
            counted(2_000, max_tokens=300, invalid_request_error=1_100),
            ALERTS,
            (
                "1,400 of 2,000 first attempts need a fix (70.0%, over 10.0%), most often "
                "invalid_request_error (1,100)"
            ),
        ),
        (
            counted(1, refusal=1),
            AlertsSpec(after_items=0),
            "1 of 1 first attempts need a fix (100.0%, over 10.0%), most often refusal (1)",
        ),
        (counted(100, refusal=100), AlertsSpec(error_rate=1.0), None),
    ],
)
def test_when_it_opens(first: FirstAttempts, alerts: AlertsSpec, reason: str | None) -> None:
    tripped = judge(alerts, SNAPSHOT, first, ())
    assert (None if tripped is None else tripped.reason) == reason


@pytest.mark.parametrize(
    ("overruled", "opens"),
    [
        (approval(Gate.BREAKER), False),
        (approval(Gate.BREAKER, content="former"), False),
        (approval(Gate.BREAKER, declaration="former"), True),
        (approval(Gate.PILOT), True),
    ],
)
def test_an_approval_is_for_its_declaration(overruled: Approval, opens: bool) -> None:
    tripped = judge(ALERTS, SNAPSHOT, counted(50, refusal=50), (overruled,))
    assert (tripped is not None) is opens


FORMER = replace(SNAPSHOT, id=2, declaration_hash="former")
OTHER_INPUT = replace(SNAPSHOT, id=3, content_hash="former")
SHARDS = [
    SHARD,
    replace(SHARD, id=2, pilot=True),
    replace(SHARD, id=3, snapshot_id=2),
    replace(SHARD, id=4, snapshot_id=3),
    replace(SHARD, id=5, snapshot_id=3, pilot=True),
]
SUMMARY = {"first": counted(10, refusal=3).as_json()}


def collected(shard_id: int, summary: dict[str, Any] | None = SUMMARY) -> Submission:
    return submission(shard_id=shard_id, summary=summary)


@pytest.mark.parametrize(
    ("rows", "overruled", "done"),
    [
        ([], (), 0),
        ([collected(1)], (), 10),
        ([collected(1), collected(1)], (), 20),
        # A pilot counts, unless a person approved of it.
        ([collected(1), collected(2)], (), 20),
        ([collected(1), collected(2)], (approval(Gate.PILOT),), 10),
        ([collected(1), collected(2)], (approval(Gate.PILOT, content="former"),), 20),
        # Another declaration does not; another input does, but for the pilot drawn from it.
        ([collected(3)], (), 0),
        ([collected(4)], (), 10),
        ([collected(5)], (), 0),
        # Not collected yet, or by a release that did not count.
        ([collected(1, None)], (), 0),
        ([collected(1, {"statuses": {}})], (), 0),
        ([submission(state=State.ACCEPTED)], (), 0),
    ],
)
def test_which_rows_count(
    rows: list[Submission], overruled: tuple[Approval, ...], done: int
) -> None:
    snapshots = {found.id: found for found in (SNAPSHOT, FORMER, OTHER_INPUT)}
    shards = {shard.id: shard for shard in SHARDS}
    collected = [night_sums.of_submission(row, shards[row.shard_id]) for row in rows]
    first = first_attempts(SNAPSHOT, snapshots, collected, overruled)
    assert first.done == done
    assert first.errors["refusal"] == first.needs_fix == done * 3 // 10


def test_a_night_without_input_counts_nothing() -> None:
    first = first_attempts(None, {}, [], ())
    assert first.done == 0
    assert judge(AlertsSpec(after_items=0), None, first, ()) is None
