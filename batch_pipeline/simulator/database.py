"""The simulator's own durable state: one SQLite file, shared by the batch store and the books.

A batch and its entries in the books are written in one transaction, so that a simulator that is
killed never comes back with books that disagree with its batches. Only the schema and the access
discipline belong here; no decision does.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS batch (
    ordinal INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS content (
    hash BLOB PRIMARY KEY,
    accepted INTEGER NOT NULL DEFAULT 0,
    billed INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    billed_pico_usd INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS touch (
    batch_id TEXT NOT NULL,
    action TEXT NOT NULL,
    times INTEGER NOT NULL,
    PRIMARY KEY (batch_id, action)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS total (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
"""

_LATER_COLUMNS = {"attempts", "billed_pico_usd"}  # a state folder may be older than they are


class Database:
    """One connection, used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._lock = threading.RLock()
        # A killed process loses nothing without fsync; only a power cut would.
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.executescript(_SCHEMA)
        known = {row[1] for row in self._connection.execute("PRAGMA table_info(content)")}
        for column in _LATER_COLUMNS - known:
            self._connection.execute(
                f"ALTER TABLE content ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0"
            )

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All writes inside happen together or not at all; may be nested within a thread."""
        with self._lock:
            if self._connection.in_transaction:
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        with self._lock:
            self._connection.close()
