"""The simulator's durable state: one SQLite file, shared by the batch store and the books.

A batch and its entries in the books are written in one transaction, so that the books of a killed
simulator agree with its batches. Only the schema and the rules of access belong here.
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

# Notes wait in memory until there are this many, or until the first is this old.
MOST_NOTES = 500
LONGEST_NOTE_SECONDS = 0.25
# Another simulator that is ending keeps the file for a moment.
_LOCK_SECONDS = 1.0


class StateInUseError(Exception):
    """Another simulator uses the state folder."""


class Database:
    """One connection, used by one thread at a time; no other process can open the file meanwhile.

    Two simulators on one folder would each miss the batches of the other and remove its files.
    Notes (`note`) are written together, in their order, before anything else is read or written:
    thousands of messages a second cannot have a transaction each.

    Errors: `StateInUseError`.
    """

    def __init__(self, path: Path) -> None:
        # The requests in it are other people's documents; SQLite's own files get the same mode.
        path.touch(mode=0o600)
        self._connection = sqlite3.connect(
            path, timeout=_LOCK_SECONDS, check_same_thread=False, isolation_level=None
        )
        self._lock = threading.RLock()
        self._notes: dict[Callable[[sqlite3.Connection, list[Any]], None], list[Any]] = {}
        self._noted = 0
        self._noted_at = 0.0
        try:
            # A killed process loses nothing without fsync; only a power cut would.
            self._connection.execute("PRAGMA synchronous=OFF")
            self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:
            self._connection.close()
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise StateInUseError(path.parent) from error
            raise

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
        """Call `write` soon, with the notes that were collected for it until then."""
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
