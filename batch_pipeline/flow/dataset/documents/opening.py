"""Opens the documents of a snapshot for sending, and notices where one has changed.

A document is read where it is, or where the home keeps it. Its hash is taken on the way: the last
piece is given out only if the whole is what the snapshot knows, so that a request with another
document is never complete.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, cast

from batch_pipeline.flow.dataset.documents.reference import Document, DocumentChangedError
from batch_pipeline.flow.dataset.documents.store import DocumentStore
from batch_pipeline.flow.dataset.reading.streams import GONE, open_named
from batch_pipeline.storage.files import Files

# A multiple of 3: the base64 of pieces, put together, is that of the whole. 256 KiB of it.
PIECE_BYTES = 196_608
_SHOWN = 4


class DocumentOpener:
    """Opens documents of one job (`reference.Opener`)."""

    def __init__(self, files: Files, job: str) -> None:
        self._store = DocumentStore(files, job)

    def open(self, document: Document) -> Iterator[bytes]:
        """The bytes that are sent of a document: pieces of `PIECE_BYTES` and a last one.

        Raises DocumentChangedError, before the last piece, where the document is gone or has
        another content, and OSError where it cannot be read for now.
        """
        part = document.sent_sha256 is not None
        sha256 = document.sent_sha256 or document.sha256
        size = document.sent_size if part and document.sent_size is not None else document.size
        kept = sha256 if part or document.stored else None
        digest, read, last = hashlib.sha256(), 0, b""
        try:
            with self._stream(document, kept) as stream:
                while piece := _full(stream):
                    digest.update(piece)
                    read += len(piece)
                    if read > size:
                        raise DocumentChangedError(document, _grown(document, size))
                    if last:
                        yield last
                    last = piece
        except GONE as error:
            raise DocumentChangedError(document, _gone(document, kept, error)) from error
        if digest.hexdigest() != sha256:
            raise DocumentChangedError(document, _changed(document, sha256, digest.hexdigest()))
        yield last

    @contextmanager
    def _stream(self, document: Document, kept: str | None) -> Iterator[io.BufferedReader[Any]]:
        if kept is None:
            assert document.name is not None
            with open_named(document.name, document.store) as source:
                yield source
        else:
            with closing(self._store.open(kept)) as stored:
                yield cast("io.BufferedReader[Any]", stored)


def _full(stream: io.BufferedReader[Any]) -> bytes:
    """The next piece: a remote file may give less than it was asked for."""
    piece = stream.read(PIECE_BYTES)
    while 0 < len(piece) < PIECE_BYTES and (more := stream.read(PIECE_BYTES - len(piece))):
        piece += more
    return piece


_REDRIVE = "run dead-letter redrive to ask about it as it is now"


def _changed(document: Document, before: str, now: str) -> str:
    return (
        f"{document.path} has changed since the input was taken (sha256 {before[:_SHOWN]}… → "
        f"{now[:_SHOWN]}…); {_REDRIVE}"
    )


def _grown(document: Document, size: int) -> str:
    return (
        f"{document.path} has changed since the input was taken: it had {size:,} bytes and has "
        f"more; {_REDRIVE}"
    )


def _gone(document: Document, kept: str | None, error: OSError) -> str:
    why = error.strerror or type(error).__name__
    if kept is not None:
        return f"the home's copy of {document.path} ({kept}) cannot be read: {why}"
    return (
        f"{document.path} cannot be read since the input was taken: {why}; restore it, or once it "
        f"is there again {_REDRIVE}"
    )
