"""Shared prefixes of prompts in the ledger: their tokens, and whether the API's cache has them.

Belongs here: rows and queries. Whether a prefix is warm follows from the submissions that used it,
so that no state can differ from what was sent; what follows from that is decided in `flow.caching`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import LIVE, State, Submission
from batch_pipeline.pricing.caching import describe_prefix, minimum_tokens


@dataclass(frozen=True)
class CachePrefix:
    """A prefix under an account; `tokens` None: the API did not count them, as `problem` says."""

    account: str
    prefix: str
    model_id: str
    tokens: int | None
    problem: str | None
    counted_at: float

    @property
    def can_pay(self) -> bool:
        """Whether it is long enough to be cached; where that is not known the answers tell."""
        least = minimum_tokens(self.model_id)
        return self.tokens is None or least is None or self.tokens >= least

    def describe(self) -> str:
        """What is known of it, in a clause."""
        if self.tokens is None:
            return f"the API did not count the shared prefix ({self.problem})"
        return describe_prefix(self.model_id, f"{self.tokens:,}", self.tokens)


def find(connection: Connection, account: str, prefix: str) -> CachePrefix | None:
    columns = tables.cache_prefix.c
    query = sa.select(tables.cache_prefix)
    row = connection.execute(query.where(columns.account == account, columns.prefix == prefix))
    found = row.mappings().first()
    return None if found is None else CachePrefix(**found)


def are_known(connection: Connection, account: str) -> bool:
    """Whether any prefix of an account was looked at."""
    column = tables.cache_prefix.c.account
    return connection.scalar(sa.select(column).where(column == account).limit(1)) is not None


def record(
    connection: Connection,
    account: str,
    prefix: str,
    model_id: str,
    tokens: int | None,
    problem: str | None,
) -> None:
    """Keep what the API counted, in place of an earlier count that failed."""
    key = {"account": account, "prefix": prefix}
    connection.execute(
        sa.delete(tables.cache_prefix).where(
            *(tables.cache_prefix.c[name] == value for name, value in key.items())
        )
    )
    values = {"model_id": model_id, "tokens": tokens, "problem": problem}
    connection.execute(
        sa.insert(tables.cache_prefix).values(**key, **values, counted_at=now(connection))
    )


def latest_warm_up(connection: Connection, account: str, prefix: str) -> Submission | None:
    """The latest submission of an account's workspace, which has one cache, that warms up a prefix;
    those that came to nothing left out."""
    columns = tables.submission.c
    query = (
        sa.select(columns.id)
        .where(columns.account.in_(accounts.same_workspace(connection, account)))
        .where(columns.warms == prefix)
        .where(columns.state.in_([state.value for state in (*LIVE, State.COLLECTED)]))
        .order_by(columns.id.desc())
        .limit(1)
    )
    found = connection.scalar(query)
    return None if found is None else submissions.get(connection, found)


def warm_ups_of(connection: Connection, night_id: int) -> int:
    """How many times a warm-up of a night was sent or tried."""
    columns = tables.shard.c
    query = sa.select(sa.func.count()).where(columns.night_id == night_id, columns.warms > "")
    return int(connection.scalar(query) or 0)


def marked_batches(
    connection: Connection, night_id: int, states: Sequence[State], since: float
) -> list[Submission]:
    """A night's batches in these states that were sent with marks since a time, warm-ups left
    out, oldest first."""
    return submissions.find(connection, *_marked(night_id, since), states=states)


def latest_marked_end(connection: Connection, night_id: int, since: float) -> float:
    """When the latest of a night's batches that were sent with marks since a time ended; 0: none
    has."""
    query = sa.select(sa.func.max(tables.submission.c.ended_at)).where(*_marked(night_id, since))
    return float(connection.scalar(query) or 0)


def _marked(night_id: int, since: float) -> tuple[sa.ColumnElement[bool], ...]:
    columns = tables.submission.c
    return (
        columns.night_id == night_id,
        columns.engine == "batch",
        columns.pilot.is_(False),
        columns.caching.is_not(None),
        columns.warms.is_(None),
        columns.intent_at >= since,
    )
