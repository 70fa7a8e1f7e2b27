"""The ledger's database, SQLite or PostgreSQL: transactions, durability, clock, schema version.

The tables are declared in `tables`; the other modules of the ledger read and write them.

Write transactions never overlap, in both databases: a claim is checked and made in one transaction,
so two processes cannot make the same claim.

SQLite keeps what was written last in a second file, `ledger.sqlite-wal`, until it is copied into
`ledger.sqlite`. The last connection to be closed does that copying and removes the second file.
Hence `close`: without it, a backup of `ledger.sqlite` alone would be empty or out of date, and a
night that was paid for would be bought again from it.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import sqlalchemy as sa
import tenacity
from sqlalchemy import Connection, Engine

from batch_pipeline.errors import LedgerError
from batch_pipeline.ledger.database import migrations, tables
from batch_pipeline.safe_text import get_logger
from batch_pipeline.storage.durable import make_file, make_folder, shared_with_group
from batch_pipeline.storage.storage_errors import is_damage

T = TypeVar("T")

# Any constant: all ledgers of one PostgreSQL database take turns, which costs milliseconds.
POSTGRES_WRITE_LOCK = 0x6261746368
# A process that is frozen inside a transaction must not stop the others for ever.
POSTGRES_IDLE_LIMIT = "30s"
# Set in each transaction and for it alone: PgBouncer hands the session to others after it, and
# refuses a connection that brings options of its own.
_IDLE_LIMIT = sa.func.set_config("idle_in_transaction_session_timeout", POSTGRES_IDLE_LIMIT, True)
SQLITE_BUSY_MILLISECONDS = 120_000
# A smaller difference is the time that reading two clocks takes, or a clock that is corrected.
CLOCK_SET_SECONDS = 1.0
# States of submissions whose leases, or the time since, decide what is sent.
MEASURED = ("intent", "sealed", "unknown", "calling")

log = get_logger(__name__)


class Ledger:
    """An open database with the ledger's tables, which are created where they are missing.

    A context manager that closes it. Raises LedgerError where the database cannot be opened or
    was written by a newer version.
    """

    def __init__(self, url: str) -> None:
        try:
            self._engine = _create_engine(url)
        except (ImportError, sa.exc.NoSuchModuleError) as error:
            raise LedgerError(
                f"The ledger cannot be opened: {error}. For PostgreSQL install "
                "batch-pipeline[postgres]."
            ) from error
        self._closed = False
        try:
            self._prepare_schema()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that no other write overlaps; durable once the block has ended."""
        with self._transaction({"ledger_write": True}) as connection:
            if connection.dialect.name == "postgresql":
                lock = sa.func.pg_advisory_xact_lock(POSTGRES_WRITE_LOCK)
                connection.execute(sa.select(_IDLE_LIMIT, lock))
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees the ledger as it is at its begin."""
        is_postgres = self._engine.dialect.name == "postgresql"
        # Without it, each statement would see what was committed until it began.
        options = {"isolation_level": "REPEATABLE READ"} if is_postgres else {}
        with self._transaction(options) as connection:
            if is_postgres:
                connection.execute(sa.select(_IDLE_LIMIT))
            yield connection

    def close(self) -> None:
        """Close the connections; from now on, `read` and `write` raise LedgerError.

        A transaction that another thread is in goes on, and closes its own connection at its end.
        """
        self._closed = True
        # Not `Engine.dispose`: that would exchange the pool, and a connection which a transaction
        # still uses would be put back into the old one, open.
        self._engine.pool.dispose()

    @contextmanager
    def _transaction(self, options: dict[str, Any]) -> Iterator[Connection]:
        if self._closed:
            raise LedgerError("The ledger has been closed by this process.")
        connecting = self._engine.connect().execution_options(**options)
        try:
            with connecting as connection, connection.begin():
                yield connection
        finally:
            if self._closed:
                self._engine.pool.dispose()

    def _prepare_schema(self) -> None:
        try:
            with self.write() as connection:
                tables.schema.create(connection, checkfirst=True)
                version = connection.scalar(sa.select(tables.schema.c.version))
                if version is None:
                    tables.metadata.create_all(connection)
                    connection.execute(
                        sa.insert(tables.schema).values(version=tables.SCHEMA_VERSION)
                    )
                elif migrations.OLDEST <= version < tables.SCHEMA_VERSION:
                    migrations.migrate(connection)
                    connection.execute(
                        sa.update(tables.schema).values(version=tables.SCHEMA_VERSION)
                    )
                if version is None or version >= migrations.OLDEST:
                    _set_clock(connection)
        except sa.exc.DBAPIError as error:
            what_to_do = "Check BATCH_PIPELINE_HOME and BATCH_PIPELINE_LEDGER_URL."
            if is_damage(error):
                what_to_do = (
                    "Its file is damaged, or BATCH_PIPELINE_LEDGER_URL names another file: restore "
                    "a backup, or run `batch-pipeline recover`, which keeps the file aside and "
                    "rebuilds the ledger from its home."
                )
            raise LedgerError(f"The ledger cannot be opened: {error.orig}. {what_to_do}") from error
        if version is not None and version < migrations.OLDEST:
            raise LedgerError(
                f"The ledger has schema version {version}, which no release has written; the "
                f"oldest that can be read is {migrations.OLDEST}. Finish its nights with the "
                "batch-pipeline that wrote it, then begin a new ledger: set BATCH_PIPELINE_HOME "
                "or BATCH_PIPELINE_LEDGER_URL to a new place, or move the old ledger away."
            )
        if version is not None and version > tables.SCHEMA_VERSION:
            raise LedgerError(
                f"The ledger has schema version {version}, this release reads up to "
                f"{tables.SCHEMA_VERSION}: install the newer batch-pipeline that wrote it."
            )


def insisting(write: Callable[[], T]) -> Callable[[], T]:
    """`write` with repetition for half a minute while the database fails.

    For a write that may be carried out twice and must not be lost because a database is restarted
    or a disk is full for a moment: that a batch was accepted, for example.
    """
    return tenacity.retry(
        retry=tenacity.retry_if_exception_type(sa.exc.DBAPIError),
        wait=tenacity.wait_exponential(multiplier=0.1, max=5.0),
        stop=tenacity.stop_after_delay(30.0),
        reraise=True,
    )(write)


def now(connection: Connection) -> float:
    """Seconds since the epoch by the ledger's clock, the one clock that all processes share.

    With PostgreSQL that is the server's. With SQLite all processes are on one machine: its steady
    clock, raised to the time of day when the ledger was opened first since the machine started. It
    goes on evenly while the time of day is set, which would otherwise end leases and the wait for a
    lost batch at once, or never.
    """
    if connection.dialect.name == "postgresql":
        return _time_of_day(connection)
    ahead = connection.scalar(
        sa.select(tables.steady_clock.c.ahead).where(tables.steady_clock.c.boot == _boot())
    )
    return _time_of_day(connection) if ahead is None else steady() + float(ahead)


def steady() -> float:
    """Seconds of a clock that no one sets, and that goes on while the machine sleeps, unlike
    `time.monotonic`; the same in all processes of a machine."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _time_of_day(connection: Connection) -> float:
    if connection.dialect.name == "postgresql":
        return float(connection.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp())")))
    return float(connection.scalar(sa.text("SELECT (julianday('now') - 2440587.5) * 86400.0")))


@functools.cache
def _boot() -> str:
    """What the steady clock counts from: this start of the machine. Empty where it is unknown."""
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{started} {Path('/proc/self/ns/time').readlink()}"
    except OSError:
        return ""


def _set_clock(connection: Connection) -> None:
    """Let the ledger's clock begin with the time of day, or follow it where it was set.

    It does not follow while anything is under way whose leases or waits it measures.
    """
    if connection.dialect.name == "postgresql" or not _boot():
        return
    columns = tables.steady_clock.c
    ahead = _time_of_day(connection) - steady()
    known = connection.scalar(sa.select(columns.ahead).where(columns.boot == _boot()))
    if known is None:
        connection.execute(sa.insert(tables.steady_clock).values(boot=_boot(), ahead=ahead))
    elif abs(ahead - known) > CLOCK_SET_SECONDS:
        states = tables.submission.c.state
        under_way = sa.select(tables.submission.c.id).where(states.in_(MEASURED)).limit(1)
        if connection.scalar(under_way) is None:
            change = sa.update(tables.steady_clock).where(columns.boot == _boot())
            connection.execute(change.values(ahead=ahead))
        else:
            log.warning(
                "the machine's clock was set by %+.0f s; the ledger follows once no batch is being "
                "sent or looked for, and no call is made",
                ahead - known,
            )


def _create_engine(url: str) -> Engine:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database and parsed.database != ":memory:":
            file = Path(parsed.database).absolute()
            with contextlib.suppress(OSError):  # connecting says it better
                make_folder(file.parent)
                # SQLite's further files get the mode of this one.
                make_file(file, shared_with_group(file.parent))
        engine = sa.create_engine(parsed)
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    # psycopg 3 prepares statements in the session, which PgBouncer exchanges between transactions.
    options = {"prepare_threshold": None} if parsed.get_driver_name() == "psycopg" else {}
    return sa.create_engine(parsed, connect_args=options, pool_pre_ping=True)


def _configure_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver's own transaction handling begins too late to take the write lock at the start.
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout = {SQLITE_BUSY_MILLISECONDS}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("ledger_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
