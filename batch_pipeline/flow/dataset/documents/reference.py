"""What a snapshot holds of a document in place of its bytes: where it is, and what it is.

A cell of a row that is a document is `{"$document": {...}}`, here called a mark. Rows, results and
dead letters hold marks, never bytes. Marks are made by the pipeline alone: a cell that a user's
file holds in this form is not taken for one (see `resolve`), since it could name any file of the
machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol

MARK = "$document"
# The version of what is taken out of a document (`extract_*`), as fingerprints have it. Raising it
# buys the answers of all documents that are sent as text, or in part, again; a newer version of a
# library does not. See decision 049.
EXTRACTION = "1"


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document of a row.

    `path` is what the user gave: a path, a URL, or a name for bytes. `name` and `store` open it, as
    in `SourceFile`; where it is `stored`, it is read from the home's folder of documents, under its
    SHA-256. `size` in bytes and `sha256` (hex) are those of the whole source.

    `pages` are those of the whole PDF, `text_bytes` the bytes of its text, measured or reckoned
    from a few pages; `width` and `height` are an image's in pixels. A part of a PDF, the pages
    `sent_pages` ("1-20"), is a file of its own, stored under `sent_sha256`, of `sent_size` bytes
    and `sent_count` pages.

    What is sent as text has an `extractor` (kind and version), and its text in `text`, or in
    another column of the row, `text_column`.
    """

    path: str
    size: int
    sha256: str
    media_type: str
    name: str | None = None
    store: str | None = None
    stored: bool = False
    pages: int | None = None
    width: int | None = None
    height: int | None = None
    text_bytes: int | None = None
    sent_pages: str | None = None
    sent_sha256: str | None = None
    sent_size: int | None = None
    sent_count: int | None = None
    extractor: str | None = None
    text: str | None = None
    text_column: str | None = None

    @property
    def as_text(self) -> bool:
        """Whether its text goes into the request, not its bytes."""
        return self.extractor is not None

    @property
    def bytes_sent(self) -> int:
        """Bytes that go into the request, before base64; 0 for what is sent as text."""
        if self.as_text:
            return 0
        return self.size if self.sent_size is None else self.sent_size

    @property
    def pages_sent(self) -> int:
        """Pages that go into the request as pages."""
        if self.as_text:
            return 0
        return (self.pages if self.sent_count is None else self.sent_count) or 0

    def as_cell(self) -> dict[str, dict[str, Any]]:
        """The mark: keys sorted, those without a value left out."""
        values = {name: getattr(self, name) for name in _NAMES}
        return {MARK: {name: each for name, each in values.items() if each not in (None, False)}}


_NAMES = sorted(field.name for field in fields(Document))


def is_mark(cell: object) -> bool:
    """Whether a cell of a row that was read back from a snapshot is a document."""
    return isinstance(cell, dict) and len(cell) == 1 and MARK in cell


def of_cell(cell: object) -> Document | None:
    """The document of a snapshot's cell; None for any other cell."""
    if not isinstance(cell, dict) or not is_mark(cell):
        return None
    return Document(**cell[MARK])


class DocumentChangedError(Exception):
    """The bytes of a document are not those that the snapshot knows, or cannot be read any more.

    Internal: what is to be sent is given up before its last byte, and the row is set aside.
    """

    def __init__(self, document: Document, why: str) -> None:
        super().__init__(why)
        self.document = document


class Opener(Protocol):
    """Opens documents for sending."""

    def open(self, document: Document) -> Iterator[bytes]:
        """The bytes that are sent of a document, in pieces of at most 1 MiB.

        Raises `DocumentChangedError` before the last piece where their size or SHA-256 is another
        than the snapshot's.
        """
        ...
