"""Claims on ended submissions: of several processes or machines one downloads a batch, not all.

A claim saves work and protects nothing: whoever collects a submission second finds that out in the
transaction that would record it. So it may be taken over at any time, and is, from a process that
gives no sign of life.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import submissions, tables
from batch_pipeline.ledger.ledger import now
from batch_pipeline.ledger.submissions import State, Submission

# Looked at in one claim: more than so many collectors of one night there will not be.
MOST_CLAIMED = 100


def claim_ended(
    connection: Connection,
    night_id: int,
    owner: str,
    lease_seconds: float,
    *,
    after: int,
    is_gone: Callable[[str], bool],
) -> Submission | None:
    """Claim the night's next ended submission with an id above `after` that nobody collects.

    `is_gone` tells of an owner whether it certainly lives no more.
    """
    columns = tables.submission.c
    query = (
        sa.select(columns.id, columns.collector, columns.collect_until)
        .where(
            columns.night_id == night_id,
            columns.state == State.ENDED.value,
            columns.id > after,
        )
        .order_by(columns.id)
        .limit(MOST_CLAIMED)
    )
    at = now(connection)
    for row in connection.execute(query).all():
        if row.collector is None or row.collect_until <= at or is_gone(row.collector):
            _set(connection, row.id, collector=owner, collect_until=at + lease_seconds)
            return submissions.get(connection, row.id)
    return None


def keep(connection: Connection, submission: Submission, owner: str, lease_seconds: float) -> None:
    """Extend a claim, if it is this owner's still."""
    until = now(connection) + lease_seconds
    _set(connection, submission.id, tables.submission.c.collector == owner, collect_until=until)


def release(connection: Connection, submission: Submission, owner: str) -> None:
    """Leave it to whoever comes next."""
    mine = tables.submission.c.collector == owner
    _set(connection, submission.id, mine, collector=None, collect_until=None)


def _set(
    connection: Connection,
    submission_id: int,
    *conditions: sa.ColumnElement[bool],
    **values: str | float | None,
) -> None:
    connection.execute(
        sa.update(tables.submission)
        .where(tables.submission.c.id == submission_id, *conditions)
        .values(values)
    )
