"""Submissions in the ledger: attempts to have a shard answered, and how they are found.

Belongs here: the rows and the queries. How a submission changes is told in `transitions`, by whom
in `leases`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.shards import Engine
from batch_pipeline.pricing.tokens import TOKENS, Lifetime


class State(StrEnum):
    """Which state follows which: see `transitions`."""

    INTENT = "intent"
    SEALED = "sealed"
    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    ENDED = "ended"
    COLLECTED = "collected"
    ABSENT = "absent"
    REFUSED = "refused"
    CALLING = "calling"


# What is in the API's queue, or may be.
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
    holder: str
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
    missing_since: float | None = None
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
    passing: int = 0
    unjudged: int = 0
    gone_requests: int = 0
    gone_usd: Decimal = Decimal(0)
    estimated_usd: Decimal = Decimal(0)
    stated_prices: dict[str, Any] | None = None
    refusal: dict[str, Any] | None = None
    caching: Lifetime | None = None
    marked_models: list[str] | None = None
    warms: str | None = None
    cache_saved_usd: Decimal | None = None
    collector: str | None = None
    collect_until: float | None = None
    downloads: int = 0
    next_download_at: float | None = None
    failed_downloads: int = 0
    published: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None
    mark_id: int | None = None
    candidates: list[str] | None = None
    candidates_from: float | None = None
    waits_for: str | None = None
    answer_files: list[str] | None = None

    @property
    def has_answers(self) -> bool:
        """Whether answers of it are published: all, or those that could be read so far."""
        return self.state is State.COLLECTED or self.published is not None

    @property
    def published_usd(self) -> Decimal:
        """What the answers are billed that are published while others are missing, in USD."""
        return Decimal(0) if self.published is None else Decimal(self.published["cost_usd"])

    def until_download(self, at: float) -> float:
        """Seconds until its results may be downloaded; 0: now."""
        return max(0.0, (self.next_download_at or at) - at)

    @property
    def tokens(self) -> dict[str, int]:
        """Billed tokens by class."""
        return {name: getattr(self, name) for name in TOKENS}


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
    """The nights of all accounts that have a submission in one of these states."""
    column = tables.submission.c.night_id
    wanted = tables.submission.c.state.in_([state.value for state in states])
    return set(connection.scalars(sa.select(column).where(wanted).distinct()))


def by_token(connection: Connection, account: str, token: str) -> Submission | None:
    """The submission of an account's workspace with this token."""
    names = accounts.same_workspace(connection, account)
    found = find(
        connection, tables.submission.c.account.in_(names), tables.submission.c.token == token
    )
    return found[0] if found else None


def _read(connection: Connection, query: sa.Select[Any]) -> list[Submission]:
    return [
        Submission(**{**tables.by_key(tables.submission, row), "state": State(row["state"])})
        for row in connection.execute(query).mappings()
    ]


def change(connection: Connection, *conditions: sa.ColumnElement[bool], **values: Any) -> bool:
    """Whether a row met the conditions and was changed."""
    result = connection.execute(sa.update(tables.submission).where(*conditions).values(values))
    return result.rowcount == 1


def name_answers(connection: Connection, submission: Submission, name: str) -> None:
    """Note the name of a further file of a submission's answers."""
    names = [*(submission.answer_files or ()), name]
    change(connection, tables.submission.c.id == submission.id, answer_files=names)
