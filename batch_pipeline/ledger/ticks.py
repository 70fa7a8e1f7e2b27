"""The sensor's last ticks in the ledger: by job the last one, and the last without trouble.

For people who look from outside: a daemon that has stopped leaves nothing that could be red.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now

TROUBLE_CHARACTERS = 1_000


@dataclass(frozen=True)
class Tick:
    """The last tick of a job's sensor, and the last without trouble (None: there was none); times
    in seconds since the epoch."""

    job: str
    at: float
    ok_at: float | None
    trouble: str | None


def note(connection: Connection, job: str, trouble: str | None) -> None:
    """Note a tick, and what troubled it; None: nothing did."""
    at = now(connection)
    values = {"at": at, "trouble": None if trouble is None else trouble[:TROUBLE_CHARACTERS]}
    if trouble is None:
        values["ok_at"] = at
    changed = connection.execute(
        sa.update(tables.tick).where(tables.tick.c.job == job).values(values)
    )
    if not changed.rowcount:
        connection.execute(sa.insert(tables.tick).values(job=job, **values))


def every(connection: Connection) -> list[Tick]:
    """The last ticks of all jobs, by name."""
    query = sa.select(tables.tick).order_by(tables.tick.c.job)
    return [Tick(**row) for row in connection.execute(query).mappings()]
