"""Admission: which shard may go out now, and why the others wait.

The transaction that decides is the one that claims, so that two submitters cannot both take the
last room of the queue. What becomes of a claim stands in `submissions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal

from sqlalchemy import Connection

from batch_pipeline.ledger import nights, shards
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.admission import budget
from batch_pipeline.ledger.admission.decision import (
    RANK,
    Decision,
    affordable,
    closed,
    decide,
    facts_of,
    probe_may_go,
    with_queue,
)
from batch_pipeline.ledger.admission.limits import NO_MARKS, Limits, Marks, ReadGates, ReadMarks
from batch_pipeline.ledger.admission.night_state import (
    CALLED_ELSEWHERE,
    OPEN_GATES,
    Facts,
    Kind,
    NightState,
    may_go,
    running,
    state_of,
)
from batch_pipeline.ledger.admission.senders import Sender
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.processes import leases
from batch_pipeline.ledger.shards import Shard, ShardState
from batch_pipeline.ledger.submissions import submissions, takeovers, transitions
from batch_pipeline.ledger.submissions.submissions import LIVE, State, Submission

__all__ = [
    "NO_MARKS",
    "Intent",
    "Limits",
    "Marks",
    "ReadGates",
    "ReadMarks",
    "Sender",
    "Waiting",
    "abandoned_calls",
    "affordable",
    "begin",
    "begin_calls",
    "begin_next_calls",
    "close_abandoned_calls",
    "closed",
    "facts_of",
    "probe_may_go",
    "reserve_takeover",
    "resting",
    "unanswered",
    "with_queue",
]


@dataclass(frozen=True)
class Waiting:
    """Nothing may go out now; `requests` wait. `state` is None where nothing waits.

    `by_account` says of each account why it does not send, where a night has several.
    """

    state: NightState | None
    requests: int = 0
    by_account: Mapping[str, NightState] = field(default_factory=dict, compare=False)

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


def begin(
    connection: Connection,
    night: Night,
    holder: str,
    limits: Limits,
    read_gates: ReadGates,
) -> Intent | Waiting:
    """Claim the night's next waiting batch shard for an account that may send it, if limits,
    ceilings and gates allow it.

    A night that finds the queues full notes it, and goes before younger ones. Through an account
    that is paused the cheapest shard goes, where a probe is due.
    """
    night = nights.get_night(connection, night.id)
    shard = shards.next_to_go(connection, night.id, "batch")
    nights.update_night(connection, night.id, wanted_room_at=0.0, short_of_budget=None)
    if shard is None:
        return Waiting(None)
    found = decide(connection, night, shard, limits, read_gates)
    if not found.may_go:
        if found.wants_room:
            nights.update_night(connection, night.id, wanted_room_at=now(connection))
        return _waiting(connection, night, found, shards.requests_waiting(connection, night))
    return _claim(connection, found, night, State.INTENT, holder, limits)


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
    facts = Facts(night.job, night.partition, unanswered=str(failure))
    return Waiting(state_of(facts), requests)


def _waiting(connection: Connection, night: Night, found: Decision, requests: int) -> Waiting:
    """Why a shard waits; a ceiling in the way is kept for those who look at the night."""
    if found.state.kind is Kind.SHORT_OF_BUDGET and found.short is not None:
        nights.update_night(connection, night.id, short_of_budget=asdict(found.short))
    return Waiting(found.state, requests, found.by_account)


def _claim(
    connection: Connection,
    found: Decision,
    night: Night,
    state: State,
    holder: str,
    limits: Limits,
) -> Intent:
    """Claim a shard for the account that was found, its bound reserved in the same transaction."""
    submission = transitions.claim(
        connection,
        found.shard,
        night,
        state,
        holder,
        limits.lease_seconds,
        account=found.account,
        usd_bound=found.bound,
        stated_prices=limits.money.stated_prices,
        caching=found.marks.lifetime,
        marked_models=found.marks.models,
    )
    if found.probe:
        accounts.take_probe(connection, found.account)
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
        found = decide(connection, night, shard, limits, read_gates)
        if not found.may_go:
            return _waiting(connection, night, found, shard.requests)
        intent = _claim(connection, found, night, State.CALLING, holder, limits)
        takeovers.use(connection, night.id, found.bound)
        takeovers.settle(connection, night.id)
        return intent
    return _go_on(connection, night, shard, holder, limits)


def _go_on(
    connection: Connection, night: Night, shard: Shard, holder: str, limits: Limits
) -> Intent | Waiting:
    """Take a claimed real-time shard over, under the account that has begun it."""
    held_by = submissions.find(connection, tables.submission.c.shard_id == shard.id, states=LIVE)
    account = held_by[0].account if held_by else None
    tried = night.sent_by if account is None else [account]
    probe = any(probe_may_go(connection, name) for name in tried)
    stopped = closed(connection, night, account=account, probe=probe)
    if stopped is not None:
        return Waiting(stopped, shard.requests)
    if shard.state is not ShardState.CLAIMED:
        return Waiting(None)
    [current] = held_by
    if current.state is State.CALLING and current.lease_until > now(connection):
        return Waiting(running(CALLED_ELSEWHERE), shard.requests)
    names = accounts.same_workspace(connection, current.account)
    if not {*names} & {*limits.accounts}:
        silent = f"account {current.account}, which has begun these calls, does not answer"
        return unanswered(night, silent, shard.requests)
    if current.state is State.CALLING:
        leases.take_over(connection, current, holder, limits.lease_seconds)
        if probe:
            accounts.take_probe(connection, current.account)
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
    ceilings = limits.money_of(submission.account).ceilings
    spent = budget.spendings(connection, night, ceilings)
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
    left = {s.shard_id: s.account for s in abandoned_calls(connection, night)}
    abandoned = [shard for shard in in_real_time if shard.id in left]
    waiting = [shard for shard in in_real_time if shard.state is ShardState.WAITING]
    # One account that may not call now keeps no shard of another one waiting.
    first_of: dict[str, Shard] = {}
    for shard in abandoned:
        first_of.setdefault(left[shard.id], shard)
    found: list[Waiting] = []
    for shard in (*first_of.values(), *waiting[:1]):
        begun = begin_calls(connection, night, shard, holder, limits, read_gates)
        if isinstance(begun, Intent):
            return begun
        found.append(begun)
    if found:
        requests = sum(shard.requests for shard in (*abandoned, *waiting))
        return replace(max(found, key=_passes_soonest), requests=requests)
    if any(shard.id in calling for shard in in_real_time):
        return Waiting(running(CALLED_ELSEWHERE))
    return Waiting(None)


def _passes_soonest(waiting: Waiting) -> int:
    return -1 if waiting.state is None else RANK[waiting.state.kind]


def abandoned_calls(connection: Connection, night: Night) -> list[Submission]:
    """Calls whose holder has let go, or gave no sign of life for the time of a lease."""
    at = now(connection)
    calling = submissions.of_night(connection, night.id, State.CALLING)
    return [submission for submission in calling if submission.lease_until <= at]


def close_abandoned_calls(connection: Connection, night: Night, holder: str) -> int:
    """End the abandoned real-time submissions that no process goes on with: all of a held night, of
    another one those of accounts that may not send it any more.

    What was answered is collected then, the rest is open again. Returns the number ended.
    """
    night = nights.get_night(connection, night.id)
    able: set[str] = set()
    if night.held_at is None:
        able.update(*(accounts.same_workspace(connection, name) for name in night.sent_by))
    closed_ = 0
    for submission in abandoned_calls(connection, night):
        if submission.account not in able:
            leases.take_over(connection, submission, holder, 0.0)
            closed_ += transitions.close(connection, submissions.get(connection, submission.id))
    return closed_
