"""Batches of the API's list: whose each of them is, and which submissions may still appear there.

Belongs here: the rows, and for how long a submission is watched. How a batch of the list is
attributed stands in `flow.batches.reconciliation`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import submissions
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.submissions import State, Submission

# Parameters of one query: both databases take at least 999.
IDS_AT_ONCE = 500
# A batch ends within 24 hours of its creation; the rest is for a list that lags.
LATE_WATCH_SECONDS = 48 * 3600.0


def mark(connection: Connection, account: str, batch_id: str, submission_id: int | None) -> None:
    """Record whose a listed batch is, once and for all; None: not of this ledger."""
    found = connection.execute(
        sa.select(tables.seen).where(
            tables.seen.c.account == account, tables.seen.c.batch_id == batch_id
        )
    ).first()
    if found is None:
        connection.execute(
            sa.insert(tables.seen).values(
                account=account, batch_id=batch_id, submission_id=submission_id
            )
        )


def known(connection: Connection, account: str, among: Iterable[str] | None = None) -> set[str]:
    """Ids of listed batches that were attributed; with `among`, only those of them."""
    query = sa.select(tables.seen.c.batch_id).where(tables.seen.c.account == account)
    if among is None:
        return set(connection.scalars(query))
    found: set[str] = set()
    left = iter(among)
    while some := list(itertools.islice(left, IDS_AT_ONCE)):
        found.update(connection.scalars(query.where(tables.seen.c.batch_id.in_(some))))
    return found


def watched(connection: Connection, account: str | None = None) -> list[Submission]:
    """Submissions that were given up less than 48 hours ago and may have become a batch after all.

    Of one account, or of all. A submission whose body was never sealed has no `window_from` and is
    not among them: its body cannot have been completed.
    """
    of_account = () if account is None else (tables.submission.c.account == account,)
    since = now(connection) - LATE_WATCH_SECONDS
    return submissions.find(
        connection,
        tables.submission.c.window_from > since,
        *of_account,
        states=(State.ABSENT,),
    )
