"""Admission: which shard may go out now, and why the others wait.

The transaction that decides is the one that claims, so that two submitters cannot both take the
last room of the queue. What becomes of a claim stands in `submissions`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from decimal import Decimal

from sqlalchemy import Connection

from batch_pipeline.ledger import accounts, nights, shards, submissions, takeovers, transitions
from batch_pipeline.ledger.admission import budget
from batch_pipeline.ledger.admission.budget import NO_CEILING, Money, Shortfall
from batch_pipeline.ledger.admission.night_state import (
    CALLED_ELSEWHERE,
    OPEN_GATES,
    Facts,
    Gates,
    Kind,
    NightState,
    ShortOfBudget,
    may_go,
    running,
    state_of,
)
from batch_pipeline.ledger.admission.queue import Queue, read_queue
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.processes import leases
from batch_pipeline.ledger.shards import Shard, ShardState
from batch_pipeline.ledger.submissions import IN_QUEUE, LIVE, State, Submission
from batch_pipeline.pricing.tokens import Lifetime

# Reads, in the transaction that claims a shard, what the flow says of the night's gates.
ReadGates = Callable[[Connection, Night, Shard], Gates]


@dataclass(frozen=True)
class Marks:
    """The lifetime of the cache marks that a shard is to be sent with, None: it has none; or why it
    waits for the prompt cache. Requests of these `models` have the marks, None: of all."""

    lifetime: Lifetime | None = None
    wait: str | None = None
    models: tuple[str, ...] | None = None


NO_MARKS = Marks()
# Reads, in the transaction that claims a shard, whether it is sent with cache marks.
ReadMarks = Callable[[Connection, Night, Shard], Marks]


@dataclass(frozen=True)
class Limits:
    """Queue limits in requests, what may be spent, how long a holder may give no sign of life, in
    seconds, and what decides on cache marks."""

    account_queue: int
    job_queue: int | None
    lease_seconds: float
    money: Money = NO_CEILING
    marks: ReadMarks = lambda _connection, _night, _shard: NO_MARKS


@dataclass(frozen=True)
class Waiting:
    """Nothing may go out now; `requests` wait. `state` is None where nothing waits."""

    state: NightState | None
    requests: int = 0

    def __str__(self) -> str:
        if self.state is None:
            return "nothing waits"
        return f"{self.requests:,} requests wait: {self.state}"


@dataclass(frozen=True)
class Intent:
    """A shard that this holder may send now; `probe`: to try an account that is paused."""

    submission: Submission
    shard: Shard
    probe: bool = False


@dataclass(frozen=True)
class _Decision:
    """Whether a shard may go, or what keeps it; the shard that may go, and its bound in USD.

    That shard may be a cheaper one than the first that waits.
    """

    may_go: bool
    state: NightState
    shard: Shard
    bound: Decimal
    short: ShortOfBudget | None
    wants_room: bool
    probe: bool
    marks: Marks = NO_MARKS


def begin(
    connection: Connection,
    night: Night,
    holder: str,
    limits: Limits,
    read_gates: ReadGates,
) -> Intent | Waiting:
    """Claim the night's next waiting batch shard, if limits, ceilings and gates allow it.

    A night that finds the account's queue full notes it, and goes before younger ones. Of a night
    whose account is paused the cheapest shard goes, where a probe is due.
    """
    night = nights.get_night(connection, night.id)
    shard = shards.next_to_go(connection, night.id, "batch")
    nights.update_night(connection, night.id, wanted_room_at=0.0, short_of_budget=None)
    if shard is None:
        return Waiting(None)
    found = _decide(connection, night, shard, limits, read_gates)
    if not found.may_go:
        if found.wants_room:
            nights.update_night(connection, night.id, wanted_room_at=now(connection))
        return _waiting(connection, night, found, shards.requests_waiting(connection, night))
    return _claim(connection, found, night, State.INTENT, holder, limits)


def _decide(
    connection: Connection, night: Night, shard: Shard, limits: Limits, read_gates: ReadGates
) -> _Decision:
    """Whether a night's next shard may go now; a real-time one needs no room at the queue."""
    probe = probe_may_go(connection, night.owner)
    if probe and shard.engine == "batch":
        shard = shards.cheapest_to_go(connection, night.id, "batch") or shard
    facts = facts_of(connection, night, probe=probe)
    facts = replace(facts, gates=read_gates(connection, night, shard))
    found = affordable(connection, night, shard, limits.money)
    short, bound = None, Decimal(0)
    if isinstance(found, Shortfall):
        short = found.as_fact()
    else:
        shard, bound = found
    marks = limits.marks(connection, night, shard)
    # A probe is one small batch, and must not wait for another one.
    facts = replace(facts, short_of_budget=short, at_work=None if probe else marks.wait)
    queue = None
    if shard.engine == "batch":
        queue = read_queue(connection, night, limits.account_queue, limits.job_queue)
        facts = with_queue(facts, queue, shard.requests)
    state = state_of(facts)
    wants_room = (
        queue is not None
        and state.kind in (Kind.OLDER_NIGHT_FIRST, Kind.QUEUE_FULL)
        # A job that uses its own share up must not keep other jobs from the rest.
        and not queue.share_in_use(shard.requests)
    )
    return _Decision(may_go(facts), state, shard, bound, short, wants_room, probe, marks)


def probe_may_go(connection: Connection, name: str) -> bool:
    """Whether a paused account may be tried now: a probe is due, and none is at the API."""
    account = accounts.get_account(connection, name)
    if account.paused_at is None or not account.probe_is_due(now(connection)):
        return False
    sent_since = (
        tables.submission.c.account == name,
        tables.submission.c.intent_at >= account.paused_at,
    )
    return not submissions.find(connection, *sent_since, states=(*IN_QUEUE, State.ENDED))


def facts_of(connection: Connection, night: Night, *, probe: bool = False) -> Facts:
    """What the ledger says of a night by itself: held, its account paused, or refused.

    To a `probe` the pause is no obstacle.
    """
    account = accounts.get_account(connection, night.owner)
    return Facts(
        job=night.job,
        partition=night.partition,
        account=night.owner,
        held=night.held_at is not None,
        paused=None if probe else account.paused_reason,
        probe_at=account.probe_at,
        refused=night.refused,
        backing_off=None if night.storm_since is None else night.resting(now(connection)),
    )


def resting(connection: Connection, night: Night) -> Waiting | None:
    """Why the night's requests that failed wait to be asked again; None: they may go."""
    night = nights.get_night(connection, night.id)
    reason = night.resting(now(connection))
    if reason is None:
        return None
    facts = replace(facts_of(connection, night), backing_off=reason)
    return Waiting(state_of(facts), night.open_requests)


def unanswered(night: Night, failure: object, requests: int = 0) -> Waiting:
    """Why `requests` of a night wait after the API did not answer a call."""
    facts = Facts(night.job, night.partition, night.owner, unanswered=str(failure))
    return Waiting(state_of(facts), requests)


def with_queue(facts: Facts, queue: Queue, requests: int) -> Facts:
    """The facts of a night with what stands in the way of its next batch, of `requests`."""
    return replace(
        facts,
        too_large=queue.too_large(requests),
        # What waits for its job's own share does not wait for that night.
        older_night=None if queue.share_in_use(requests) else queue.older_night,
        queue_full=queue.full(requests),
    )


def closed(
    connection: Connection, night: Night, gates: Gates = OPEN_GATES, *, probe: bool = False
) -> NightState | None:
    """Why nothing more of a night may go out, queue and budget apart; None: it may."""
    night = nights.get_night(connection, night.id)
    state = state_of(replace(facts_of(connection, night, probe=probe), gates=gates))
    return None if state.kind is Kind.OPEN else state


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


def _waiting(connection: Connection, night: Night, found: _Decision, requests: int) -> Waiting:
    """Why a shard waits; a ceiling in the way is kept for those who look at the night."""
    if found.state.kind is Kind.SHORT_OF_BUDGET and found.short is not None:
        nights.update_night(connection, night.id, short_of_budget=asdict(found.short))
    return Waiting(found.state, requests)


def _claim(
    connection: Connection,
    found: _Decision,
    night: Night,
    state: State,
    holder: str,
    limits: Limits,
) -> Intent:
    """Claim a shard, its bound reserved in the same transaction."""
    submission = transitions.claim(
        connection,
        found.shard,
        night,
        state,
        holder,
        limits.lease_seconds,
        usd_bound=found.bound,
        stated_prices=limits.money.stated_prices,
        caching=found.marks.lifetime,
        marked_models=found.marks.models,
    )
    if found.probe:
        accounts.take_probe(connection, night.owner)
    return Intent(submission, found.shard, found.probe)


def begin_calls(
    connection: Connection,
    night: Night,
    shard: Shard,
    holder: str,
    limits: Limits,
    read_gates: ReadGates = lambda _connection, _night, _shard: OPEN_GATES,
) -> Intent | Waiting:
    """Claim a real-time shard, or take it over from a holder that gave no sign of life."""
    night = nights.get_night(connection, night.id)
    shard = shards.get_shard(connection, shard.id)
    if shard.state is ShardState.WAITING:
        nights.update_night(connection, night.id, short_of_budget=None)
        found = _decide(connection, night, shard, limits, read_gates)
        if not found.may_go:
            return _waiting(connection, night, found, shard.requests)
        intent = _claim(connection, found, night, State.CALLING, holder, limits)
        takeovers.use(connection, night.id, found.bound)
        takeovers.settle(connection, night.id)
        return intent
    probe = probe_may_go(connection, night.owner)
    stopped = closed(connection, night, probe=probe)
    if stopped is not None:
        return Waiting(stopped, shard.requests)
    if shard.state is not ShardState.CLAIMED:
        return Waiting(None)
    [current] = submissions.find(connection, tables.submission.c.shard_id == shard.id, states=LIVE)
    if current.state is State.CALLING and current.lease_until > now(connection):
        return Waiting(running(CALLED_ELSEWHERE), shard.requests)
    if current.state is State.CALLING:
        leases.take_over(connection, current, holder, limits.lease_seconds)
        if probe:
            accounts.take_probe(connection, night.owner)
    return Intent(submissions.get(connection, current.id), shard, probe)


def reserve_takeover(
    connection: Connection,
    night: Night,
    submission: Submission,
    usd: Decimal,
    limits: Limits,
    read_gates: ReadGates,
) -> NightState | None:
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
    spent = budget.spendings(connection, night, limits.money.ceilings)
    short = budget.shortfall(spent, submission.requests, usd)
    facts = replace(
        facts_of(connection, night),
        gates=read_gates(connection, night, shard),
        short_of_budget=None if short is None else short.as_fact(),
    )
    if not may_go(facts):
        return state_of(facts)
    takeovers.reserve(connection, submission, usd)
    transitions.request_cancel(connection, submission)
    since = night.realtime_since or now(connection)
    nights.update_night(connection, night.id, realtime_since=since)
    return None


def begin_next_calls(
    connection: Connection,
    night: Night,
    holder: str,
    limits: Limits,
    read_gates: ReadGates,
) -> Intent | Waiting:
    """Claim the night's next real-time shard, the pilot's apart: shards that their holder has
    abandoned come before those that wait."""
    in_real_time = [
        shard
        for shard in shards.list_shards(
            connection, night.id, ShardState.WAITING, ShardState.CLAIMED
        )
        if shard.engine == "realtime" and not shard.pilot
    ]
    calling = {s.shard_id for s in submissions.of_night(connection, night.id, State.CALLING)}
    left = {s.shard_id for s in abandoned_calls(connection, night)}
    free = sorted(
        (shard for shard in in_real_time if shard.state is ShardState.WAITING or shard.id in left),
        key=lambda shard: (shard.state is ShardState.WAITING, shard.id),
    )
    if free:
        found = begin_calls(connection, night, free[0], holder, limits, read_gates)
        if isinstance(found, Waiting):
            return replace(found, requests=sum(shard.requests for shard in free))
        return found
    if any(shard.id in calling for shard in in_real_time):
        return Waiting(running(CALLED_ELSEWHERE))
    return Waiting(None)


def abandoned_calls(connection: Connection, night: Night) -> list[Submission]:
    """Calls whose holder has let go, or gave no sign of life for the time of a lease."""
    at = now(connection)
    calling = submissions.of_night(connection, night.id, State.CALLING)
    return [submission for submission in calling if submission.lease_until <= at]


def close_abandoned_calls(connection: Connection, night: Night, holder: str) -> int:
    """End the abandoned real-time submissions of a held night, which no process goes on with.

    What was answered is collected then, the rest is open again. Returns the number ended.
    """
    closed_ = 0
    for submission in abandoned_calls(connection, night):
        leases.take_over(connection, submission, holder, 0.0)
        closed_ += transitions.close(connection, submissions.get(connection, submission.id))
    return closed_
