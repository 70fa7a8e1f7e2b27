"""A row's request as people see it: the parameters, with what base64 stands for in its place.

Nothing of a document is opened for it: the request is made with a document's SHA-256 in place of
its bytes, and that is replaced by what the snapshot knows of the document.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from batch_pipeline.flow.dataset.documents.reference import Document, of_cell
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.flow.dataset.snapshot import Input

SHA_CHARACTERS = 8


class _Hashes:
    """Opens a document as its SHA-256."""

    def open(self, document: Document) -> Iterator[bytes]:
        yield document.sha256.encode()


def of_row(builder: RequestBuilder, row: Input) -> dict[str, Any]:
    """The Messages parameters of a row that can be sent, with documents in words."""
    rebuilt = builder.rebuild(row.text, row.places, None, _Hashes())
    params: dict[str, Any] = orjson.loads(rebuilt)
    found = documents_of(row.text).values()
    shown: dict[str, Any] = elided(params, {each.sha256: each for each in found})
    return shown


def documents_of(row: bytes) -> dict[str, Document]:
    """The documents of a snapshot's row, by column."""
    cells = orjson.loads(row)
    found = {name: of_cell(cell) for name, cell in cells.items()}
    return {name: document for name, document in found.items() if document is not None}


def elided(params: dict[str, Any], documents: Mapping[str, Document] | None = None) -> Any:
    """Parameters with the data of base64 sources replaced by words: `<application/pdf, 12 pages,
    1,234,567 bytes, sha256 ab12cd34…>`. `documents` are by SHA-256, where the data are that."""

    def of(value: Any) -> Any:
        if isinstance(value, list):
            return [of(each) for each in value]
        if not isinstance(value, dict):
            return value
        if value.get("type") == "base64" and isinstance(value.get("data"), str):
            return {**value, "data": _in_words(value, documents or {})}
        return {key: of(each) for key, each in value.items()}

    return of(params)


def _in_words(source: Mapping[str, Any], documents: Mapping[str, Document]) -> str:
    data = source["data"]
    try:
        key = base64.b64decode(data[:128], validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        key = ""
    document = documents.get(key)
    if document is None:
        return f"<{source.get('media_type', 'data')}, {len(data):,} characters of base64>"
    return f"<{described(document)}, sha256 {document.sha256[:SHA_CHARACTERS]}…>"


def described(document: Document) -> str:
    """What a document is, and what of it is sent: `application/pdf, 12 pages, 1,234,567 bytes`."""
    parts = [document.media_type]
    if document.pages is not None:
        pages = f"{document.pages:,} page{'s' if document.pages != 1 else ''}"
        parts.append(f"pages {document.sent_pages} of {pages}" if document.sent_pages else pages)
    if document.width is not None and document.height is not None:
        parts.append(f"{document.width:,} by {document.height:,} pixels")
    parts.append(f"{document.size:,} bytes")
    if document.as_text:
        parts.append("sent as text")
    return ", ".join(parts)
