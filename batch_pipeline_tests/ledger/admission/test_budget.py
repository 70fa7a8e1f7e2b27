"""Ceilings in USD, on both databases: what counts as spent, and who gets the last dollar."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

import pytest
from sqlalchemy import Connection

from batch_pipeline.ledger import nights, shards, snapshots
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.admission import admission, budget
from batch_pipeline.ledger.admission.admission import Intent, Limits, Sender, Waiting
from batch_pipeline.ledger.admission.budget import (
    JOB_MONTH,
    PARTITION,
    Ceilings,
    Money,
    Spending,
)
from batch_pipeline.ledger.admission.night_state import OPEN_GATES, Kind
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Engine
from batch_pipeline.ledger.submissions import submissions, transitions
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.ledger.sums import Counts
from batch_pipeline.settings import MOST_USD_PER_MONTH
from batch_pipeline_tests.ledger.conftest import (
    ACCOUNT,
    LIMITS,
    Clock,
    a_night,
    a_shard,
    a_snapshot,
    accept,
    begin,
    begun,
    queue_of,
)
from batch_pipeline_tests.support import together

COUNTS = Counts()


def under(**ceilings: int | str) -> Limits:
    """Limits with room for everything but money; each request is bound to a dollar."""
    given = {name: Decimal(amount) for name, amount in ceilings.items()}
    account_month = given.pop("account_month", None)
    return replace(
        LIMITS,
        senders=(Sender(ACCOUNT, ACCOUNT, 10_000, account_month),),
        money=Money(
            Ceilings(given.get("partition"), given.get("job_month")),
            lambda shard: Decimal(shard.requests),
        ),
    )


def why_short(found: Intent | Waiting) -> str:
    """The reason of a refusal that a ceiling has caused."""
    assert isinstance(found, Waiting)
    assert found.state is not None
    assert found.state.kind is Kind.SHORT_OF_BUDGET
    return found.state.reason


def billed(connection: Connection, submission: Submission, usd: str) -> None:
    """Accepted, ended and collected at this cost."""
    accept(connection, submission, f"batch_{submission.id}")
    transitions.end(connection, submission)
    transitions.collect(connection, submission, COUNTS, Decimal(usd))


def claim(connection: Connection, night: Night, engine: Engine, limits: Limits) -> Intent | Waiting:
    """Claim the night's last shard, whichever way it goes."""
    if engine == "batch":
        return begin(connection, night, limits)
    shard = shards.list_shards(connection, night.id)[-1]
    return admission.begin_calls(connection, night, shard, "me", limits)


def spent(connection: Connection, night: Night) -> Spending:
    [(_, _, found)] = budget.spendings(connection, night, Ceilings(partition=Decimal(1)))
    return found


def test_what_counts_as_spent(ledger: Ledger) -> None:
    """Everything that is not collected and not proven absent may still be billed."""
    limits = under(partition=100)
    with ledger.write() as connection:
        night = a_night(connection, 10)
        expected = [
            ("intent", 0, 10),
            ("sealed", 0, 10),
            ("unknown", 0, 10),
            ("accepted", 0, 10),
            ("ended", 0, 10),
            ("collected", 7, 0),
        ]
        submission = begun(connection, night, limits)
        steps: list[Callable[[], object]] = [
            lambda: None,
            lambda: transitions.seal(connection, submission, 60),
            lambda: transitions.lose_track(connection, submission, "lost"),
            lambda: accept(connection, submission),
            lambda: transitions.end(connection, submission),
            lambda: transitions.collect(connection, submission, COUNTS, Decimal(7)),
        ]
        for step, (state, cost, reserved) in zip(steps, expected, strict=True):
            step()
            assert submissions.get(connection, submission.id).state == state
            assert spent(connection, night) == Spending(Decimal(cost), Decimal(reserved)), state


@pytest.mark.parametrize("state", [State.ABSENT, State.REFUSED])
def test_what_was_never_made_is_given_back_and_may_go_again(ledger: Ledger, state: State) -> None:
    limits = under(partition=10)
    with ledger.write() as connection:
        night = a_night(connection, 10)
        submission = begun(connection, night, limits)
        transitions.seal(connection, submission, 60)
        transitions.lose_track(connection, submission, "lost")
        transitions.give_back(connection, submission, state, "never made")
        assert spent(connection, night).total == 0
        assert begun(connection, night, limits).usd_bound == 10


def test_a_submission_of_unknown_outcome_keeps_its_reservation(ledger: Ledger) -> None:
    limits = under(partition=15)
    with ledger.write() as connection:
        night = a_night(connection, 10, 10)
        submission = begun(connection, night, limits)
        transitions.seal(connection, submission, 60)
        transitions.lose_track(connection, submission, "lost")
        waiting = begin(connection, night, limits)
    assert why_short(waiting).startswith(f"{PARTITION} ($15.00) has no room")
    assert "$5.00 more than is left" in why_short(waiting)


def test_a_batch_that_was_bought_twice_counts_twice(ledger: Ledger) -> None:
    limits = under(partition=30)
    with ledger.write() as connection:
        night = a_night(connection, 10)
        first = begun(connection, night, limits)
        transitions.seal(connection, first, 60)
        transitions.lose_track(connection, first, "lost")
        transitions.give_back(connection, first, State.ABSENT, "not in the list")
        second = begun(connection, night, limits)
        billed(connection, second, "4")
        accept(connection, first, "late")
        assert spent(connection, night) == Spending(Decimal(4), Decimal(10))
        transitions.end(connection, first)
        transitions.collect(connection, first, Counts(duplicate=True), Decimal(4))
        assert spent(connection, night) == Spending(Decimal(8), Decimal(0))


@pytest.mark.parametrize("engine", ["batch", "realtime"])
def test_what_was_lost_for_good_counts_at_its_most(ledger: Ledger, engine: Engine) -> None:
    """Results that the API has deleted may have been billed: a redrive of them is paid besides."""
    limits = under(partition=12)
    with ledger.write() as connection:
        night = a_night(connection, 10)
        submission = begun(connection, night, limits)
        accept(connection, submission)
        transitions.end(connection, submission)
        gone = Counts(gone_requests=7, gone_usd=Decimal(4), lost_usd=Decimal(3))
        transitions.collect(connection, submission, gone, Decimal(2))
        assert spent(connection, night) == Spending(Decimal(2), Decimal(0), Decimal(7))
        night = nights.get_night(connection, night.id)
        assert shards.add_shards(connection, night, [a_shard(10, engine)], open_requests=0)
        waiting = claim(connection, night, engine, limits)
    assert "$2.00 billed, up to $7.00 for answers that were lost for good" in str(waiting)


def test_the_message_says_what_is_missing_and_of_which_ceiling(ledger: Ledger) -> None:
    limits = under(partition="20.5", job_month=1_000)
    with ledger.write() as connection:
        night = a_night(connection, 10, 12)
        billed(connection, begun(connection, night, limits), "9.25")
        waiting = begin(connection, night, limits)
    assert str(waiting).startswith(
        "12 requests wait: budget.max_usd_per_partition ($20.50) has no room: $9.25 billed; the "
        "next 12 requests need up to $12.00, $0.75 more than is left; raise budget.max_usd_"
    )


@pytest.mark.parametrize("engine", ["batch", "realtime"])
def test_a_raised_ceiling_lets_it_go(ledger: Ledger, engine: Engine) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 10, engine=engine)
        waiting = claim(connection, night, engine, under(partition="9.99"))
        assert why_short(waiting).startswith(PARTITION)
        assert spent(connection, night).total == 0
        assert nights.get_night(connection, night.id).short_of_budget is not None
        intent = claim(connection, night, engine, under(partition=10))
        assert isinstance(intent, Intent)
        assert intent.submission.usd_bound == 10
        assert spent(connection, night).reserved == 10
        assert nights.get_night(connection, night.id).short_of_budget is None


def test_of_two_ceilings_the_one_that_lacks_most_is_told(ledger: Ledger) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 10)
        waiting = begin(connection, night, under(partition=8, job_month=5, account_month=7))
        assert why_short(waiting).startswith(f"{JOB_MONTH} ($5.00)")


def test_a_cheaper_batch_is_not_called_in_place_of_a_dear_call(ledger: Ledger) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 3)
        planned = [a_shard(10, "realtime")]
        assert shards.add_shards(connection, night, planned, open_requests=0)
        waiting = claim(connection, night, "realtime", under(partition=5))
        assert "the next 10 requests" in why_short(waiting)


def test_an_account_that_is_not_declared_has_no_ceiling() -> None:
    assert Ceilings(account_month=Decimal(5)).of("former", None).account_month is None


def test_a_taken_over_call_is_reserved_once(ledger: Ledger, clock: Clock) -> None:
    limits = under(partition=10)
    with ledger.write() as connection:
        night = a_night(connection, 10, engine="realtime")
        [shard] = shards.list_shards(connection, night.id)
        for owner in ("me", "another"):
            intent = admission.begin_calls(connection, night, shard, owner, limits)
            assert isinstance(intent, Intent)
            clock.at += 61
        assert spent(connection, night).reserved == 10


def test_the_cheapest_shard_goes_where_the_next_does_not_fit(ledger: Ledger) -> None:
    limits = under(partition=20)
    with ledger.write() as connection:
        night = a_night(connection, 15, 8, 5, 3)
        sent = [begun(connection, night, limits).requests for _ in range(2)]
        waiting = begin(connection, night, limits)
    assert sent == [15, 3]
    assert isinstance(waiting, Waiting)
    assert waiting.requests == 13
    assert "the next 8 requests" in why_short(waiting)


def test_a_full_queue_is_no_shortfall(ledger: Ledger) -> None:
    limits = replace(under(partition=20), senders=queue_of(5))
    with ledger.write() as connection:
        waiting = begin(connection, a_night(connection, 10), limits)
    assert isinstance(waiting, Waiting)
    assert waiting.state is not None
    assert waiting.state.kind is Kind.SHARD_TOO_LARGE


OTHER = "2026-01-09"


@pytest.mark.parametrize(
    ("ceiling", "name", "job", "partition", "counts"),
    [
        ("partition", PARTITION, "job", OTHER, False),
        ("partition", PARTITION, "other", "2026-01-02", False),
        ("job_month", JOB_MONTH, "job", OTHER, True),
        ("job_month", JOB_MONTH, "other", "2026-01-02", False),
        ("account_month", MOST_USD_PER_MONTH, "job", OTHER, True),
        ("account_month", MOST_USD_PER_MONTH, "other", OTHER, True),
    ],
)
def test_whose_spending_counts(
    ledger: Ledger, ceiling: str, name: str, job: str, partition: str, counts: bool
) -> None:
    limits = under(**{ceiling: 15})
    with ledger.write() as connection:
        begun(connection, a_night(connection, 10, job=job, partition=partition), limits)
        claimed = begin(connection, a_night(connection, 10), limits)
    assert isinstance(claimed, Waiting) is counts
    if counts:
        assert why_short(claimed).startswith(name)


def test_another_accounts_spending_does_not_count(ledger: Ledger) -> None:
    limits = under(account_month=15, job_month=15)
    second = replace(limits, senders=(Sender("second", "second", 10_000, Decimal(15)),))
    with ledger.write() as connection:
        accounts.register_account(connection, "second", simulated=False)
        begun(connection, a_night(connection, 10), limits)
        other = nights.open_night(connection, "job", OTHER, "second")
        snapshots.replace_snapshot(connection, other, a_snapshot(), {})
        other = nights.get_night(connection, other.id)
        shards.add_shards(connection, other, [a_shard(10)], open_requests=0)
        assert isinstance(begin(connection, nights.get_night(connection, other.id), second), Intent)


@pytest.mark.parametrize("ceiling", ["job_month", "account_month"])
def test_months_are_calendar_months_in_utc(ledger: Ledger, clock: Clock, ceiling: str) -> None:
    limits = under(**{ceiling: 10})
    with ledger.write() as connection:
        night = a_night(connection, 10, 10)
        clock.at = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC).timestamp()
        begun(connection, night, limits)
        assert isinstance(begin(connection, night, limits), Waiting)
        # What is in flight was reserved last month and stays there, whenever it is billed.
        clock.at = datetime(2026, 2, 1, 0, 0, 0, tzinfo=UTC).timestamp()
        assert isinstance(begin(connection, night, limits), Intent)


def test_two_submitters_cannot_both_take_the_last_dollar(ledger_url: str) -> None:
    """Many threads with connections of their own, one ceiling over two nights, tried at once."""
    limits = under(job_month=25)
    ledger = Ledger(ledger_url)
    with ledger.write() as connection:
        accounts.register_account(connection, ACCOUNT, simulated=False)
        mine = [a_night(connection, *[2] * 20, partition=f"2026-01-0{n}") for n in (1, 2)]
    all_there, claimed = threading.Barrier(6), []

    def submit(number: int) -> None:
        own = Ledger(ledger_url)
        all_there.wait()
        while True:
            with own.write() as connection:
                found = admission.begin(
                    connection, mine[number % 2], f"me{number}", limits, lambda *_: OPEN_GATES
                )
            if isinstance(found, Waiting):
                assert why_short(found)
                break
            claimed.append(found.submission)
        own.close()

    together(*[partial(submit, number) for number in range(6)])
    assert sum(submission.usd_bound for submission in claimed) == 24
    assert len({submission.shard_id for submission in claimed}) == 12
    ledger.close()


def test_spending_never_passes_a_ceiling_whatever_happens(ledger: Ledger) -> None:
    """Claims, lost answers, refusals, retries and bills below the bound, in any order."""
    chance = random.Random(1)
    limits = under(partition=40, job_month=70, account_month=90)
    ceilings = limits.money_of(ACCOUNT).ceilings
    with ledger.write() as connection:
        mine = [
            a_night(connection, *[chance.randint(1, 12) for _ in range(8)], job=job, partition=day)
            for job, day in (("a", "2026-01-01"), ("a", "2026-01-02"), ("b", "2026-01-01"))
        ]
    collected = 0
    for _ in range(120):
        with ledger.write() as connection:
            night = chance.choice(mine)
            live = submissions.of_night(connection, night.id, *submissions.LIVE)
            if not live or chance.random() < 0.4:
                begin(connection, night, limits)
            else:
                collected += move(connection, chance, chance.choice(live))
            for _, limit, found in budget.spendings(connection, night, ceilings):
                assert found.total <= limit
    assert collected > 2


def move(connection: Connection, chance: random.Random, submission: Submission) -> int:
    """One step of a submission's life; 1 if it was collected."""
    fails = chance.random() < 0.4
    match submission.state:
        case State.INTENT | State.UNKNOWN if fails:
            transitions.give_back(connection, submission, State.ABSENT, "never made")
        case State.INTENT:
            transitions.seal(connection, submission, 60)
        case State.SEALED if fails:
            transitions.give_back(connection, submission, State.REFUSED, "refused")
        case State.SEALED if chance.random() < 0.4:
            transitions.lose_track(connection, submission, "lost")
        case State.SEALED | State.UNKNOWN:
            accept(connection, submission, f"batch_{submission.id}")
        case State.ACCEPTED:
            transitions.end(connection, submission)
        case State.ENDED:
            cost = submission.usd_bound * Decimal(chance.randint(0, 100)) / 100
            transitions.collect(connection, submission, COUNTS, cost)
            # What it leaves unanswered is planned again.
            night = nights.get_night(connection, submission.night_id)
            shards.add_shards(connection, night, [a_shard(chance.randint(1, 5))], open_requests=0)
            return 1
        case _:
            pass
    return 0
