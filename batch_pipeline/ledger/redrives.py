"""Redrives in the ledger: which answers no longer settle what they answered.

Recorded by submission and status, not by time: an answer collected after a redrive stands, whatever
clocks say, and so does a late one of a submission that had been given up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import sums, tables
from batch_pipeline.ledger.ledger import now
from batch_pipeline.ledger.submissions import State


@dataclass(frozen=True)
class Redriven:
    """Answers of this status in this submission were put behind."""

    token: str
    status: str


def of_night(connection: Connection, night_id: int) -> list[Redriven]:
    query = (
        sa.select(tables.submission.c.token, tables.redriven.c.status)
        .join(tables.submission, tables.submission.c.id == tables.redriven.c.submission_id)
        .where(tables.submission.c.night_id == night_id)
    )
    return [Redriven(**row) for row in connection.execute(query).mappings()]


def record(connection: Connection, night_id: int, statuses: Iterable[str]) -> None:
    """Put all answers of these statuses behind that the night has now.

    A person has looked at them: they are no evidence for the breaker any more.
    """
    at = now(connection)
    collected = connection.execute(
        sa.select(tables.submission.c.id, tables.submission.c.token).where(
            tables.submission.c.night_id == night_id,
            tables.submission.c.state == State.COLLECTED.value,
        )
    ).all()
    wanted = sorted(set(statuses))
    known = {(known.token, known.status) for known in of_night(connection, night_id)}
    rows = [
        {"submission_id": submission.id, "status": status, "redriven_at": at}
        for submission in collected
        for status in wanted
        if (submission.token, status) not in known
    ]
    if rows:
        connection.execute(sa.insert(tables.redriven), rows)
    if wanted:
        sums.forget_first_attempts(connection, night_id)
