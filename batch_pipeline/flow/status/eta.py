"""How fast a night goes, when it ends, and what it will have cost, from its progress alone.

A batch shows nothing before its end. The numbers therefore move by whole batches, and the end is an
interval: from the fastest to the slowest turnaround so far. Real-time calls show each answer, and
go at the pace of the last half minute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.wording import duration, speed, usd

# The API ends a batch 24 hours after its creation, done or not.
LONGEST_SECONDS = 24 * 3600.0
# A batch is slow that exceeds the slowest turnaround so far by this factor, and by more than a poll
# interval: ends are noticed by polls, and of equal batches half are slower than the ones before.
SLOW_FACTOR = 1.5
SLOW_SECONDS = 60.0


@dataclass(frozen=True)
class Eta:
    """Seconds until all is answered: `least` and `most`, by the turnaround of `batches` (0: by the
    pace of calls).

    `slow`: a batch runs for clearly longer than any of those did, and `most` is the API's own
    limit.
    """

    least: float
    most: float
    batches: int
    slow: bool = False

    def __str__(self) -> str:
        if self.slow:
            return f"a batch is slower than all before; at most {duration(self.most)} left"
        if duration(self.least) == duration(self.most):
            return f"about {duration(self.most)} left"
        return f"{duration(self.least)} to {duration(self.most)} left"


def items_per_second(state: Progress) -> float | None:
    """Calls answered lately, while some are made; otherwise items settled by answers, from the
    first submission to the last collection; None before."""
    if state.calls_per_second:
        return state.calls_per_second
    if state.snapshot is None or not state.collected:
        return None
    answered = state.settled - sum(state.snapshot.settled.values())
    begun = min(part.first_intent_at for part in state.collected)
    seconds = max(part.last_collected_at for part in state.collected) - begun
    return answered / seconds if seconds > 0 else None


def eta(state: Progress) -> Eta | None:
    """When all of a night will have been answered; None while that cannot be told, or nothing is
    left: of batches none has ended yet, of calls none was answered.

    What waits goes as the queue empties: as many requests at a time as are in flight now. Retry
    rounds, and time in which something holds the night back, are not foreseen.
    """
    seen = [_turnaround(s) for s in state.submissions if _has_ended(s)]
    flying = [s for s in state.live if s.engine == "batch" and s.state is not State.ENDED]
    if not flying and state.calls_per_second:
        seconds = (state.waiting + _calls_left(state)) / state.calls_per_second
        return Eta(seconds, seconds, batches=0) if seconds else None
    if not seen or not (flying or state.waiting):
        return None
    fast, slow = min(seen), max(seen)
    ages = [max(0.0, state.at - (s.accepted_at or state.at)) for s in flying]
    late = max(slow * SLOW_FACTOR, slow + SLOW_SECONDS)
    oldest = max(ages, default=0.0)
    overdue = oldest > late
    longest = LONGEST_SECONDS if overdue else late if oldest > slow else slow
    left = [longest - age for age in ages]
    in_flight = sum(s.requests for s in flying)
    rounds = math.ceil(state.waiting / in_flight) if in_flight else min(1, state.waiting)
    least = max((fast - age for age in ages), default=0.0)
    return Eta(
        least=max(0.0, least) + rounds * fast,
        most=max(0.0, *left, 0.0) + rounds * slow,
        batches=len(seen),
        slow=overdue,
    )


def expected_usd(state: Progress) -> Decimal | None:
    """The cost at the end: what is billed, and for what is left the mean of the batches so far, or
    of the calls under way.

    Before a batch is collected or a call answered it is the pilot's projection; None where there is
    neither.
    """
    calls = _calls_left(state)
    left = state.waiting + state.in_flight + state.to_collect - state.called
    if not left:
        return state.total_cost_usd if state.snapshot is not None else None
    batches = [part for part in state.collected if part.engine == "batch" and part.requests]
    requests = sum(part.requests for part in batches)
    each = sum((p.cost_usd for p in batches), Decimal(0)) / requests if requests else None
    if state.called:
        call = state.called_usd / state.called
        return state.total_cost_usd + call * calls + (each or call) * (left - calls)
    if each is not None:
        return state.total_cost_usd + each * left
    verdict = state.night.pilot
    return Decimal(str(verdict["projected_usd"])) if verdict and verdict["judged"] else None


def describe(state: Progress) -> list[str]:
    """Speed, end and cost to expect, as far as they are known, in a few words each."""
    parts = []
    pace = items_per_second(state)
    if pace is not None and not state.complete:
        parts.append(f"{speed(pace)} items/s")
    if state.answered and state.error_rate:
        parts.append(f"{state.error_rate:.1%} errors")
    end = expected_usd(state)
    if end is not None and not state.complete and end > state.total_cost_usd:
        parts.append(f"{usd(end)} expected")
    until = eta(state)
    if until is not None and not state.complete:
        parts.append(str(until))
    return parts


def as_json(state: Progress) -> dict[str, Any]:
    """For `status --json`; seconds, items a second, USD."""
    pace, until, end = items_per_second(state), eta(state), expected_usd(state)
    return {
        "items_per_second": None if pace is None else round(pace, 3),
        "eta_seconds": None if until is None else round(until.most, 1),
        "eta_least_seconds": None if until is None else round(until.least, 1),
        "expected_cost_usd": None if end is None else float(end),
    }


def _calls_left(state: Progress) -> int:
    """Requests of shards that are being called, without those answered."""
    return sum(s.requests - s.progress["answered"] for s in state.live if s.progress is not None)


def _has_ended(submission: Submission) -> bool:
    return (
        submission.batch_id is not None
        and submission.accepted_at is not None
        and submission.ended_at is not None
    )


def _turnaround(submission: Submission) -> float:
    assert submission.accepted_at is not None
    assert submission.ended_at is not None
    # Two clocks, the API's and the ledger's: never less than nothing.
    return max(0.0, submission.ended_at - submission.accepted_at)
