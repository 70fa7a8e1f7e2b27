"""Submissions: the state machine that keeps a shard from being bought twice.

    INTENT → SEALED → ACCEPTED → ENDED → COLLECTED       a batch at the API
       ↓        ↓ ↘
     ABSENT  REFUSED UNKNOWN → ACCEPTED or ABSENT        ABSENT, REFUSED: the shard waits again
    CALLING → ENDED → COLLECTED                          a shard that goes out call by call; one
                                                         that is closed early lacks answers

INTENT is written before the first byte leaves, SEALED before the last: a holder that dies in
between leaves an incomplete body that nobody can complete, one that dies later leaves an unknown
outcome that is looked for in the API's list. A fence and a lease keep a stale holder from starting
or completing a submission; they never keep an id that the API returned from being recorded.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import nights, seen_batches, shards, sums, tables
from batch_pipeline.ledger.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Engine, Shard, ShardState
from batch_pipeline.ledger.sums import Counts


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
    snapshot_id: int
    pilot: bool
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
    cost_usd: Decimal | None
    unproven_usd: Decimal | None = None
    # Another submission had answered the shard before this one was collected.
    duplicate: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cache_read_tokens: int = 0
    measured_answers: int = 0
    measured_bytes: int = 0
    measured_tokens: int = 0
    first_attempts: int = 0
    first_need_fix: int = 0
    gone_requests: int = 0
    gone_usd: Decimal = Decimal(0)
    stated_prices: dict[str, Any] | None = None
    collector: str | None = None
    collect_until: float | None = None
    downloads: int = 0
    progress: dict[str, Any] | None = None

    @property
    def tokens(self) -> dict[str, int]:
        """Billed tokens by class."""
        return {name: getattr(self, name) for name in tables.TOKENS}


def new_token() -> str:
    """80 random bits as 16 characters that a custom id may hold."""
    return base64.b32encode(secrets.token_bytes(10)).decode().lower()


def hold(
    connection: Connection,
    shard: Shard,
    night: Night,
    state: State,
    owner: str,
    lease_seconds: float,
    *,
    usd_bound: Decimal | None = None,
    stated_prices: dict[str, Any] | None = None,
) -> Submission:
    """A new submission of a shard, INTENT or CALLING; the caller has made sure that it may go.

    `usd_bound` is reserved for it: the most that it can cost, as planned unless given.
    """
    token, at = new_token(), now(connection)
    connection.execute(
        sa.insert(tables.submission).values(
            shard_id=shard.id,
            night_id=night.id,
            snapshot_id=shard.snapshot_id,
            pilot=shard.pilot,
            account=night.account,
            engine=shard.engine,
            token=token,
            requests=shard.requests,
            usd_bound=shard.usd_bound if usd_bound is None else usd_bound,
            stated_prices=stated_prices,
            state=state.value,
            owner=owner,
            fence=1,
            lease_until=at + lease_seconds,
            intent_at=at,
        )
    )
    shards.set_shard_state(connection, shard.id, ShardState.HELD)
    submission = by_token(connection, night.account, token)
    assert submission is not None
    return submission


def keep_alive(connection: Connection, submission: Submission, lease_seconds: float) -> bool:
    """Extend the lease of a holder that still has it; False: it was taken over or settled."""
    return change(
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
    return change(
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
) -> bool:
    """Record the id that the API gave; done once, whatever fence and lease say.

    True: a cancel came meanwhile, so that the batch is to be cancelled too.
    """
    submission = get(connection, submission_id)
    if submission.batch_id is not None:
        # Sender and reconciliation may both learn it; what has come of the batch since stays.
        return False
    change(
        connection,
        tables.submission.c.id == submission_id,
        state=State.ACCEPTED.value,
        batch_id=batch_id,
        accepted_at=accepted_at,
        expires_at=expires_at,
        error=None,
    )
    if shards.get_shard(connection, submission.shard_id).state is ShardState.WAITING:
        shards.set_shard_state(connection, submission.shard_id, ShardState.HELD)
    seen_batches.mark(connection, submission.account, batch_id, submission_id)
    held = nights.get_night(connection, submission.night_id).held_at is not None
    if held:
        request_cancel(connection, submission)
    return held


def give_back(connection: Connection, submission: Submission, state: State, error: str) -> bool:
    """→ ABSENT or REFUSED: never made; its shard waits again. False: settled by another already."""
    assert state in (State.ABSENT, State.REFUSED)
    released = change(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.state.in_(
            [State.INTENT.value, State.SEALED.value, State.UNKNOWN.value]
        ),
        state=state.value,
        error=error,
    )
    if released and not _has_other(connection, submission):
        shards.set_shard_state(connection, submission.shard_id, ShardState.WAITING)
    return released


def lose_track(connection: Connection, submission: Submission, error: str) -> bool:
    """SEALED → UNKNOWN: the answer was lost; from now on the API's list is consulted."""
    return change(
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
            change(
                connection,
                tables.submission.c.id == submission.id,
                state=State.UNKNOWN.value,
                window_from=submission.lease_until,
                error="its sender died before the answer",
            )


def end(connection: Connection, submission: Submission) -> None:
    """ACCEPTED or CALLING → ENDED: every request has its result; queue room is released."""
    change(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.state.in_([State.ACCEPTED.value, State.CALLING.value]),
        state=State.ENDED.value,
        ended_at=now(connection),
    )


def collect(
    connection: Connection, submission: Submission, counts: Counts, cost_usd: Decimal
) -> bool:
    """ENDED → COLLECTED: the bound becomes what was billed. False: collected before."""
    collected = change(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.state == State.ENDED.value,
        state=State.COLLECTED.value,
        collected_at=now(connection),
        cost_usd=cost_usd,
        **counts.columns(),
    )
    if collected:
        sums.record(connection, submission.id, counts)
        shards.set_shard_state(connection, submission.shard_id, ShardState.COLLECTED)
        night = nights.get_night(connection, submission.night_id)
        nights.update_night(
            connection,
            night.id,
            revision=night.revision + 1,
            open_requests=night.open_requests + counts.open,
        )
    return collected


def count_download(connection: Connection, submission: Submission) -> None:
    """One more whole download of an ended submission's results lacked lines."""
    change(
        connection,
        tables.submission.c.id == submission.id,
        downloads=tables.submission.c.downloads + 1,
    )


def request_cancel(connection: Connection, submission: Submission) -> None:
    change(
        connection,
        tables.submission.c.id == submission.id,
        cancel_requested_at=now(connection),
    )


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
    return _read(connection, query)


def of_account(connection: Connection, account: str, *states: State) -> list[Submission]:
    return find(connection, tables.submission.c.account == account, states=states)


def of_night(connection: Connection, night_id: int, *states: State) -> list[Submission]:
    return find(connection, tables.submission.c.night_id == night_id, states=states)


def latest_collected(connection: Connection, night_id: int, most: int) -> list[Submission]:
    """The latest of a night's collected submissions, oldest first."""
    query = (
        sa.select(tables.submission)
        .where(
            tables.submission.c.night_id == night_id,
            tables.submission.c.state == State.COLLECTED.value,
        )
        .order_by(tables.submission.c.id.desc())
        .limit(most)
    )
    return _read(connection, query)[::-1]


def nights_with(connection: Connection, *states: State) -> set[int]:
    """The nights, of whatever account, that have a submission in one of these states."""
    column = tables.submission.c.night_id
    wanted = tables.submission.c.state.in_([state.value for state in states])
    return set(connection.scalars(sa.select(column).where(wanted).distinct()))


def last_accepted(connection: Connection, account: str, limit: int = 20) -> list[Submission]:
    """The account's latest submissions that the API took in, newest first."""
    query = (
        sa.select(tables.submission)
        .where(tables.submission.c.account == account, tables.submission.c.batch_id.is_not(None))
        .order_by(tables.submission.c.id.desc())
        .limit(limit)
    )
    return _read(connection, query)


def by_token(connection: Connection, account: str, token: str) -> Submission | None:
    found = find(
        connection, tables.submission.c.account == account, tables.submission.c.token == token
    )
    return found[0] if found else None


def _read(connection: Connection, query: sa.Select[Any]) -> list[Submission]:
    return [
        Submission(**{**row, "state": State(row["state"])})
        for row in connection.execute(query).mappings()
    ]


def _has_other(connection: Connection, submission: Submission) -> bool:
    """Whether another submission has the shard: one that had been given up was accepted late."""
    others = find(
        connection,
        tables.submission.c.shard_id == submission.shard_id,
        tables.submission.c.id != submission.id,
        states=(*LIVE, State.COLLECTED),
    )
    return bool(others)


def change(connection: Connection, *conditions: sa.ColumnElement[bool], **values: Any) -> bool:
    """Whether a row met the conditions and was changed."""
    result = connection.execute(sa.update(tables.submission).where(*conditions).values(values))
    return result.rowcount == 1
