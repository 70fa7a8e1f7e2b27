"""The simulator's own durable state: one SQLite file, shared by the batch store and the books.

A batch and its entries in the books are written in one transaction, so that a simulator that is
killed never comes back with books that disagree with its batches. Only the schema and the access
discipline belong here; no decision does.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

Note = TypeVar("Note")

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
    billed_pico_usd INTEGER NOT NULL DEFAULT 0,
    billed_realtime INTEGER NOT NULL DEFAULT 0,
    untaken INTEGER NOT NULL DEFAULT 0,
    bought_again INTEGER NOT NULL DEFAULT 0
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

# A state folder may be older than they are.
_LATER_COLUMNS = {"attempts", "billed_pico_usd", "billed_realtime", "untaken", "bought_again"}


MOST_NOTES = 500
LONGEST_NOTE_SECONDS = 0.25


class Database:
    """One connection, used by one thread at a time.

    What is noted (`note`) is written before anything else is read or written. Until then it may
    wait in memory, since there may be thousands of notes a second; not for long, while more come.
    Notes for the same writer are written together, in their order.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._lock = threading.RLock()
        self._notes: dict[Callable[[sqlite3.Connection, list[Any]], None], list[Any]] = {}
        self._noted = 0
        self._noted_at = 0.0
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
            self._write_notes()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def note(self, write: Callable[[sqlite3.Connection, list[Note]], None], note: Note) -> None:
        """Have something written soon, by a function that takes all such notes at once."""
        with self._lock:
            now = time.monotonic()
            if not self._notes:
                self._noted_at = now
            self._notes.setdefault(write, []).append(note)
            self._noted += 1
            if self._noted < MOST_NOTES and now - self._noted_at < LONGEST_NOTE_SECONDS:
                return
            self._write_notes()

    def _write_notes(self) -> None:
        if not self._notes or self._connection.in_transaction:
            return
        notes, self._notes, self._noted = self._notes, {}, 0
        self._connection.execute("BEGIN IMMEDIATE")
        for write, noted in notes.items():
            write(self._connection, noted)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        with self._lock:
            self._write_notes()
            self._connection.close()
