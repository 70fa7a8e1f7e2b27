"""The journal of real-time calls: each answer is in a file before it counts as done.

Lines have the shape of a batch's result lines, so that both are collected by the same code. A line
is a zstd frame of its own: what a killed process leaves is whole but for the last frame.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import zstandard

from batch_pipeline.state.durable import flush, make_folder
from batch_pipeline.state.files import Files


class Journal:
    """Appends lines of one holder of a submission; safe to use from several threads."""

    def __init__(self, files: Files, folder: str, name: str, checkpoint_every: int) -> None:
        self._files = files
        self._path = f"{folder}/{name}.jsonl.zst"
        self._every = checkpoint_every
        self._pending = 0
        self._lock = threading.Lock()
        self._compressor = zstandard.ZstdCompressor(level=3)
        self._local = files.staged() if files.is_remote else None
        self._file: io.FileIO | None = None

    def __enter__(self) -> Self:
        if self._local is not None:
            path = self._local.__enter__()
        else:
            path = Path(self._files.uri(self._path))
            make_folder(path.parent)
        self._staged = path
        self._file = path.open("ab", buffering=0)
        if self._local is None:
            flush(path.parent)
        return self

    def append(self, line: bytes) -> None:
        with self._lock:
            assert self._file is not None
            # A compressor is not to be used by two threads at once.
            self._file.write(self._compressor.compress(line + b"\n"))
            self._pending += 1
            if self._pending >= self._every:
                self._checkpoint()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._file is not None
        with self._lock:
            self._checkpoint()
            self._file.close()
        if self._local is not None:
            self._local.__exit__(kind, error, traceback)

    def _checkpoint(self) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())
        self._pending = 0
        if self._local is not None:
            self._files.publish(self._staged, self._path)


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
