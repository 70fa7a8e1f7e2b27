"""Tallies in the ledger: what the collected submissions of a night add up to.

A submission is in exactly one place: summed up in its night's tally (`tallied`), or not yet. How
summaries are added is the flow's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import submissions, tables
from batch_pipeline.ledger.shards import Engine
from batch_pipeline.ledger.submissions import State, Submission

_KEY = ("night_id", "snapshot_id", "pilot", "engine")


@dataclass(frozen=True)
class Tally:
    """The sum over collected submissions of one night, snapshot, engine, and pilot or not.

    `batches` of them have an id. Times are in seconds since the epoch.
    """

    night_id: int
    snapshot_id: int
    pilot: bool
    engine: Engine
    batches: int
    requests: int
    cost_usd: Decimal
    first_intent_at: float
    first_accepted_at: float | None
    last_ended_at: float | None
    last_collected_at: float | None
    summary: dict[str, Any]


def of_night(connection: Connection, night_id: int) -> list[Tally]:
    query = sa.select(tables.tally).where(tables.tally.c.night_id == night_id)
    return [Tally(**row) for row in connection.execute(query).mappings()]


def not_tallied(connection: Connection, night_id: int) -> list[Submission]:
    """Collected submissions of a night that are in no tally: few, or of an older release."""
    return submissions.find(
        connection,
        tables.submission.c.night_id == night_id,
        tables.submission.c.tallied.is_(None),
        states=(State.COLLECTED,),
    )


def put(connection: Connection, tally: Tally, submission_id: int) -> None:
    """Replace a tally by one that has a submission in it besides."""
    key = [tables.tally.c[name] == getattr(tally, name) for name in _KEY]
    connection.execute(sa.delete(tables.tally).where(*key))
    connection.execute(sa.insert(tables.tally).values(vars(tally)))
    connection.execute(
        sa.update(tables.submission)
        .where(tables.submission.c.id == submission_id)
        .values(tallied=True)
    )


def put_summary(connection: Connection, tally: Tally, summary: dict[str, Any]) -> None:
    key = [tables.tally.c[name] == getattr(tally, name) for name in _KEY]
    connection.execute(sa.update(tables.tally).where(*key).values(summary=summary))
