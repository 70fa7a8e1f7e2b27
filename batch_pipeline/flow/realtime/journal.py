"""The journal of real-time calls: each answer is in a file before it counts as done.

Lines have the form of batch result lines, so that the same code collects both. Each append writes
one zstd frame; after a kill all frames but the last one are whole. If the home is not a local
folder, lines are appended to a local file, which each checkpoint publishes as a file in the home;
lines since the last checkpoint are lost with the machine.
"""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import zstandard

from batch_pipeline.storage.files import Files

# The lowest level: higher ones slow the calls down and save little on small frames.
LEVEL = 1


@dataclass(frozen=True)
class _Part:
    """An open file of the journal; `staging` is its local folder where the home is remote."""

    number: int
    path: Path
    file: io.FileIO
    staging: AbstractContextManager[Path] | None = None

    def write(self, frame: bytes) -> None:
        written = self.file.write(frame)
        if written < len(frame):
            # Frames that follow half a frame could not be read.
            os.ftruncate(self.file.fileno(), os.fstat(self.file.fileno()).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))


class Journal:
    """Appends the lines of one process that holds a submission; safe for several threads."""

    def __init__(self, files: Files, folder: str, name: str) -> None:
        self._files = files
        self._folder, self._name = folder, name
        self._lock = threading.Lock()
        self._compressor = zstandard.ZstdCompressor(level=LEVEL)
        self._part: _Part | None = None
        self._unsaved = 0

    def __enter__(self) -> Self:
        self._part = self._open_part(0)
        return self

    def append(self, lines: Sequence[bytes]) -> None:
        """Write lines so that they outlive this process, though not yet a power cut."""
        with self._lock:
            assert self._part is not None
            # Under the lock: a compressor must not be used by two threads at once.
            frame = self._compressor.compress(b"".join(b"%b\n" % line for line in lines))
            self._part.write(frame)
            self._unsaved += len(lines)

    def checkpoint(self) -> None:
        """Make all appended lines durable; other threads may append meanwhile."""
        with self._lock:
            unsaved, self._unsaved = self._unsaved, 0
            part = self._part
            assert part is not None
            if unsaved and self._files.is_remote:
                self._part = self._open_part(part.number + 1)
        if unsaved and self._files.is_remote:
            self._publish(part)
        elif unsaved:
            os.fsync(part.file.fileno())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        part = self._part
        assert part is not None
        if self._files.is_remote:
            self._publish(part)
            return
        os.fsync(part.file.fileno())
        part.file.close()

    def _open_part(self, number: int) -> _Part:
        if self._files.is_remote:
            staging = self._files.staged()
            path = staging.__enter__()
            return _Part(number, path, path.open("ab", buffering=0), staging)
        path = self._files.make_file(f"{self._folder}/{self._name}.jsonl.zst")
        return _Part(number, path, path.open("ab", buffering=0))

    def _publish(self, part: _Part) -> None:
        part.file.close()
        if part.path.stat().st_size:
            name = f"{self._name}-{part.number:05d}.jsonl.zst"
            self._files.publish(part.path, f"{self._folder}/{name}")
        assert part.staging is not None
        part.staging.__exit__(None, None, None)


def read_lines(files: Files, folder: str, token: str) -> Iterator[bytes]:
    """All lines of a submission's journals, one for each process that held it.

    Stops at a frame that a killed process left cut.
    """
    for path in files.list(folder, ".jsonl.zst"):
        if not path.rsplit("/", 1)[-1].startswith(f"{token}-"):
            continue
        rest = b""
        try:
            for block in files.decompressed(path):
                *lines, rest = (rest + block).split(b"\n")
                yield from filter(None, lines)
        except zstandard.ZstdError:
            continue
