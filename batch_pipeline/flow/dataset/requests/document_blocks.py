"""The content of a turn: a text, or blocks of texts and documents in the template's order.

Belongs here: the wire form of documents, what a fingerprint has in place of their bytes, and
streaming them in base64. Fingerprints and the bytes of bodies depend on it: the order of keys is
fixed.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from batch_pipeline.flow.dataset.documents.reference import Document, Opener
from batch_pipeline.flow.dataset.requests import cache_marks
from batch_pipeline.jobs.prompts.template import Slot, Template, is_blank
from batch_pipeline.pricing.documents import Visual, base64_bytes
from batch_pipeline.pricing.tokens import Lifetime

if TYPE_CHECKING:
    from batch_pipeline.flow.dataset.requests.declaration import Declaration

# A piece of a request, and the bytes of a document that become one: a multiple of 3, so that base64
# needs no filling before the end.
PIECE_BYTES = 256 << 10
_RAW_BYTES = PIECE_BYTES // 4 * 3
# The API takes no longer titles.
MOST_TITLE = 500


def visual_of(document: Document) -> Visual:
    """What the model looks at of a document; nothing of what is sent as text."""
    if document.as_text:
        return Visual()
    return Visual(
        document.pages_sent, document.width or 0, document.height or 0, document.bytes_sent
    )


@dataclass(frozen=True)
class Data:
    """Stands in a request for what comes out of a document: its bytes in base64, or its text as
    JSON (without quotes)."""

    document: Document
    text: bytes | None = None

    @property
    def size(self) -> int:
        """Its bytes in the request."""
        return self.base64_bytes if self.text is None else len(self.text)

    @property
    def base64_bytes(self) -> int:
        return base64_bytes(self.document.bytes_sent) if self.text is None else 0

    @property
    def known_by(self) -> bytes:
        """What the fingerprint has in its place. Quotes without a backslash are in no JSON text,
        so that no text can be mistaken for it."""
        document = self.document
        return orjson.dumps(
            {
                "sha256": document.sha256,
                "media_type": document.media_type,
                "pages": document.sent_pages,
                "as": "native" if self.text is None else "text",
                "extractor": document.extractor,
            }
        )

    def chunks(self, opener: Opener | None) -> Iterator[bytes]:
        if self.text is not None:
            yield self.text
            return
        assert opener is not None, "a request with documents needs an opener"
        left = b""
        for chunk in opener.open(self.document):
            data = left + chunk
            whole = len(data) - len(data) % 3
            for at in range(0, whole, _RAW_BYTES):
                yield binascii.b2a_base64(data[at : min(at + _RAW_BYTES, whole)], newline=False)
            left = data[whole:]
        yield binascii.b2a_base64(left, newline=False)


Segment = bytes | Data


def in_pieces(segments: Iterable[Segment], opener: Opener | None) -> Iterator[bytes]:
    """The bytes of a request in pieces of at most `PIECE_BYTES`."""
    pieces: list[bytes] = []
    size = 0
    for segment in segments:
        for chunk in segment.chunks(opener) if isinstance(segment, Data) else (segment,):
            if size + len(chunk) > PIECE_BYTES:
                yield b"".join(pieces)
                pieces, size = [], 0
            if len(chunk) > PIECE_BYTES:
                for at in range(0, len(chunk), PIECE_BYTES):
                    yield chunk[at : at + PIECE_BYTES]
            else:
                pieces.append(chunk)
                size += len(chunk)
    if size:
        yield b"".join(pieces)


@dataclass
class _Text:
    """A text between documents, in parts as JSON without quotes."""

    parts: list[Segment] = field(default_factory=list)
    is_blank: bool = True

    def add(self, text: str, document: Document | None = None) -> None:
        raw = orjson.dumps(text)[1:-1]
        self.parts.append(raw if document is None else Data(document, raw))
        self.is_blank = self.is_blank and is_blank(text)


@dataclass(frozen=True)
class Blocks:
    """Makes the content of turns, with what a declaration says of all documents."""

    citations: bool
    titles: Mapping[str, Template]

    @classmethod
    def of(cls, declaration: Declaration) -> Blocks:
        declared = declaration.documents or {}
        titles = {name: Template.parse(text) for name, text in declared.get("titles", {}).items()}
        return cls(declared.get("citations", False), titles)

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """The columns that titles are made of, each with the key of the declaration."""
        return tuple(
            (name, f"prompt.titles.{column}")
            for column, template in self.titles.items()
            for name in template.columns
        )

    def content(
        self,
        template: Template,
        values: Mapping[str, str],
        documents: Mapping[str, Document],
        lifetime: Lifetime | None = None,
    ) -> Iterator[Segment]:
        """The content of one turn; with a `lifetime` it carries a cache mark after the text before
        its first placeholder, or at its end where it has none.

        Texts between documents that show nothing are left out, since the API takes no block without
        a text; so is a mark with nothing but blanks after it.
        """
        parts = _parts(template, values, documents, is_cut=lifetime is not None)
        shown = [part for part in parts if isinstance(part, str) or not part.is_blank]
        texts = [part for part in parts if isinstance(part, _Text)]
        if len(texts) == len(parts) and (lifetime is None or len(shown) < len(parts)):
            yield b'"'
            for text in texts:
                yield from text.parts
            yield b'"'
            return
        for number, part in enumerate(shown):
            yield b"," if number else b"["
            if isinstance(part, str):
                yield from self._block(part, documents[part], values)
                continue
            yield b'{"type":"text","text":"'
            yield from part.parts
            yield b'"'
            if lifetime is not None and not number:
                yield b',"cache_control":' + orjson.dumps(cache_marks.control(lifetime))
            yield b"}"
        yield b"]"

    def _block(
        self, column: str, document: Document, values: Mapping[str, str]
    ) -> Iterator[Segment]:
        kind = "image" if document.media_type.startswith("image/") else "document"
        if document.as_text:
            text = document.text
            if text is None:
                text = values[document.text_column or ""]
            source, data = ("text", "text/plain"), Data(document, orjson.dumps(text)[1:-1])
        else:
            source, data = ("base64", document.media_type), Data(document)
        yield b'{"type":"%s","source":{"type":"%s","media_type":%s,"data":"' % (
            kind.encode(),
            source[0].encode(),
            orjson.dumps(source[1]),
        )
        yield data
        yield b'"}'
        if kind == "document":
            title = self._title(column, values)
            if title:
                yield b',"title":' + orjson.dumps(title)
            if self.citations:
                yield b',"citations":{"enabled":true}'
        yield b"}"

    def _title(self, column: str, values: Mapping[str, str]) -> str:
        template = self.titles.get(column)
        title = "" if template is None else template.render(values)
        return "" if is_blank(title) else title[:MOST_TITLE]


def _parts(
    template: Template,
    values: Mapping[str, str],
    documents: Mapping[str, Document],
    *,
    is_cut: bool,
) -> list[_Text | str]:
    """Texts, and the columns of documents, in turn; where `is_cut`, what comes after the first
    literal is a text of its own."""
    extracted = {each.text_column: each for each in documents.values() if each.as_text}
    first, *others = template.literals
    text = _Text()
    text.add(first)
    parts: list[_Text | str] = [text]
    if is_cut and others:
        text = _Text()
        parts.append(text)
    for name, literal in zip(template.slots, others, strict=True):
        if name in values:
            text.add(values[name], extracted.get(name))
        else:
            text = _Text()
            parts += (Slot.of(name).column, text)
        text.add(literal)
    return parts
