"""Redrives in the ledger: which answers no longer settle their items.

Recorded by submission and status, not by time: an answer that is collected after a redrive stands,
and so does a late answer of a submission that had been given up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import sums
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.submissions.submissions import State


@dataclass(frozen=True)
class Redriven:
    """The answers of this status in this submission settle no item any more."""

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
    """Let the night's present answers of these statuses settle nothing any more.

    A person has looked at what failed: all present first attempts cease to be evidence for the
    breaker.
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
