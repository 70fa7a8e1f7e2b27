"""Whether a shard may go now, through which of the night's accounts, and what keeps it otherwise.

Belongs here: the decision, made of what the ledger says in the transaction that claims. The claim
stands in `admission`, the words in `night_state`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import nights, shards
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.accounts.accounts import Account
from batch_pipeline.ledger.admission import budget
from batch_pipeline.ledger.admission.budget import Money, Shortfall
from batch_pipeline.ledger.admission.limits import NO_MARKS, Limits, Marks, ReadGates
from batch_pipeline.ledger.admission.night_state import (
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
from batch_pipeline.ledger.admission.queue import Queue, Queues, read_queues
from batch_pipeline.ledger.admission.senders import Sender
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard
from batch_pipeline.ledger.submissions import submissions, transitions
from batch_pipeline.ledger.submissions.submissions import IN_QUEUE, State
from batch_pipeline.wording import moment

# What passes soonest comes last.
RANK = {kind: rank for rank, kind in enumerate(Kind)}


@dataclass(frozen=True)
class Decision:
    """Whether a shard may go, or what keeps it; the account that sends it, the shard that may go,
    and its bound in USD.

    That shard may be another one than the first that waits. `by_account` says of each account why
    it does not send, where there are several.
    """

    may_go: bool
    state: NightState
    account: str
    shard: Shard
    bound: Decimal = Decimal(0)
    short: ShortOfBudget | None = None
    wants_room: bool = False
    probe: bool = False
    marks: Marks = NO_MARKS
    by_account: Mapping[str, NightState] = field(default_factory=dict)


def decide(
    connection: Connection, night: Night, shard: Shard, limits: Limits, read_gates: ReadGates
) -> Decision:
    """Whether a night's next shard may go now, and through which of its accounts.

    Accounts are tried in the order of free room at their queues; a real-time shard needs none, and
    goes to the account with the fewest calls. A shard that was lost on its way to an account, whose
    list may still show it, goes to that account alone; the others take the next one.
    """
    queues = None
    if shard.engine == "batch":
        queues = read_queues(connection, night, limits.senders, limits.job_queue)
        order = queues.in_order()
    else:
        order = _by_calls(connection, limits.accounts)
    pinned = _pinned(connection, night)
    found: list[Decision] = []
    for account in order:
        own = _shard_for(connection, night, shard, account, pinned)
        if own is None:
            state = _pinned_elsewhere(shard, pinned)
            found.append(Decision(may_go=False, state=state, account=account, shard=shard))
            continue
        elsewhere = _elsewhere(account, pinned)
        queue = None if queues is None else queues[account]
        decision = _decide(connection, night, own, account, elsewhere, queue, limits, read_gates)
        if decision.may_go:
            return decision
        found.append(decision)
    if not found:
        state = state_of(Facts(night.job, night.partition, unanswered="no account answers"))
        return Decision(may_go=False, state=state, account="", shard=shard)
    soonest = max(found, key=lambda decision: RANK[decision.state.kind])
    if len(found) == 1:
        return soonest
    return replace(soonest, by_account={each.account: each.state for each in found})


def _decide(
    connection: Connection,
    night: Night,
    shard: Shard,
    name: str,
    elsewhere: Collection[int],
    queue: Queue | None,
    limits: Limits,
    read_gates: ReadGates,
) -> Decision:
    """Whether an account may send a shard now; the shards that are to go `elsewhere` left out."""
    probe = probe_may_go(connection, name)
    if probe and shard.engine == "batch":
        shard = shards.cheapest_to_go(connection, night.id, "batch", but=elsewhere) or shard
    facts = _facts_of(night, [accounts.get_account(connection, name)], connection, probe=probe)
    facts = replace(facts, gates=read_gates(connection, night, shard))
    money = limits.money_of(name)
    found = affordable(connection, night, shard, money, but=elsewhere)
    short, bound = None, Decimal(0)
    if isinstance(found, Shortfall):
        short = found.as_fact()
    else:
        shard, bound = found
    marks = limits.marks(connection, night, shard, name)
    # A probe is one small batch, and must not wait for another one.
    facts = replace(facts, short_of_budget=short, at_work=None if probe else marks.wait)
    if queue is not None:
        facts = with_queue(facts, queue, shard.requests)
    state = state_of(facts)
    wants_room = (
        queue is not None
        and state.kind in (Kind.OLDER_NIGHT_FIRST, Kind.QUEUE_FULL)
        # A job that uses its own share up must not keep other jobs from the rest.
        and not queue.share_in_use(shard.requests)
    )
    return Decision(may_go(facts), state, name, shard, bound, short, wants_room, probe, marks)


Pinned = Mapping[int, tuple[Collection[str], float]]


def _pinned(connection: Connection, night: Night) -> Pinned:
    """The shards that one workspace alone may send, by id: its accounts, and until when."""
    return {
        shard_id: (accounts.same_workspace(connection, account), until)
        for shard_id, (account, until) in transitions.pinned_to(connection, night.id).items()
    }


def _shard_for(
    connection: Connection, night: Night, shard: Shard, account: str, pinned: Pinned
) -> Shard | None:
    """The shard that an account is to send: the given one, or another that it may; or None."""
    elsewhere = _elsewhere(account, pinned)
    if shard.id not in elsewhere:
        return shard
    return shards.next_to_go(connection, night.id, "batch", but=elsewhere)


def _elsewhere(account: str, pinned: Pinned) -> list[int]:
    """The shards that an account may not send."""
    return [shard_id for shard_id, (names, _) in pinned.items() if account not in names]


def _pinned_elsewhere(shard: Shard, pinned: Pinned) -> NightState:
    names, until = pinned[shard.id]
    return running(
        f"a batch of {shard.requests:,} requests may still appear in the list of account "
        f"{next(iter(names))}, which alone sends them until {moment(until)}"
    )


def able_to_send(
    connection: Connection, night: Night, senders: Sequence[Sender]
) -> tuple[Sequence[Sender], NightState | None]:
    """The senders through which a batch that waits may go, room and money apart.

    Where none is left, the second one says which account has to send what waits; all senders come
    back then.
    """
    pinned = _pinned(connection, night)
    shard = shards.next_to_go(connection, night.id, "batch") if pinned else None
    if shard is None:
        return senders, None
    able = [
        sender
        for sender in senders
        if _shard_for(connection, night, shard, sender.account, pinned) is not None
        and (
            accounts.get_account(connection, sender.account).paused_reason is None
            or probe_may_go(connection, sender.account)
        )
    ]
    if able or shard.id not in pinned:
        return able or senders, None
    return senders, _pinned_elsewhere(shard, pinned)


def _by_calls(connection: Connection, names: Collection[str]) -> list[str]:
    """Accounts, the one with the fewest requests that are being called first."""
    columns = tables.submission.c
    query = (
        sa.select(columns.account, sa.func.sum(columns.requests))
        .where(columns.account.in_(names), columns.state == State.CALLING.value)
        .group_by(columns.account)
    )
    calling = {account: int(requests) for account, requests in connection.execute(query)}
    return sorted(names, key=lambda name: (calling.get(name, 0), name))


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


def facts_of(
    connection: Connection, night: Night, *, account: str | None = None, probe: bool = False
) -> Facts:
    """What the ledger says of a night by itself: held, refused, or all of its accounts paused.

    With an `account`, what it says for that one alone. To a `probe` the pause is no obstacle.
    """
    names = night.sent_by if account is None else [account]
    known = accounts.of_names(connection, names) or [accounts.get_account(connection, night.owner)]
    return _facts_of(night, known, connection, probe=probe)


def _facts_of(
    night: Night, known: Collection[Account], connection: Connection, *, probe: bool
) -> Facts:
    paused = [each for each in known if each.paused_reason is not None]
    stopped = None
    if len(paused) == len(known) and not probe:
        reasons = list(dict.fromkeys(each.paused_reason for each in paused))
        stopped = "; ".join(filter(None, reasons))
    return Facts(
        job=night.job,
        partition=night.partition,
        accounts=tuple(each.name for each in (paused or known)),
        held=night.held_at is not None,
        paused=stopped,
        probe_at=min((each.probe_at for each in paused if each.probe_at), default=None),
        refused=night.refused,
        backing_off=None if night.storm_since is None else night.resting(now(connection)),
    )


def with_queue(facts: Facts, queue: Queue | Queues, requests: int) -> Facts:
    """The facts of a night with what stands in the way of its next batch, of `requests`."""
    if isinstance(queue, Queues):
        queue = queue.for_batch(requests)
    return replace(
        facts,
        too_large=queue.too_large(requests),
        # What waits for its job's own share does not wait for that night.
        older_night=None if queue.share_in_use(requests) else queue.older_night,
        queue_full=queue.full(requests),
    )


def closed(
    connection: Connection,
    night: Night,
    gates: Gates = OPEN_GATES,
    *,
    account: str | None = None,
    probe: bool = False,
) -> NightState | None:
    """Why nothing more of a night may go out, queue and budget apart; None: it may. With an
    `account`: through that one."""
    night = nights.get_night(connection, night.id)
    facts = facts_of(connection, night, account=account, probe=probe)
    state = state_of(replace(facts, gates=gates))
    return None if state.kind is Kind.OPEN else state


def affordable(
    connection: Connection, night: Night, shard: Shard, money: Money, *, but: Collection[int] = ()
) -> tuple[Shard, Decimal] | Shortfall:
    """The shard, if it fits under the ceilings, and its bound in USD.

    Of batches the night's cheapest may go where the next does not fit, those of `but` left out: all
    of them are to be bought, and which comes first changes nothing in what there is to spend.
    """
    ceilings = money.ceilings
    spent = list(budget.spendings(connection, night, ceilings))
    bound = money.bound(shard)
    if shard.engine == "realtime":
        # What was reserved when batches were cancelled is for these very requests.
        spent = budget.for_calls(spent, bound)
    short = budget.shortfall(spent, shard.requests, bound)
    if short is None:
        return shard, bound
    cheapest = shards.cheapest_to_go(connection, night.id, "batch", but=but)
    if shard.engine != "batch" or cheapest is None:
        return short
    bound = money.bound(cheapest)
    return short if budget.shortfall(spent, cheapest.requests, bound) else (cheapest, bound)
