"""Copies a ledger in use, as it is at one moment, into a SQLite file that is a whole ledger; tells
whether such a file is damaged."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from batch_pipeline.errors import UsageError
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.storage.durable import flush

# Rows that are held in memory.
ROWS_AT_ONCE = 5_000


def sqlite_url(path: Path) -> str:
    """The URL of a ledger in a file."""
    return sa.URL.create("sqlite", database=str(path.absolute())).render_as_string()


def copy_ledger(ledger: Ledger, target: Path) -> dict[str, int]:
    """Copy a ledger, of either database, into a new SQLite file; returns the rows by table.

    Other processes go on meanwhile: one transaction sees all tables as they are at its begin. The
    file gets its name when it is whole. Raises UsageError where there is a file of this name.
    """
    if target.exists():
        raise UsageError(f"{target} is there already; a backup does not replace a file.")
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent} is no folder; make it first.")
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    copied: dict[str, int] = {}
    try:
        with Ledger(sqlite_url(part)) as copy, ledger.read() as source, copy.write() as sink:
            for table in tables.metadata.sorted_tables:
                sink.execute(sa.delete(table))
                rows = source.execution_options(yield_per=ROWS_AT_ONCE).execute(sa.select(table))
                copied[table.name] = 0
                for some in rows.mappings().partitions(ROWS_AT_ONCE):
                    sink.execute(sa.insert(table), [tables.by_key(table, row) for row in some])
                    copied[table.name] += len(some)
        flush(part)
        part.rename(target)
        flush(target.parent)
    finally:
        part.unlink(missing_ok=True)
    return copied


def is_damaged(file: Path) -> bool:
    """Whether a SQLite file, which is there, is cut off or otherwise no whole database."""
    try:
        with closing(sqlite3.connect(file)) as connection:
            return connection.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)]
    except sqlite3.DatabaseError:
        return True


def set_aside(file: Path) -> Path:
    """Rename a damaged ledger and what belongs to it; returns its new name."""
    aside = file.with_name(f"{file.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    for suffix in ("", "-wal", "-shm"):
        part = file.with_name(file.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    flush(file.parent)
    return aside
