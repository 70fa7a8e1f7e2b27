"""When the circuit breaker opens: tables over results and over the ledger's rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from batch_pipeline.flow.answers.outcomes import Action, Outcome, Status
from batch_pipeline.flow.gates.breaker import judge, parts_that_count
from batch_pipeline.flow.gates.first_attempts import FirstAttempts
from batch_pipeline.jobs.spec import AlertsSpec
from batch_pipeline.ledger.control.approvals import Approval, Gate
from batch_pipeline.ledger.sums import Part
from batch_pipeline_tests.flow.dataset.prepared_rows import SNAPSHOT, approval

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
        # It was not sent: no prompt would have made it better.
        (Outcome(Status.INVALID_INPUT, Action.SET_ASIDE, "document_changed", "gone"), 1, (0, 0)),
    ],
)
def test_what_counts(outcome: Outcome, attempt: int, counts: tuple[int, int]) -> None:
    first = FirstAttempts()
    first.count("an id", attempt, outcome)
    assert (first.done, first.needs_fix) == counts


def test_the_ledger_keeps_the_most_frequent_errors_with_three_examples_each() -> None:
    first = FirstAttempts()
    for kind in range(10):
        for number in range(10 - kind):
            outcome = replace(INVALID, error_type=f"e{kind}", error_message="x" * 1_000)
            first.count(f"{kind}-{number}", 1, outcome)
    stored = first.most_frequent()
    assert (stored.done, stored.needs_fix) == (55, 55)
    assert stored.errors == {"e0": 10, "e1": 9, "e2": 8, "e3": 7, "e4": 6}
    assert set(stored.examples) == set(stored.errors)
    assert [text[:5] for text in stored.examples["e0"]] == ["0-0: ", "0-1: ", "0-2: "]
    assert max(map(len, stored.examples["e0"])) < 400


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


SNAPSHOTS = {
    1: SNAPSHOT,
    2: replace(SNAPSHOT, id=2, declaration_hash="former"),
    3: replace(SNAPSHOT, id=3, content_hash="former"),
    4: replace(SNAPSHOT, id=4),
}


@pytest.mark.parametrize(
    ("overruled", "pilots"),
    [
        # A pilot of other input does not count, nor one that a person approved of.
        ((), {1, 4}),
        ((approval(Gate.PILOT),), set()),
        ((approval(Gate.PILOT, content="former"),), {1, 4}),
        ((approval(Gate.PILOT, declaration="former"),), {1, 4}),
        ((approval(Gate.BREAKER),), {1, 4}),
    ],
)
def test_which_parts_of_a_night_count(overruled: tuple[Approval, ...], pilots: set[int]) -> None:
    """Snapshot 2 was taken with another declaration, snapshot 3 is of other input."""
    expected: set[Part] = {(1, False), (3, False), (4, False), *((n, True) for n in pilots)}
    assert parts_that_count(SNAPSHOT, SNAPSHOTS, overruled) == expected


def test_without_input_the_breaker_is_closed() -> None:
    assert judge(AlertsSpec(after_items=0), None, FirstAttempts(), ()) is None
