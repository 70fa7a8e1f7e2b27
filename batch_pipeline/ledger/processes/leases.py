"""Who works on a submission: senders and callers by lease and fence, collectors by a claim.

A sender or caller extends its lease while it works. After the lease another process may take the
work over; it raises the fence, so that the former holder, should it wake up, can neither complete
nor change what it held.

A claim on an ended submission saves work and protects nothing: of several processes one downloads
the batch, not all. A process that collects a submission second finds that out in the transaction
that would record it. So a claim may be taken over at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import State, Submission

# Rows that one claim looks at: one night has fewer collectors than this.
MOST_CLAIMED = 100


def keep_alive(connection: Connection, submission: Submission, lease_seconds: float) -> bool:
    """Extend the lease of a sender or caller; False: the submission was taken over or settled."""
    return submissions.change(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.fence == submission.fence,
        tables.submission.c.state.in_(
            [State.INTENT.value, State.SEALED.value, State.CALLING.value]
        ),
        lease_until=now(connection) + lease_seconds,
    )


def take_over(
    connection: Connection, submission: Submission, holder: str, lease_seconds: float
) -> None:
    """Give the calls of a submission to another holder; the former one's fence counts no more."""
    submissions.change(
        connection,
        tables.submission.c.id == submission.id,
        holder=holder,
        fence=submission.fence + 1,
        lease_until=now(connection) + lease_seconds,
    )


def checkpoint(
    connection: Connection, submission: Submission, progress: dict[str, Any], lease_seconds: float
) -> bool:
    """Record how far the calls are, and extend the lease; False: another holder has taken over."""
    lease_until = now(connection) + lease_seconds
    return _change_calls(connection, submission, progress=progress, lease_until=lease_until)


def let_go(connection: Connection, submission: Submission) -> bool:
    """End the lease of calls that are not all made: the next process may go on at once."""
    return _change_calls(connection, submission, lease_until=now(connection))


def claim_ended(
    connection: Connection,
    night_id: int,
    holder: str,
    lease_seconds: float,
    *,
    after: int,
    is_gone: Callable[[str], bool],
) -> Submission | None:
    """Claim the night's next ended submission with an id above `after` that is not being collected
    and whose next download is due.

    `is_gone` tells of the holder of a claim whether its process has certainly ended.
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
    due = sa.or_(columns.next_download_at.is_(None), columns.next_download_at <= at)
    for row in connection.execute(query.where(due)).all():
        if row.collector is None or row.collect_until <= at or is_gone(row.collector):
            until = at + lease_seconds
            submissions.change(
                connection, columns.id == row.id, collector=holder, collect_until=until
            )
            return submissions.get(connection, row.id)
    return None


def keep_claim(
    connection: Connection, submission: Submission, holder: str, lease_seconds: float
) -> None:
    """Extend a claim, if it is still this holder's."""
    until = now(connection) + lease_seconds
    submissions.change(connection, *_claimed(submission, holder), collect_until=until)


def release_claim(connection: Connection, submission: Submission, holder: str) -> None:
    """Give a claim up, if it is still this holder's."""
    mine = _claimed(submission, holder)
    submissions.change(connection, *mine, collector=None, collect_until=None)


def _claimed(submission: Submission, holder: str) -> tuple[sa.ColumnElement[bool], ...]:
    columns = tables.submission.c
    return columns.id == submission.id, columns.collector == holder


def _change_calls(connection: Connection, submission: Submission, **values: Any) -> bool:
    return submissions.change(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.fence == submission.fence,
        tables.submission.c.state == State.CALLING.value,
        **values,
    )
