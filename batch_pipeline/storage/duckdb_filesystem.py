"""The filesystem of a remote home as DuckDB is to see it: few requests, and threads apart.

For each look at a file DuckDB asks whether it is there, how long it is and since when it is there;
it opens a file several times a query. Each of these would be a request. And its threads share an
open file, which they move and read without a lock: one would get the bytes of the other's place.
"""

from __future__ import annotations

import io
import threading
from datetime import UTC, datetime
from glob import has_magic
from typing import Any

from fsspec import AbstractFileSystem

from batch_pipeline.storage.patient_filesystem import PatientFile, PatientFileSystem

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


class ColumnReads(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store for one database of DuckDB: a file stays what it was at the first look at it.

    Of one that is replaced meanwhile, reads of S3 raise an error, since they name its version.
    """

    cachable = False

    def __init__(self, store: PatientFileSystem) -> None:
        super().__init__()
        self.protocol = store.protocol
        self._store = store
        self._files: dict[str, PatientFile] = {}

    def open(self, path: str, mode: str = "rb", **_options: Any) -> Any:
        if mode != "rb":
            raise NotImplementedError("files of a home are put there whole")
        return ColumnFile(self._file(path))

    def glob(self, path: str, **_options: Any) -> Any:
        if has_magic(path):
            return self._store.glob(path)
        return [path] if self.exists(path) else []

    def exists(self, path: str, **_options: Any) -> bool:
        try:
            self._file(path)
        except FileNotFoundError:
            return False
        return True

    def info(self, path: str, **_options: Any) -> Any:
        return {"name": path, "type": "file", "size": self._file(path).size}

    def modified(self, _path: str) -> datetime:
        # DuckDB keeps what it has read, in its memory, of files that are older than ten seconds.
        return LONG_AGO

    def _file(self, path: str) -> PatientFile:
        if path not in self._files:
            # DuckDB says which bytes it is to read next; s3fs would add 50 MB to each read.
            self._files[path] = self._store.open(path, cache_type="none")
        return self._files[path]


class ColumnFile(io.RawIOBase):
    """An open file in which each thread has a place of its own."""

    def __init__(self, file: PatientFile) -> None:
        super().__init__()
        self._file, self._of_thread = file, threading.local()

    def read(self, size: int | None = -1) -> bytes:
        place = self.tell()
        data = self._file.read_at(place, -1 if size is None else size)
        self._of_thread.place = place + len(data)
        return data

    def readall(self) -> bytes:
        return self.read()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._file.size}[whence]
        self._of_thread.place = start + offset
        return start + offset

    def tell(self) -> int:
        return int(getattr(self._of_thread, "place", 0))
