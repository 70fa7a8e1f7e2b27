"""Patience with an object store: what may pass is tried again, what is definite is raised at once.

A night lasts for hours, and a store is busy or unreachable for minutes of them, or its credentials
end. s3fs repeats a few times within seconds; this goes on for minutes. Everything that touches a
remote home goes through `PatientFileSystem`: the flow, Arrow and DuckDB alike. Each of its calls
may be repeated: names are written whole or not at all, and what was removed stays removed.
"""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from fnmatch import fnmatchcase
from glob import has_magic
from typing import Any, TypeVar, cast

import tenacity
from fsspec import AbstractFileSystem
from fsspec.config import conf
from fsspec.core import url_to_fs

from batch_pipeline.errors import StorageError
from batch_pipeline.safe_text import get_logger
from batch_pipeline.storage.passing_errors import credentials_ended, gives_no_reason, may_pass

T = TypeVar("T")

log = get_logger(__name__)

# As long as a store may fail before a run gives up; its next run goes on from there.
PATIENCE_SECONDS = 300.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
REMOVED_AT_ONCE = 8
# A HEAD request that is still refused after new credentials is refused for something else.
GUESSES = 3

# s3fs waits for 15 s, in which a file of some MB may not be through a slow line yet; and repeating
# is what `PatientFileSystem` does.
S3_CONFIG = {"read_timeout": 120, "retries": {"total_max_attempts": 1}}

# Until when the block in which this runs may wait, by the monotonic clock.
_until: ContextVar[float] = ContextVar("until", default=math.inf)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Let all calls of the block wait for this long together, where its caller waits no longer.

    Threads that are started in it have the usual patience.
    """
    token = _until.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _until.reset(token)


def opened(url: str, what: str, *, patient: bool = True) -> tuple[PatientFileSystem, str]:
    """The filesystem of a URL, and the path in it; `what` names it in messages. Unless it is
    `patient`, what fails is raised at once.

    It keeps no listings: one that is kept hides what other processes have written since. Raises
    ImportError and ValueError where it cannot be opened.
    """
    options: dict[str, Any] = {"use_listings_cache": False}
    outer, *chained = url.split("::")
    of_s3 = [link.startswith(("s3://", "s3a://")) for link in (outer, *chained)]
    if any(of_s3):
        told = conf.get("s3", {}).get("config_kwargs", {})
        of_store = {"use_listings_cache": False, "config_kwargs": {**S3_CONFIG, **told}}
        # In a chain (`zip://…::s3://…`) options are given by protocol.
        options = of_store if of_s3[0] else {"s3": of_store}
    elif chained:
        options = {}
    try:
        fs, path = url_to_fs(url, **options)
    except TypeError:
        # SFTP, which keeps none, hands all options to its connection.
        fs, path = url_to_fs(url)
    if of_s3[0]:
        fs.retries = 1
    return PatientFileSystem(fs, what, patient=patient), str(path)


class PatientFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A filesystem whose calls are repeated while the store fails in a way that may pass.

    Raises StorageError after `PATIENCE_SECONDS`; a definite error is raised as it came, and so is
    each error where it is not `patient`.
    """

    cachable = False

    def __init__(self, fs: Any, what: str, *, patient: bool = True) -> None:
        """`what` names the store in messages: "The home s3://…"."""
        super().__init__()
        self.protocol = fs.protocol
        self._fs, self._what, self._patient = fs, what, patient
        self._renewing = threading.Lock()
        self._renewed_at = 0.0

    def patiently(self, call: Callable[[], T]) -> T:
        """`call`, repeated where its error may pass."""
        if not self._patient:
            return call()
        guesses = 0
        renew = False
        began = asked_at = time.monotonic()

        def ask() -> T:
            nonlocal asked_at
            if renew:
                self._renew(asked_at)
            asked_at = time.monotonic()
            return call()

        def again(error: BaseException) -> bool:
            nonlocal guesses, renew
            unexplained = gives_no_reason(error)
            guesses += unexplained
            renew = credentials_ended(error) or (unexplained and guesses <= GUESSES)
            return renew or may_pass(error)

        def told(state: tenacity.RetryCallState) -> None:
            if state.attempt_number == 1 and state.outcome is not None:
                said = str(state.outcome.exception()).strip().partition("\n")[0]
                log.warning("%s fails, asked again for a while: %s", self._what, said)

        def gave_up(state: tenacity.RetryCallState) -> T:
            assert state.outcome is not None
            error = state.outcome.exception()
            raise StorageError(
                f"{self._what} has failed for {time.monotonic() - began:.0f} s "
                f"({str(error).strip().partition(chr(10))[0]}). Nothing is lost: run again once "
                "the store is in order, that goes on from here."
            ) from error

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(again),
            wait=tenacity.wait_random_exponential(
                multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS
            ),
            stop=tenacity.stop_after_delay(min(PATIENCE_SECONDS, max(0.0, _until.get() - began))),
            before_sleep=told,
            retry_error_callback=gave_up,
        )(ask)

    def _renew(self, since: float) -> None:
        """Let s3fs read its credentials again, unless another thread did since then.

        Other libraries renew theirs themselves.
        """
        connect = getattr(self._fs, "connect", None)
        with self._renewing:
            if connect is not None and self._renewed_at < since:
                connect(refresh=True)
                self._renewed_at = time.monotonic()

    # What the flow, Arrow and DuckDB call

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            raise NotImplementedError("files of a home are put there whole")
        return PatientFile(self, self.patiently(lambda: self._fs.open(path, mode, **options)))

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        self.patiently(lambda: self._fs.put_file(lpath, rpath, **options))

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        self.patiently(lambda: self._fs.cp_file(path1, path2, **options))

    @property
    def _has_folders(self) -> bool:
        """Whether files are in folders, which are made and removed, and are renamed."""
        return type(self._fs).mv is not AbstractFileSystem.mv

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        if self._has_folders:
            # With renaming there are folders, and the target's may be missing.
            self.makedirs(path2.rpartition("/")[0], exist_ok=True)
            self.patiently(lambda: self._fs.mv(path1, path2, **options))
            return
        # What fsspec does where there is no renaming, but each call repeated alone: a store that is
        # busy may never let all of them through in one go.
        self.cp_file(path1, path2, **options)
        self.rm(path1)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        if not recursive:
            self.patiently(lambda: self._fs.rm_file(path))
        elif self._has_folders:
            self.patiently(lambda: self._fs.rm(path, recursive=True, maxdepth=maxdepth))
        else:
            # Not `fs.rm`: s3fs says nothing of files that the store has refused to remove.
            with ThreadPoolExecutor(REMOVED_AT_ONCE) as pool:
                list(pool.map(self.rm, self.find(path, maxdepth)))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self.patiently(lambda: self._fs.makedirs(path, exist_ok=exist_ok))

    def exists(self, path: str, **options: Any) -> bool:
        # Not `fs.exists`: in s3fs it takes a refusal for "there is none".
        try:
            self.info(path, **options)
        except FileNotFoundError:
            return False
        return True

    def info(self, path: str, **options: Any) -> Any:
        return self.patiently(lambda: self._fs.info(path, **options))

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        return self.patiently(lambda: self._fs.ls(path, detail=detail, **options))

    def glob(self, path: str, **_options: Any) -> Any:
        # Not `fs.glob`: it takes a folder that it could not list for an empty one.
        names = [""]
        for part in self._fs._strip_protocol(path).split("/"):  # noqa: SLF001  # there is no other
            if has_magic(part):
                names = [
                    name
                    for folder in names
                    for name in self.entries(folder.removesuffix("/"))
                    if fnmatchcase(name.rpartition("/")[2], part)
                ]
            else:
                names = [f"{name}{part}" for name in names]
            names = [f"{name}/" for name in names]
        found = [name.removesuffix("/") for name in names]
        return found if has_magic(part) else [name for name in found if self.exists(name)]

    def entries(self, folder: str) -> list[str]:
        """The paths of all that is directly in a folder."""
        try:
            listed = self.patiently(lambda: self._fs.ls(folder, detail=False))
        except FileNotFoundError:
            return []
        names = [str(name).rstrip("/") for name in listed]
        return [name for name in names if name.rpartition("/")[0] == folder]

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **options: Any,
    ) -> Any:
        return self.patiently(
            lambda: self._fs.find(
                path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **options
            )
        )

    def du(
        self,
        path: str,
        total: bool = True,
        maxdepth: int | None = None,
        withdirs: bool = False,
        **options: Any,
    ) -> Any:
        found = self.find(path, maxdepth, withdirs, detail=True, **options)
        sizes = {name: info["size"] for name, info in found.items()}
        return sum(sizes.values()) if total else sizes

    def modified(self, path: str) -> Any:
        return self.patiently(lambda: self._fs.modified(path))

    def ukey(self, path: str) -> Any:
        return self.patiently(lambda: self._fs.ukey(path))

    def unstrip_protocol(self, name: str) -> str:
        return str(self._fs.unstrip_protocol(name))


class PatientFile(io.RawIOBase):
    """A file of a store, opened for reading, whose reads are repeated in the same way."""

    def __init__(self, fs: PatientFileSystem, file: Any) -> None:
        super().__init__()
        self._fs, self._file = fs, file
        self._lock = threading.Lock()

    def read_at(self, place: int, size: int) -> bytes:
        """Bytes from a place on; threads may read one file at the same time."""
        with self._lock:
            self.seek(place)
            return self.read(size)

    def read(self, size: int | None = -1) -> bytes:
        place = self._file.tell()

        def read() -> bytes:
            self._file.seek(place)
            return cast("bytes", self._file.read(-1 if size is None else size))

        return self._fs.patiently(read)

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return int(self._file.size)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
