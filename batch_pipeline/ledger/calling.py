"""What the holder of a submission that goes out call by call tells the ledger: CALLING alone.

The fence and the lease are those of `submissions`; who may begin or go on stands in `admission`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from batch_pipeline.ledger import submissions, tables
from batch_pipeline.ledger.ledger import now
from batch_pipeline.ledger.submissions import State, Submission


def take_over(
    connection: Connection, submission: Submission, owner: str, lease_seconds: float
) -> None:
    """Give a holder's calls to another owner; the former one's fence no longer counts."""
    submissions.change(
        connection,
        tables.submission.c.id == submission.id,
        owner=owner,
        fence=submission.fence + 1,
        lease_until=now(connection) + lease_seconds,
    )


def checkpoint(
    connection: Connection, submission: Submission, progress: dict[str, Any], lease_seconds: float
) -> bool:
    """Record how far the calls of a holder are, and extend its lease; False: it holds no more."""
    lease_until = now(connection) + lease_seconds
    return _change(connection, submission, progress=progress, lease_until=lease_until)


def let_go(connection: Connection, submission: Submission) -> bool:
    """A holder stops before the end of its calls: whoever comes next goes on at once."""
    return _change(connection, submission, lease_until=now(connection))


def close(connection: Connection, submission: Submission) -> bool:
    """CALLING → ENDED before every request has its answer: what lacks one counts as canceled."""
    at = now(connection)
    return _change(
        connection, submission, state=State.ENDED.value, cancel_requested_at=at, ended_at=at
    )


def _change(connection: Connection, submission: Submission, **values: Any) -> bool:
    return submissions.change(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.fence == submission.fence,
        tables.submission.c.state == State.CALLING.value,
        **values,
    )
