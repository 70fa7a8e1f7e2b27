"""The journal of real-time calls: each answer is in a file before it counts as done.

Lines have the shape of a batch's result lines, so that both are collected by the same code. Those
that are appended at once are a zstd frame: what a killed process leaves is whole but for the last
one. On a home that is not a local folder the lines since the last checkpoint are on the machine
alone; each checkpoint publishes them as a file of their own.
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

from batch_pipeline.storage.durable import flush, make_folder
from batch_pipeline.storage.files import Files

# A line is small and there are many: more effort costs the speed of the calls and saves little.
LEVEL = 1


@dataclass(frozen=True)
class _Part:
    """A file that lines are appended to; `staging` is what keeps it until it is published."""

    number: int
    path: Path
    file: io.FileIO
    staging: AbstractContextManager[Path] | None = None

    def write(self, frame: bytes) -> None:
        written = self.file.write(frame)
        if written < len(frame):
            # What is appended to half a frame would not be found again.
            os.ftruncate(self.file.fileno(), os.fstat(self.file.fileno()).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))


class Journal:
    """Appends lines of one holder of a submission; safe to use from several threads."""

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
        """Once this returns, they outlive the process; `checkpoint` makes them outlive more."""
        with self._lock:
            assert self._part is not None
            # A compressor is not to be used by two threads at once.
            frame = self._compressor.compress(b"".join(b"%b\n" % line for line in lines))
            self._part.write(frame)
            self._unsaved += len(lines)

    def checkpoint(self) -> None:
        """Make what was appended so far durable; others may go on appending meanwhile."""
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
        path = Path(self._files.uri(f"{self._folder}/{self._name}.jsonl.zst"))
        make_folder(path.parent)
        file = path.open("ab", buffering=0)
        flush(path.parent)
        return _Part(number, path, file)

    def _publish(self, part: _Part) -> None:
        part.file.close()
        if part.path.stat().st_size:
            name = f"{self._name}-{part.number:05d}.jsonl.zst"
            self._files.publish(part.path, f"{self._folder}/{name}")
        assert part.staging is not None
        part.staging.__exit__(None, None, None)


def read_lines(files: Files, folder: str, token: str) -> Iterator[bytes]:
    """The whole lines of a submission's journals, of all its holders; a cut last frame is left."""
    for path in files.list(folder, ".jsonl.zst"):
        if not path.rsplit("/", 1)[-1].startswith(f"{token}-"):
            continue
        with files.open(path) as file:
            reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            rest = b""
            try:
                while chunk := reader.read(1 << 20):
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from filter(None, lines)
            except zstandard.ZstdError:
                continue
