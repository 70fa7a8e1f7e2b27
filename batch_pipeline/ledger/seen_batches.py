"""Whose a batch of the API's list is: one row for each that was told apart, never changed.

How it is told apart stands in `flow.reconciliation`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import tables

# Parameters of one query, well within what both databases take.
IDS_AT_ONCE = 500


def mark(connection: Connection, account: str, batch_id: str, submission_id: int | None) -> None:
    """Remember whose a listed batch is; None: foreign."""
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
    """Ids of batches whose owner is known; with `among` only of these, in bounded steps."""
    query = sa.select(tables.seen.c.batch_id).where(tables.seen.c.account == account)
    if among is None:
        return set(connection.scalars(query))
    found: set[str] = set()
    left = iter(among)
    while some := list(itertools.islice(left, IDS_AT_ONCE)):
        found.update(connection.scalars(query.where(tables.seen.c.batch_id.in_(some))))
    return found
