"""Signs of life: a thread that renews a lease while work goes on, and the workers of runs.

Belongs here: the thread, and until when the worker of a scheduler's run counts as alive. A
scheduler that lost sight of a worker, because the process that started the worker has died too,
learns here that the run goes no further. What a dead worker held in the ledger is freed by its
leases.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import Ledger, now
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# How long the row of a run is kept after its worker's last sign of life.
KEPT_SECONDS = 24 * 3600.0


@contextmanager
def beating(name: str, seconds: float, beat: Callable[[], bool]) -> Iterator[None]:
    """Call `beat` every `seconds` in a thread while the block runs, or until it returns False.

    A thread, since the work may block for longer than a lease lasts. A call that fails (a database
    that is restarted, a full disk) is followed by the next one: work that goes on must not look
    dead because of a short disturbance.
    """
    done = threading.Event()

    def run() -> None:
        while not done.wait(seconds):
            try:
                if not beat():
                    return
            except Exception as error:  # noqa: BLE001  # the next beat may succeed
                log.warning("no sign of life could be given (%s); trying again", error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def alive(ledger: Ledger, run: str, lease_seconds: float) -> Iterator[None]:
    """Give signs of life for the worker of a run while the block lasts."""

    def beat() -> bool:
        with ledger.write() as connection:
            give_sign(connection, run, lease_seconds)
        return True

    beat()
    try:
        with beating(f"alive-{run[:8]}", lease_seconds / 4, beat):
            yield
    except Exception:
        with contextlib.suppress(sa.exc.DBAPIError):  # the error itself is what counts
            beat()
        raise
    beat()


def give_sign(connection: Connection, run: str, seconds: float) -> None:
    """Let the worker of a run count as alive for `seconds` from now."""
    until = now(connection) + seconds
    changed = connection.execute(
        sa.update(tables.worker).where(tables.worker.c.run == run).values(alive_until=until)
    )
    if not changed.rowcount:
        connection.execute(sa.insert(tables.worker).values(run=run, alive_until=until))
        old = tables.worker.c.alive_until < until - KEPT_SECONDS
        connection.execute(sa.delete(tables.worker).where(old))


def alive_until(connection: Connection, runs: Collection[str]) -> dict[str, float]:
    """Until when the worker of each run counts as alive; runs without a sign are left out."""
    query = sa.select(tables.worker).where(tables.worker.c.run.in_(runs))
    return {row.run: row.alive_until for row in connection.execute(query)}
