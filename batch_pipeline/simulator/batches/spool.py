"""The files of batches: a line for each request or result, so that none is held in memory whole.

A request line is `custom_id TAB content digest (hex) TAB params as JSON`; a result line is that of
the API.
"""

from __future__ import annotations

import mmap
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from batch_pipeline.simulator.books.content_digest import content_digest
from batch_pipeline.simulator.checking.checks import check_batch, check_entry
from batch_pipeline.simulator.wire import (
    MAX_BYTES_PER_BATCH,
    MAX_REQUESTS_PER_BATCH,
    ApiError,
    invalid_request,
)

_BUFFER_BYTES = 1 << 20
# The usual form of a body: without white space, with the custom id first in each request.
_BODY_START, _ENTRY_START, _BODY_END = b'{"requests":[', b'{"custom_id":"', b"]}"


class Spool:
    """The files of all batches in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def requests(self, batch_id: str) -> Path:
        return self._folder / f"{batch_id}.requests"

    def results(self, batch_id: str) -> Path:
        return self._folder / f"{batch_id}.results"

    def remove(self, batch_id: str) -> None:
        self.requests(batch_id).unlink(missing_ok=True)
        self.results(batch_id).unlink(missing_ok=True)

    def keep_only(self, batch_ids: set[str]) -> None:
        """Remove other files: those of deleted batches, bodies that never became a batch."""
        for path in self._folder.iterdir():
            if path.suffix not in (".requests", ".results") or path.stem not in batch_ids:
                path.unlink()

    async def receive(self, chunks: AsyncIterator[bytes]) -> Path:
        """Write a body to a file; the file of an incomplete or too large body is removed.

        Writes go to the page cache, so that they need no thread. A body that is too large is read
        to its end: most clients read the answer only after they have sent everything.
        """
        path = self._folder / f"{uuid.uuid4().hex}.incoming"
        size = 0
        try:
            with path.open("wb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size <= MAX_BYTES_PER_BATCH:
                        file.write(chunk)
            if size > MAX_BYTES_PER_BATCH:
                raise ApiError(
                    413, "request_too_large", "Request exceeds the maximum allowed number of bytes."
                )
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def unpack(self, incoming: Path, batch_id: str) -> list[bytes]:
        """Check a received body and write its request lines; returns the content digests in order.

        Removes `incoming` in any case. Errors: `ApiError` for what `check_batch` refuses.
        """
        try:
            try:
                return self.write_requests(batch_id, map(_packed, _one_by_one(incoming)))
            except (_NotPlainError, ApiError):
                # Parsed as a whole, it shows which request is wrong, or that it is valid.
                entries = check_batch(_parse(incoming))
                return self.write_requests(batch_id, map(_packed, entries))
        except BaseException:
            self.remove(batch_id)
            raise
        finally:
            incoming.unlink()

    def write_requests(
        self, batch_id: str, entries: Iterable[tuple[str, bytes, bytes]]
    ) -> list[bytes]:
        """Write (custom_id, content digest, params as JSON) lines; returns the digests in order."""
        digests: list[bytes] = []
        with self.requests(batch_id).open("wb", buffering=_BUFFER_BYTES) as file:
            for custom_id, digest, params in entries:
                digests.append(digest)
                file.write(b"%b\t%b\t%b\n" % (custom_id.encode(), digest.hex().encode(), params))
        return digests


class _NotPlainError(Exception):
    """A body that has not the usual form, and must be parsed as a whole."""


def _one_by_one(path: Path) -> Iterator[dict[str, Any]]:
    """The checked requests of a body in the usual form, one at a time.

    The body is split at `,{"custom_id":"`. Its quotes are not escaped, so that no text contains
    it; if a nested object does, the pieces are not valid JSON. Errors: `_NotPlainError`.
    """
    seen: set[str] = set()
    for position, piece in enumerate(_pieces(path)):
        try:
            entry = orjson.loads(piece)
        except orjson.JSONDecodeError:
            raise _NotPlainError from None
        if position >= MAX_REQUESTS_PER_BATCH:
            raise _NotPlainError
        check_entry(position, entry, seen)
        yield entry


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        rest = file.read(len(_BODY_START) + len(_ENTRY_START))
        if rest != _BODY_START + _ENTRY_START:
            raise _NotPlainError
        rest = _ENTRY_START
        # A request that is as long as several reads is not joined and searched for each of them.
        while chunk := file.read(max(_BUFFER_BYTES, len(rest))):
            first, *others = (rest + chunk).split(b"," + _ENTRY_START)
            if others:
                yield first
                yield from (_ENTRY_START + piece for piece in others[:-1])
                rest = _ENTRY_START + others[-1]
            else:
                rest = first
    if not rest.endswith(_BODY_END):
        raise _NotPlainError
    yield rest.removesuffix(_BODY_END)


def _packed(entry: dict[str, Any]) -> tuple[str, bytes, bytes]:
    params = entry["params"]
    return entry["custom_id"], content_digest(params), orjson.dumps(params)


def _parse(path: Path) -> Any:
    if path.stat().st_size == 0:
        raise invalid_request("The request body is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body:
        view = memoryview(body)
        try:
            return orjson.loads(view)
        except orjson.JSONDecodeError as error:
            raise invalid_request(f"The request body is not valid JSON: {error}") from None
        finally:
            view.release()


def request_lines(path: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """(custom_id, content digest, params as JSON) of every request, in the order of the body."""
    with path.open("rb", buffering=_BUFFER_BYTES) as file:
        for line in file:
            custom_id, digest, params = line.split(b"\t", 2)
            yield custom_id.decode(), bytes.fromhex(digest.decode()), params


def chunks_of(file: BinaryIO) -> Iterator[bytes]:
    """The rest of a file in pieces of about 1 MB; closes it."""
    with file:
        while chunk := file.read(_BUFFER_BYTES):
            yield chunk
