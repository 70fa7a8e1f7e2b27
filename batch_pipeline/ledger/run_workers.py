"""Workers of runs that a scheduler started, and until when each of them counts as alive.

Belongs here: signs of life. A scheduler that lost sight of a worker, because what started it died
as well, learns here that nobody works on the run any more. What a dead worker held in the ledger is
freed by its leases, not by this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import tables
from batch_pipeline.ledger.heartbeat import beating
from batch_pipeline.ledger.ledger import Ledger, now

# Rows of runs that ended long ago are of no use.
KEPT_SECONDS = 24 * 3600.0


@contextmanager
def alive(
    ledger: Ledger, run: str, lease_seconds: float, *, pause_seconds: float
) -> Iterator[None]:
    """Give signs of life for a run while the block lasts.

    After an error it counts as alive for `pause_seconds` more: what runs it may try again then.
    """

    def beat(seconds: float = lease_seconds) -> bool:
        with ledger.write() as connection:
            give_sign(connection, run, seconds)
        return True

    beat()
    try:
        with beating(f"alive-{run[:8]}", lease_seconds / 4, beat):
            yield
    except Exception:
        with contextlib.suppress(sa.exc.DBAPIError):  # the error itself is what counts
            beat(lease_seconds + pause_seconds)
        raise
    beat()


def give_sign(connection: Connection, run: str, seconds: float) -> None:
    """The run's worker counts as alive for so many seconds from now."""
    until = now(connection) + seconds
    changed = connection.execute(
        sa.update(tables.worker).where(tables.worker.c.run == run).values(alive_until=until)
    )
    if not changed.rowcount:
        connection.execute(sa.insert(tables.worker).values(run=run, alive_until=until))
        old = tables.worker.c.alive_until < until - KEPT_SECONDS
        connection.execute(sa.delete(tables.worker).where(old))


def alive_until(connection: Connection, runs: Collection[str]) -> dict[str, float]:
    """By run, until when its worker counts as alive; one that gave no sign is left out."""
    query = sa.select(tables.worker).where(tables.worker.c.run.in_(runs))
    return {row.run: row.alive_until for row in connection.execute(query)}
