"""What is reserved for batches that real time takes over: once, under the ceilings, until claimed.

A request is bound to one dollar as a batch and to two in real time.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import Connection

from batch_pipeline.ledger import nights, shards
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.admission import admission, budget
from batch_pipeline.ledger.admission.admission import Intent, Limits, Sender, Waiting
from batch_pipeline.ledger.admission.budget import Ceilings, Money, Spending
from batch_pipeline.ledger.admission.night_state import (
    OPEN_GATES,
    ClosedGate,
    Gates,
    Kind,
    NightState,
)
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard, ShardState
from batch_pipeline.ledger.submissions import submissions, takeovers, transitions
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.ledger.sums import Counts
from batch_pipeline_tests.ledger.conftest import (
    ACCOUNT,
    LIMITS,
    Clock,
    a_night,
    a_shard,
    begun,
    queue_of,
)
from batch_pipeline_tests.support import together

NUMBERS = count()


def bound(shard: Shard) -> Decimal:
    return Decimal(shard.requests * (2 if shard.engine == "realtime" else 1))


def under(usd: int) -> Limits:
    money = Money(Ceilings(partition=Decimal(usd)), bound)
    return replace(LIMITS, senders=queue_of(10_000), money=money)


def accepted(connection: Connection, night: Night, limits: Limits) -> Submission:
    submission = begun(connection, night, limits)
    transitions.accept(
        connection, submission.id, f"batch_{next(NUMBERS)}", accepted_at=0, expires_at=0
    )
    return submissions.get(connection, submission.id)


def reserve(
    connection: Connection, night: Night, batch: Submission, limits: Limits
) -> NightState | None:
    usd = Decimal(2 * batch.requests)
    return admission.reserve_takeover(connection, night, batch, usd, limits, lambda *_: OPEN_GATES)


def collected(connection: Connection, batch: Submission, answered: int) -> None:
    """Ended and collected, so many requests answered at half their bound, the others open."""
    transitions.end(connection, batch)
    counts = Counts(open=batch.requests - answered)
    transitions.collect(connection, batch, counts, Decimal(answered) / 2)
    takeovers.settle(connection, batch.night_id)


def claimed(connection: Connection, night: Night, limits: Limits) -> Intent | Waiting:
    """What is open is planned for real time, and the next real-time shard is claimed."""
    night = nights.get_night(connection, night.id)
    if night.open_requests:
        planned = [a_shard(night.open_requests, "realtime")]
        assert shards.add_shards(connection, night, planned, open_requests=0)
    [shard, *_] = shards.list_shards(connection, night.id, ShardState.WAITING)
    return admission.begin_calls(connection, night, shard, "me", limits)


def spent(connection: Connection, night: Night, limits: Limits) -> Spending:
    [(_, _, found)] = budget.spendings(connection, night, limits.money.ceilings)
    return found


def left_usd(connection: Connection, night: Night) -> Decimal:
    """What is reserved for real-time shards of a night and not claimed yet."""
    taken = takeovers.of_night(connection, night.id).values()
    return sum((each.left_usd for each in taken), Decimal(0))


def test_the_real_time_price_is_reserved_from_the_cancel_to_the_claim(ledger: Ledger) -> None:
    limits = under(30)
    with ledger.write() as connection:
        night = a_night(connection, 10)
        batch = accepted(connection, night, limits)
        assert spent(connection, night, limits).total == 10
        assert reserve(connection, night, batch, limits) is None
        assert submissions.get(connection, batch.id).cancel_requested_at is not None
        assert spent(connection, night, limits).total == 30
        collected(connection, batch, answered=4)
        # Two dollars were billed; the price of all ten is kept until it is claimed for six.
        assert spent(connection, night, limits) == Spending(Decimal(2), Decimal(20))
        assert isinstance(claimed(connection, night, limits), Intent)
        assert spent(connection, night, limits) == Spending(Decimal(2), Decimal(12))


def test_whose_take_overs_count(ledger: Ledger) -> None:
    limits, month = under(1_000), Ceilings(job_month=Decimal(1_000))
    with ledger.write() as connection:
        night = a_night(connection, 10)
        batch = accepted(connection, night, limits)
        assert reserve(connection, night, batch, limits) is None
        for job, expected in (("job", 30), ("other", 0)):
            another = a_night(connection, 10, job=job, partition="2026-01-03")
            [(_, _, found)] = budget.spendings(connection, another, month)
            assert found.reserved == expected
        assert budget.account_month(connection, ACCOUNT).reserved == 30
        assert budget.account_month(connection, "second").reserved == 0


def test_each_shard_uses_its_part_of_the_reservation_up(ledger: Ledger) -> None:
    limits = under(60)
    with ledger.write() as connection:
        night = a_night(connection, 10, 10)
        for batch in [accepted(connection, night, limits) for _ in range(2)]:
            assert reserve(connection, night, batch, limits) is None
            collected(connection, batch, answered=0)
        night = nights.get_night(connection, night.id)
        planned = [a_shard(requests, "realtime") for requests in (4, 16)]
        assert shards.add_shards(connection, night, planned, open_requests=0)
        assert isinstance(claimed(connection, night, under(39)), Waiting), "lowered meanwhile"
        assert isinstance(claimed(connection, night, limits), Intent)
        assert left_usd(connection, night) == 32
        assert spent(connection, night, limits).reserved == 40


def test_nobody_else_gets_what_is_reserved(ledger: Ledger) -> None:
    limits = under(31)
    with ledger.write() as connection:
        night = a_night(connection, 10, 11)
        batch = accepted(connection, night, limits)
        assert reserve(connection, night, batch, limits) is None
        refused = admission.begin(connection, night, "me", limits, lambda *_: OPEN_GATES)
        assert isinstance(refused, Waiting)
        assert refused.state is not None
        assert refused.state.kind is Kind.SHORT_OF_BUDGET
        collected(connection, batch, answered=0)
        [shard] = shards.list_shards(connection, night.id, ShardState.WAITING)
        assert shard.engine == "batch"
        assert isinstance(
            admission.begin(connection, night, "me", limits, lambda *_: OPEN_GATES), Intent
        )
        # The next plan's real-time shard has its own reservation, though the ceiling is reached.
        assert spent(connection, night, limits).total == 31
        planned = [a_shard(10, "realtime")]
        now = nights.get_night(connection, night.id)
        assert shards.add_shards(connection, now, planned, open_requests=0)
        [calls] = shards.list_shards(connection, night.id, ShardState.WAITING)
        intent = admission.begin_calls(connection, night, calls, "me", limits)
        assert isinstance(intent, Intent)
        assert spent(connection, night, limits).total == 31


@pytest.mark.parametrize("ceiling", ["job_month", "account_month"])
def test_what_was_reserved_last_month_makes_no_room_in_this_one(
    ledger: Ledger, clock: Clock, ceiling: str
) -> None:
    """The calls are billed in the month in which they are claimed, and need room there."""
    limits = under(1_000)
    month = Decimal(40)
    if ceiling == "job_month":
        limits = replace(limits, money=Money(Ceilings(job_month=month), bound))
    else:
        limits = replace(limits, senders=(Sender(ACCOUNT, ACCOUNT, 10_000, month),))
    with ledger.write() as connection:
        clock.at = datetime(2026, 1, 31, 23, 59, tzinfo=UTC).timestamp()
        night = a_night(connection, 10, 30)
        batch = accepted(connection, night, limits)
        assert reserve(connection, night, batch, limits) is None
        clock.at = datetime(2026, 2, 1, tzinfo=UTC).timestamp()
        assert begun(connection, night, limits).requests == 30
        collected(connection, batch, answered=0)
        waiting = claimed(connection, night, limits)
        assert isinstance(waiting, Waiting)
        assert "$10.00 more than is left" in str(waiting)


def test_a_closed_gate_is_in_the_way_and_real_time_begins_once(
    ledger: Ledger, clock: Clock
) -> None:
    limits = under(1_000)
    closed = Gates(breaker=ClosedGate("5 of 10 failed"))
    with ledger.write() as connection:
        night = a_night(connection, 10, 10)
        first, second = (accepted(connection, night, limits) for _ in range(2))
        refused = admission.reserve_takeover(
            connection, night, first, Decimal(20), limits, lambda *_: closed
        )
        assert refused is not None
        assert refused.kind is Kind.BREAKER_OPEN
        began = clock.at
        for batch in (first, second):
            assert reserve(connection, night, batch, limits) is None
            clock.at += 10
        assert nights.get_night(connection, night.id).realtime_since == began


def test_what_does_not_fit_is_not_cancelled(ledger: Ledger) -> None:
    limits = under(29)
    with ledger.write() as connection:
        night = a_night(connection, 10)
        batch = accepted(connection, night, limits)
        refused = reserve(connection, night, batch, limits)
        assert refused is not None
        assert "has no room" in refused.reason
        assert submissions.get(connection, batch.id).cancel_requested_at is None
        assert takeovers.of_night(connection, night.id) == {}
        assert nights.get_night(connection, night.id).realtime_since is None


@pytest.mark.parametrize("state", ["sealed", "unknown", "ended", "held", "paused", "twice"])
def test_only_a_batch_that_is_ours_and_may_be_followed_is_reserved(
    ledger: Ledger, state: str
) -> None:
    limits = under(1_000)
    with ledger.write() as connection:
        night = a_night(connection, 10)
        batch = begun(connection, night, limits)
        assert transitions.seal(connection, batch, 60)
        if state == "unknown":
            transitions.lose_track(connection, batch, "x")
        if state in ("ended", "held", "paused", "twice"):
            transitions.accept(connection, batch.id, "batch", accepted_at=0, expires_at=0)
        if state == "ended":
            transitions.end(connection, batch)
        if state == "held":
            nights.update_night(connection, night.id, held_at=1.0)
        if state == "paused":
            accounts.pause_account(connection, ACCOUNT, "no credit")
        if state == "twice":
            assert reserve(connection, night, batch, limits) is None
        reserve(connection, night, batch, limits)
        assert len(takeovers.of_night(connection, night.id)) == (state == "twice")
        assert left_usd(connection, night) == (20 if state == "twice" else 0)


@pytest.mark.parametrize("how", ["all answered", "held", "begun anew"])
def test_what_nothing_will_claim_is_released(ledger: Ledger, how: str) -> None:
    limits = under(1_000)
    with ledger.write() as connection:
        night = a_night(connection, 10)
        batch = accepted(connection, night, limits)
        assert reserve(connection, night, batch, limits) is None
        if how == "all answered":
            collected(connection, batch, answered=10)
        elif how == "held":
            nights.update_night(connection, night.id, held_at=1.0)
            takeovers.settle(connection, night.id)
        else:
            takeovers.release(connection, night.id)
        assert left_usd(connection, night) == 0
        assert len(takeovers.of_night(connection, night.id)) == 1


def test_side_by_side_the_last_dollars_are_reserved_once(ledger: Ledger, ledger_url: str) -> None:
    """Ten batches of ten dollars, and twice the price of three of them beside."""
    limits = under(100 + 60)
    with ledger.write() as connection:
        night = a_night(connection, *[10] * 10)
        batches = [accepted(connection, night, limits) for _ in range(10)]
    refusals: list[str] = []

    def take_over() -> None:
        own = Ledger(ledger_url)
        for batch in batches:
            with own.write() as connection:
                refused = reserve(connection, night, batch, limits)
            if refused is not None:
                refusals.append(refused.reason)
        own.close()

    together(*[take_over] * 3)
    with ledger.read() as connection:
        assert len(takeovers.of_night(connection, night.id)) == 3
        assert spent(connection, night, limits).total == 160
    assert len(refusals) == 3 * 7


class TakeOvers(RuleBasedStateMachine):
    """Any step in any order: the ceiling holds, what was reserved is there when it is claimed."""

    @initialize(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), room=st.integers(0, 40))
    def start(self, sizes: list[int], room: int) -> None:
        self.ledger = Ledger("sqlite://")
        self.limits = under(sum(sizes) + room)
        with self.ledger.write() as connection:
            accounts.register_account(connection, ACCOUNT, simulated=False)
            self.night = a_night(connection, *sizes)
            self.batches = [accepted(connection, self.night, self.limits) for _ in sizes]

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()

    @rule(pick=st.integers(0, 4))
    def take_over(self, pick: int) -> None:
        with self.ledger.write() as connection:
            batch = self.batches[pick % len(self.batches)]
            reserve(connection, self.night, batch, self.limits)

    @rule(pick=st.integers(0, 4), share=st.floats(0, 1))
    def collect(self, pick: int, share: float) -> None:
        """Only what was cancelled leaves requests open."""
        with self.ledger.write() as connection:
            batch = submissions.get(connection, self.batches[pick % len(self.batches)].id)
            if batch.state is State.ACCEPTED:
                cancelled = batch.cancel_requested_at is not None
                answered = round(share * batch.requests) if cancelled else batch.requests
                collected(connection, batch, answered)

    @rule()
    def call(self) -> None:
        with self.ledger.write() as connection:
            night = nights.get_night(connection, self.night.id)
            waiting = shards.list_shards(connection, night.id, ShardState.WAITING)
            if night.open_requests or waiting:
                assert isinstance(claimed(connection, night, self.limits), Intent)

    @rule()
    def calls_end(self) -> None:
        with self.ledger.write() as connection:
            for calls in submissions.of_night(connection, self.night.id, State.CALLING):
                collected(connection, calls, calls.requests)

    @invariant()
    def the_ceiling_holds_and_nothing_stays_reserved(self) -> None:
        if not hasattr(self, "ledger"):
            return
        with self.ledger.read() as connection:
            [(_, limit, found)] = budget.spendings(
                connection, self.night, self.limits.money.ceilings
            )
            night = nights.get_night(connection, self.night.id)
            live = submissions.of_night(connection, night.id, State.ACCEPTED)
            waiting = shards.list_shards(connection, night.id, ShardState.WAITING)
            left = left_usd(connection, night)
        assert found.total <= limit
        assert left >= 0
        if not (night.open_requests or live or waiting):
            assert left == 0


TakeOvers.TestCase.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
test_take_overs = pytest.mark.filterwarnings("ignore::ResourceWarning")(TakeOvers.TestCase)
