"""Submissions: the state machine that keeps a shard from being bought twice.

    INTENT → SEALED → ACCEPTED → ENDED → COLLECTED       a batch at the API
       ↓        ↓ ↘
     ABSENT  REFUSED UNKNOWN → ACCEPTED or ABSENT        ABSENT, REFUSED: the shard waits again
    ACCEPTED or ENDED → ABSENT                           a simulator's alone: it was restarted
    CALLING → ENDED → COLLECTED                          a shard that goes out call by call

INTENT is written before the first byte leaves, SEALED before the last: a holder that dies in
between leaves an incomplete body that nobody can complete, one that dies later leaves an unknown
outcome that is looked for in the API's list. A fence and a lease keep a stale holder from starting
or completing a submission; they never keep an id that the API returned from being recorded.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.state import nights, tables
from batch_pipeline.state.ledger import now
from batch_pipeline.state.nights import Engine, Night, Shard, ShardState

# An older night that wanted room this long ago and did not come back no longer goes first.
ROOM_WANTED_SECONDS = 600.0


class State(StrEnum):
    """See the module's diagram."""

    INTENT = "intent"
    SEALED = "sealed"
    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    ENDED = "ended"
    COLLECTED = "collected"
    ABSENT = "absent"
    REFUSED = "refused"
    CALLING = "calling"


# Has a say, in the transaction that claims a shard: why it may not go, or None.
MaySend = Callable[[Connection, Night, Shard], str | None]

# What may be in the API's queue, as far as anybody can know.
IN_QUEUE = (State.INTENT, State.SEALED, State.UNKNOWN, State.ACCEPTED)
# What holds its shard.
LIVE = (*IN_QUEUE, State.CALLING, State.ENDED)


@dataclass(frozen=True)
class Submission:
    """One attempt to have a shard answered."""

    id: int
    shard_id: int
    night_id: int
    account: str
    engine: Engine
    token: str
    requests: int
    usd_bound: Decimal
    state: State
    owner: str
    fence: int
    lease_until: float
    intent_at: float
    window_from: float | None
    error: str | None
    batch_id: str | None
    accepted_at: float | None
    expires_at: float | None
    cancel_requested_at: float | None
    ended_at: float | None
    collected_at: float | None
    summary: dict[str, Any] | None
    cost_usd: Decimal | None

    @property
    def is_duplicate(self) -> bool:
        """Whether another submission had answered the shard before this one was collected."""
        return self.summary is not None and bool(self.summary.get("duplicate"))


@dataclass(frozen=True)
class Limits:
    """Queue limits in requests, and how long a holder may give no sign of life, in seconds."""

    account_queue: int
    job_queue: int | None
    lease_seconds: float


@dataclass(frozen=True)
class Waiting:
    """Nothing may go out now; `requests` wait. `reason` is None where nothing waits."""

    reason: str | None
    requests: int = 0

    def __str__(self) -> str:
        if self.reason is None:
            return "nothing waits"
        return f"{self.requests:,} requests wait: {self.reason}"


@dataclass(frozen=True)
class Intent:
    """A shard that this owner may send now."""

    submission: Submission
    shard: Shard


def new_token() -> str:
    """80 random bits as 16 characters that a custom id may hold."""
    return base64.b32encode(secrets.token_bytes(10)).decode().lower()


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
    waiting = [
        shard
        for shard in nights.list_shards(connection, night.id, ShardState.WAITING)
        if shard.engine == "batch"
    ]
    nights.update_night(connection, night.id, wanted_room_at=0.0)
    if not waiting:
        return Waiting(None)
    shard, requests = waiting[0], sum(shard.requests for shard in waiting)
    reason = _closed(connection, night) or may_send(connection, night, shard)
    if reason is None:
        reason = _no_room(connection, night, shard.requests, limits)
    if reason is not None:
        return Waiting(reason, requests)
    submission = _hold(connection, shard, night, State.INTENT, owner, limits)
    return Intent(submission, shard)


def _closed(connection: Connection, night: Night) -> str | None:
    """Why nothing of a night may go out, whatever the queue says."""
    account = nights.get_account(connection, night.account)
    if night.held_at is not None:
        return "held after a cancel; `run --resume` lifts it"
    if account.paused_reason is not None:
        return f"account {account.name} is paused: {account.paused_reason}"
    if night.refused is not None:
        return f"the API refused it ({night.refused}); correct it and run again"
    return None


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
    if nights.get_account(connection, night.account).wait_until > at:
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
    shard = nights.get_shard(connection, shard.id)
    reason = _closed(connection, night)
    if reason is None and shard.state is ShardState.WAITING:
        reason = may_send(connection, night, shard)
    if reason is not None:
        return Waiting(reason, shard.requests)
    if shard.state is ShardState.WAITING:
        return Intent(_hold(connection, shard, night, State.CALLING, owner, limits), shard)
    if shard.state is not ShardState.HELD:
        return Waiting(None)
    [current] = find(connection, tables.submission.c.shard_id == shard.id, states=LIVE)
    at = now(connection)
    if current.state is State.CALLING and current.lease_until > at:
        return Waiting("another process is sending it", shard.requests)
    if current.state is State.CALLING:
        _update(
            connection,
            tables.submission.c.id == current.id,
            owner=owner,
            fence=current.fence + 1,
            lease_until=at + limits.lease_seconds,
        )
    return Intent(get(connection, current.id), shard)


def keep_alive(connection: Connection, submission: Submission, lease_seconds: float) -> bool:
    """Extend the lease of a holder that still has it; False: it was taken over or settled."""
    return _update(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.fence == submission.fence,
        tables.submission.c.state.in_(
            [State.INTENT.value, State.SEALED.value, State.CALLING.value]
        ),
        lease_until=now(connection) + lease_seconds,
    )


def seal(connection: Connection, submission: Submission, lease_seconds: float) -> bool:
    """INTENT → SEALED for the holder of fence and lease, before the last bytes leave.

    A cancel that came in between is respected, and so is an earlier submission of the shard whose
    answer came after all: the body is left incomplete.
    """
    if nights.get_night(connection, submission.night_id).held_at is not None:
        return False
    if _has_other(connection, submission):
        return False
    at = now(connection)
    return _update(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.fence == submission.fence,
        tables.submission.c.state == State.INTENT.value,
        tables.submission.c.lease_until > at,
        state=State.SEALED.value,
        lease_until=at + lease_seconds,
    )


def accept(
    connection: Connection,
    submission_id: int,
    batch_id: str,
    *,
    accepted_at: float,
    expires_at: float | None,
) -> None:
    """Record the id that the API gave; done once, whatever fence and lease say."""
    submission = get(connection, submission_id)
    if submission.batch_id is not None:
        # Sender and reconciliation may both learn it; what has come of the batch since stays.
        return
    _update(
        connection,
        tables.submission.c.id == submission_id,
        state=State.ACCEPTED.value,
        batch_id=batch_id,
        accepted_at=accepted_at,
        expires_at=expires_at,
        error=None,
    )
    if nights.get_shard(connection, submission.shard_id).state is ShardState.WAITING:
        nights.set_shard_state(connection, submission.shard_id, ShardState.HELD)
    mark_seen(connection, submission.account, batch_id, submission_id)


def give_back(connection: Connection, submission: Submission, state: State, error: str) -> bool:
    """→ ABSENT or REFUSED: never made; its shard waits again. False: settled by another already."""
    assert state in (State.ABSENT, State.REFUSED)
    released = _update(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.state.in_(
            [State.INTENT.value, State.SEALED.value, State.UNKNOWN.value]
        ),
        state=state.value,
        error=error,
    )
    if released and not _has_other(connection, submission):
        nights.set_shard_state(connection, submission.shard_id, ShardState.WAITING)
    return released


def lose(connection: Connection, submission: Submission, error: str) -> bool:
    """ACCEPTED or ENDED → ABSENT: the simulator forgot the batch; its shard waits again.

    Only what a simulator made up can be lost like this: no batch of a real account ever is.
    """
    assert nights.get_account(connection, submission.account).simulated
    lost = _update(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.state.in_([State.ACCEPTED.value, State.ENDED.value]),
        state=State.ABSENT.value,
        error=error,
    )
    if lost and not _has_other(connection, submission):
        nights.set_shard_state(connection, submission.shard_id, ShardState.WAITING)
    return lost


def lose_track(connection: Connection, submission: Submission, error: str) -> bool:
    """SEALED → UNKNOWN: the answer was lost; from now on the API's list is consulted."""
    return _update(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.state == State.SEALED.value,
        state=State.UNKNOWN.value,
        window_from=now(connection),
        error=error,
    )


def reap(connection: Connection, account: str) -> None:
    """Settle what holders left behind whose lease has run out."""
    at = now(connection)
    for submission in find(
        connection,
        tables.submission.c.account == account,
        tables.submission.c.lease_until <= at,
        states=(State.INTENT, State.SEALED),
    ):
        if submission.state is State.INTENT:
            give_back(connection, submission, State.ABSENT, "its sender died before the end")
        else:
            _update(
                connection,
                tables.submission.c.id == submission.id,
                state=State.UNKNOWN.value,
                window_from=submission.lease_until,
                error="its sender died before the answer",
            )


def end(connection: Connection, submission: Submission) -> None:
    """ACCEPTED or CALLING → ENDED: every request has its result; queue room is released."""
    _update(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.state.in_([State.ACCEPTED.value, State.CALLING.value]),
        state=State.ENDED.value,
        ended_at=now(connection),
    )


def collect(
    connection: Connection, submission: Submission, summary: dict[str, Any], cost_usd: Decimal
) -> bool:
    """ENDED → COLLECTED: the bound becomes what was billed. False: somebody else was faster."""
    collected = _update(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.state == State.ENDED.value,
        state=State.COLLECTED.value,
        collected_at=now(connection),
        summary=summary,
        cost_usd=cost_usd,
    )
    if collected:
        nights.set_shard_state(connection, submission.shard_id, ShardState.COLLECTED)
        night = nights.get_night(connection, submission.night_id)
        nights.update_night(
            connection,
            night.id,
            revision=night.revision + 1,
            open_requests=night.open_requests + int(summary["open"]),
        )
    return collected


def request_cancel(connection: Connection, submission: Submission) -> None:
    _update(
        connection,
        tables.submission.c.id == submission.id,
        cancel_requested_at=now(connection),
    )


def mark_seen(
    connection: Connection, account: str, batch_id: str, submission_id: int | None
) -> None:
    """Remember whose a listed batch is; None: foreign."""
    known = connection.execute(
        sa.select(tables.seen).where(
            tables.seen.c.account == account, tables.seen.c.batch_id == batch_id
        )
    ).first()
    if known is None:
        connection.execute(
            sa.insert(tables.seen).values(
                account=account, batch_id=batch_id, submission_id=submission_id
            )
        )


def seen_batches(connection: Connection, account: str) -> set[str]:
    query = sa.select(tables.seen.c.batch_id).where(tables.seen.c.account == account)
    return set(connection.scalars(query))


def get(connection: Connection, submission_id: int) -> Submission:
    [submission] = find(connection, tables.submission.c.id == submission_id)
    return submission


def find(
    connection: Connection, *conditions: sa.ColumnElement[bool], states: Sequence[State] = ()
) -> list[Submission]:
    """Submissions, oldest first."""
    query = sa.select(tables.submission).where(*conditions).order_by(tables.submission.c.id)
    if states:
        query = query.where(tables.submission.c.state.in_([state.value for state in states]))
    return [
        Submission(**{**row, "state": State(row["state"])})
        for row in connection.execute(query).mappings()
    ]


def of_account(connection: Connection, account: str, *states: State) -> list[Submission]:
    return find(connection, tables.submission.c.account == account, states=states)


def of_night(connection: Connection, night_id: int, *states: State) -> list[Submission]:
    return find(connection, tables.submission.c.night_id == night_id, states=states)


def by_token(connection: Connection, account: str, token: str) -> Submission | None:
    found = find(
        connection, tables.submission.c.account == account, tables.submission.c.token == token
    )
    return found[0] if found else None


def _has_other(connection: Connection, submission: Submission) -> bool:
    """Whether another submission has the shard: one that had been given up was accepted late."""
    others = find(
        connection,
        tables.submission.c.shard_id == submission.shard_id,
        tables.submission.c.id != submission.id,
        states=(*LIVE, State.COLLECTED),
    )
    return bool(others)


def _hold(
    connection: Connection,
    shard: Shard,
    night: Night,
    state: State,
    owner: str,
    limits: Limits,
) -> Submission:
    token, at = new_token(), now(connection)
    connection.execute(
        sa.insert(tables.submission).values(
            shard_id=shard.id,
            night_id=night.id,
            account=night.account,
            engine=shard.engine,
            token=token,
            requests=shard.requests,
            usd_bound=shard.usd_bound,
            state=state.value,
            owner=owner,
            fence=1,
            lease_until=at + limits.lease_seconds,
            intent_at=at,
        )
    )
    nights.set_shard_state(connection, shard.id, ShardState.HELD)
    submission = by_token(connection, night.account, token)
    assert submission is not None
    return submission


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


def _update(connection: Connection, *conditions: sa.ColumnElement[bool], **values: Any) -> bool:
    """Whether a row met the conditions and was changed."""
    result = connection.execute(sa.update(tables.submission).where(*conditions).values(values))
    return result.rowcount == 1
