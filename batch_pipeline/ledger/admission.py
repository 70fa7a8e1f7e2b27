"""Admission: which shard may go out now, and why the others wait.

The transaction that decides is the one that claims, so that two submitters cannot both take the
last room of the queue. What becomes of a claim stands in `submissions`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import (
    accounts,
    budget,
    leases,
    nights,
    shards,
    submissions,
    tables,
    takeovers,
    transitions,
)
from batch_pipeline.ledger.budget import NO_CEILING, Money, Shortfall
from batch_pipeline.ledger.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard, ShardState
from batch_pipeline.ledger.submissions import IN_QUEUE, LIVE, State, Submission

# An older night that wanted room this long ago and did not come back no longer goes first.
ROOM_WANTED_SECONDS = 600.0


# Has a say, in the transaction that claims a shard: why it may not go, or None.
MaySend = Callable[[Connection, Night, Shard], str | None]


@dataclass(frozen=True)
class Limits:
    """Queue limits in requests, what may be spent, and how long a holder may give no sign of life,
    in seconds."""

    account_queue: int
    job_queue: int | None
    lease_seconds: float
    money: Money = NO_CEILING


@dataclass(frozen=True)
class Waiting:
    """Nothing may go out now; `requests` wait. `reason` is None where nothing waits.

    `short` is set where nothing but a ceiling in USD is in the way.
    """

    reason: str | None
    requests: int = 0
    short: Shortfall | None = None

    def __str__(self) -> str:
        if self.reason is None:
            return "nothing waits"
        return f"{self.requests:,} requests wait: {self.reason}"


@dataclass(frozen=True)
class Intent:
    """A shard that this owner may send now."""

    submission: Submission
    shard: Shard


def begin(
    connection: Connection,
    night: Night,
    owner: str,
    limits: Limits,
    may_send: MaySend,
) -> Intent | Waiting:
    """Claim the night's next waiting batch shard, if everything that has a say allows it.

    `may_send` is what the flow says (the pilot's gate, the breaker). The transaction that decides
    is the one that claims: two submitters cannot both take the last room.
    """
    night = nights.get_night(connection, night.id)
    shard = shards.next_to_go(connection, night.id, "batch")
    nights.update_night(connection, night.id, wanted_room_at=0.0, short_of_budget=None)
    if shard is None:
        return Waiting(None)
    reason = _closed(connection, night) or may_send(connection, night, shard)
    if reason is not None:
        return Waiting(reason, shards.requests_waiting(connection, night))
    found = affordable(connection, night, shard, limits.money)
    if isinstance(found, Shortfall):
        waiting = shards.requests_waiting(connection, night)
        return _short(connection, night, found, waiting)
    shard, bound = found
    reason = _no_room(connection, night, shard.requests, limits)
    if reason is not None:
        return Waiting(reason, shards.requests_waiting(connection, night))
    return _hold(connection, shard, night, State.INTENT, owner, limits, bound)


def _closed(connection: Connection, night: Night) -> str | None:
    """Why nothing of a night may go out, whatever the queue says."""
    account = accounts.get_account(connection, night.account)
    if night.held_at is not None:
        return "held after a cancel; `run --resume` lifts it"
    if account.paused_reason is not None:
        return f"account {account.name} is paused: {account.paused_reason}"
    if night.refused is not None:
        return f"the API refused it ({night.refused}); correct it and run again"
    return None


def affordable(
    connection: Connection, night: Night, shard: Shard, money: Money
) -> tuple[Shard, Decimal] | Shortfall:
    """The shard, if it fits under the ceilings, and its bound in USD.

    Of batches the night's cheapest may go where the next does not fit: all of them are to be
    bought, and which comes first changes nothing in what there is to spend.
    """
    spent = list(budget.spendings(connection, night, money.ceilings))
    bound = money.bound(shard)
    if shard.engine == "realtime":
        # What was reserved when batches were cancelled is for these very requests.
        spent = budget.without(spent, min(bound, takeovers.left_usd(connection, night.id)))
    short = budget.shortfall(spent, shard.requests, bound)
    if short is None:
        return shard, bound
    cheapest = shards.cheapest_to_go(connection, night.id, "batch")
    if shard.engine != "batch" or cheapest is None:
        return short
    bound = money.bound(cheapest)
    return short if budget.shortfall(spent, cheapest.requests, bound) else (cheapest, bound)


def _short(connection: Connection, night: Night, found: Shortfall, requests: int) -> Waiting:
    nights.update_night(connection, night.id, short_of_budget=str(found))
    return Waiting(str(found), requests, found)


def _hold(
    connection: Connection,
    shard: Shard,
    night: Night,
    state: State,
    owner: str,
    limits: Limits,
    bound: Decimal,
) -> Intent:
    """Hold a shard, its bound reserved in the same transaction."""
    submission = transitions.hold(
        connection,
        shard,
        night,
        state,
        owner,
        limits.lease_seconds,
        usd_bound=bound,
        stated_prices=limits.money.stated_prices,
    )
    return Intent(submission, shard)


def _no_room(connection: Connection, night: Night, requests: int, limits: Limits) -> str | None:
    """Why the queue has no room for so many requests of a night now.

    A night that finds the account's queue full says so, and goes before younger ones.
    """
    job_room = _room(connection, limits.job_queue, night, tables.night.c.job == night.job)
    if job_room is not None and job_room < requests:
        return f"the job's share of the queue ({limits.job_queue:,}) is in use"
    room = _room(connection, limits.account_queue, night)
    at = now(connection)
    older = _older_night_wants_room(connection, night, at)
    reason: str | None = None
    if accounts.get_account(connection, night.account).wait_until > at:
        reason = "the API's queue is full"
    elif older is not None:
        reason = f"an older night ({older}) goes first"
    elif room is not None and room < requests:
        reason = f"the account's queue limit ({limits.account_queue:,} requests) is in use"
    if reason is not None:
        nights.update_night(connection, night.id, wanted_room_at=at)
    return reason


def begin_calls(
    connection: Connection,
    night: Night,
    shard: Shard,
    owner: str,
    limits: Limits,
    may_send: MaySend = lambda _connection, _night, _shard: None,
) -> Intent | Waiting:
    """Claim a real-time shard, or take it over from a holder that gave no sign of life."""
    night = nights.get_night(connection, night.id)
    shard = shards.get_shard(connection, shard.id)
    reason = _closed(connection, night)
    if reason is None and shard.state is ShardState.WAITING:
        reason = may_send(connection, night, shard)
    if reason is not None:
        return Waiting(reason, shard.requests)
    if shard.state is ShardState.WAITING:
        nights.update_night(connection, night.id, short_of_budget=None)
        found = affordable(connection, night, shard, limits.money)
        if isinstance(found, Shortfall):
            return _short(connection, night, found, shard.requests)
        intent = _hold(connection, shard, night, State.CALLING, owner, limits, found[1])
        takeovers.use(connection, night.id, found[1])
        takeovers.settle(connection, night.id)
        return intent
    if shard.state is not ShardState.HELD:
        return Waiting(None)
    [current] = submissions.find(connection, tables.submission.c.shard_id == shard.id, states=LIVE)
    if current.state is State.CALLING and current.lease_until > now(connection):
        return Waiting("another process is sending it", shard.requests)
    if current.state is State.CALLING:
        leases.take_over(connection, current, owner, limits.lease_seconds)
    return Intent(submissions.get(connection, current.id), shard)


def room(connection: Connection, night: Night, limits: Limits) -> int:
    """Requests of a night that may join the queue now, by the limits alone."""
    job_room = _room(connection, limits.job_queue, night, tables.night.c.job == night.job)
    account_room = _room(connection, limits.account_queue, night)
    assert account_room is not None
    return account_room if job_room is None else min(job_room, account_room)


def reserve_takeover(
    connection: Connection,
    night: Night,
    submission: Submission,
    usd: Decimal,
    limits: Limits,
    may_send: MaySend,
) -> str | None:
    """Reserve the real-time price of a batch that is to be cancelled for it; why not, or None.

    In the same transaction the cancel is noted, so that what comes back cancelled is no attempt.
    Only a batch that is proven ours can be taken over, and only while real time could follow.
    Nothing changes where it has ended meanwhile, or is reserved already.
    """
    night = nights.get_night(connection, night.id)
    submission = submissions.get(connection, submission.id)
    if submission.state is not State.ACCEPTED:
        return None
    if submission.id in takeovers.of_night(connection, night.id):
        return None
    shard = shards.get_shard(connection, submission.shard_id)
    reason = _closed(connection, night) or may_send(connection, night, shard)
    if reason is None:
        spent = budget.spendings(connection, night, limits.money.ceilings)
        short = budget.shortfall(spent, submission.requests, usd)
        reason = None if short is None else str(short)
    if reason is None:
        takeovers.reserve(connection, submission, usd)
        transitions.request_cancel(connection, submission)
        since = night.realtime_since or now(connection)
        nights.update_night(connection, night.id, realtime_since=since)
    return reason


def begin_next_calls(
    connection: Connection,
    night: Night,
    owner: str,
    limits: Limits,
    may_send: MaySend,
) -> Intent | Waiting:
    """Claim the night's next real-time shard, the pilot's apart: one that its holder has left comes
    before one that nobody has begun."""
    in_real_time = [
        shard
        for shard in shards.list_shards(connection, night.id, ShardState.WAITING, ShardState.HELD)
        if shard.engine == "realtime" and not shard.pilot
    ]
    calling = {s.shard_id for s in submissions.of_night(connection, night.id, State.CALLING)}
    left = {s.shard_id for s in abandoned_calls(connection, night)}
    free = sorted(
        (shard for shard in in_real_time if shard.state is ShardState.WAITING or shard.id in left),
        key=lambda shard: (shard.state is ShardState.WAITING, shard.id),
    )
    if free:
        found = begin_calls(connection, night, free[0], owner, limits, may_send)
        if isinstance(found, Waiting):
            return replace(found, requests=sum(shard.requests for shard in free))
        return found
    if any(shard.id in calling for shard in in_real_time):
        return Waiting("calls are being made already")
    return Waiting(None)


def abandoned_calls(connection: Connection, night: Night) -> list[Submission]:
    """Calls whose holder has let go, or gave no sign of life for the time of a lease."""
    at = now(connection)
    calling = submissions.of_night(connection, night.id, State.CALLING)
    return [submission for submission in calling if submission.lease_until <= at]


def close_abandoned_calls(connection: Connection, night: Night, owner: str) -> int:
    """End what nobody makes calls for any more, as a held night does not go on; returns how many.

    What was answered is collected then, the rest is open again.
    """
    closed_ = 0
    for submission in abandoned_calls(connection, night):
        leases.take_over(connection, submission, owner, 0.0)
        closed_ += transitions.close(connection, submissions.get(connection, submission.id))
    return closed_


def closed(connection: Connection, night: Night) -> str | None:
    """Why nothing more of a night may go out: held, its account paused, or refused."""
    return _closed(connection, nights.get_night(connection, night.id))


def _room(
    connection: Connection, limit: int | None, night: Night, *narrowed: sa.ColumnElement[bool]
) -> int | None:
    """What a limit leaves free of the account's queue, or of a part of it; None: no limit."""
    if limit is None:
        return None
    query = (
        sa.select(sa.func.coalesce(sa.func.sum(tables.submission.c.requests), 0))
        .join(tables.night, tables.night.c.id == tables.submission.c.night_id)
        .where(
            tables.submission.c.account == night.account,
            tables.submission.c.state.in_([state.value for state in IN_QUEUE]),
            *narrowed,
        )
    )
    return limit - int(connection.scalar(query) or 0)


def _older_night_wants_room(connection: Connection, night: Night, at: float) -> str | None:
    row = connection.execute(
        sa.select(tables.night.c.job, tables.night.c.partition)
        .where(
            tables.night.c.account == night.account,
            tables.night.c.wanted_room_at > at - ROOM_WANTED_SECONDS,
            tables.night.c.held_at.is_(None),
            sa.tuple_(tables.night.c.partition, tables.night.c.id)
            < sa.tuple_(sa.literal(night.partition), sa.literal(night.id)),
        )
        .order_by(tables.night.c.partition, tables.night.c.id)
    ).first()
    return None if row is None else f"{row.job} {row.partition}"
