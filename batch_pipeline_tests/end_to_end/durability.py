"""What a power cut would leave of a home, watched at every commit of the ledger.

A file survives if it was flushed after its last change and its folder after it got its name; a file
that was removed stays away if its folder was flushed since. SQLite sees to its own files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection

from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.storage.files import STAGING

# Of a file: when it was changed last, and its size. Of a folder: its names.
Flushed = tuple[int, int] | frozenset[str]


class Durability:
    """From now on each `fsync` of this process is noted, and each commit compared with them."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._home = home
        self._flushed: dict[int, Flushed] = {}
        self.commits = 0
        self.files_checked = 0
        self.lost: set[str] = set()
        honest_fsync, honest_write = os.fsync, Ledger.write

        def fsync(descriptor: int) -> None:
            honest_fsync(descriptor)
            state = os.fstat(descriptor)
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            self._flushed[state.st_ino] = _names(path) if path.is_dir() else _content(state)

        @contextmanager
        def write(ledger: Ledger) -> Iterator[Connection]:
            with honest_write(ledger) as connection:
                yield connection
                self._compare(connection)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Ledger, "write", write)

    def _compare(self, connection: Connection) -> None:
        self.commits += 1
        calling = [
            submission.token for submission in submissions.find(connection, states=[State.CALLING])
        ]
        above = self._names_of(self._home.parent)
        self.lost |= {str(self._home)} - {str(self._home.parent / name) for name in above}
        for folder, folders, files in os.walk(self._home):
            here = Path(folder)
            folders[:] = [name for name in folders if name != STAGING]
            # The ledger speaks of a journal once all is answered, and not of itself.
            others = ("ledger.sqlite", *calling)
            mine = [name for name in files if not name.startswith(others)]
            names = self._names_of(here)
            there = {*files, *folders, STAGING}
            self.lost |= {f"{here / name}: its name" for name in {*mine, *folders} - names}
            self.lost |= {f"{here / name}: comes back" for name in names - there}
            for name in mine:
                state = (here / name).stat()
                self.files_checked += 1
                if self._flushed.get(state.st_ino) != _content(state):
                    self.lost.add(f"{here / name}: its content")

    def _names_of(self, folder: Path) -> frozenset[str]:
        names = self._flushed.get(folder.stat().st_ino, frozenset())
        assert isinstance(names, frozenset)
        return names


def _content(state: os.stat_result) -> Flushed:
    return state.st_mtime_ns, state.st_size


def _names(folder: Path) -> Flushed:
    return frozenset(path.name for path in folder.iterdir())
