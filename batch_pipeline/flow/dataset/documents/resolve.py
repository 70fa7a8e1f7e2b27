"""Looks at the documents that rows name, and puts marks of them into the rows.

Belongs here: what is done for a document of a row, in order, from its place to its mark. Everything
that a mark says is found out here: a cell of a user's row, or of another job's answer, that looks
like one is refused, since it could name any file of this machine.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from batch_pipeline.flow.concurrency import map_in_threads
from batch_pipeline.flow.dataset.documents import locate
from batch_pipeline.flow.dataset.documents.fetch import Fetcher
from batch_pipeline.flow.dataset.documents.inspection import content_kinds, inspection
from batch_pipeline.flow.dataset.documents.inspection.content_kinds import IMAGE, PDF, TEXT, Name
from batch_pipeline.flow.dataset.documents.inspection.inspect_types import Facts, Refused, Want
from batch_pipeline.flow.dataset.documents.locate import Place
from batch_pipeline.flow.dataset.documents.reference import EXTRACTION, MARK, Document, is_mark
from batch_pipeline.flow.dataset.documents.store import DocumentStore
from batch_pipeline.flow.dataset.reading.document_format import TEXT as TEXT_COLUMN
from batch_pipeline.flow.dataset.reading.row_json import (
    JsonRow,
    has_surrogate,
    with_cells,
    with_places,
)
from batch_pipeline.flow.dataset.reading.rows import Row
from batch_pipeline.flow.dataset.reading.streams import open_named
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.jobs.input.documents import Keep, PageRanges, written
from batch_pipeline.jobs.prompts.template import DOCUMENT
from batch_pipeline.pricing.documents import MAX_REQUEST_BYTES, base64_bytes
from batch_pipeline.storage.files import Files

# Of a source of which a part or its text is sent.
MAX_SOURCE_BYTES = 512 << 20
# What is sent whole: more has no room in a request once it is base64.
MAX_NATIVE_BYTES = MAX_REQUEST_BYTES // 4 * 3
MAX_TEXT_BYTES = MAX_REQUEST_BYTES
_BLOCK = 1 << 20
# URLs are fetched for this many rows at a time.
_FETCHED_AT_ONCE = 8
_AS_TEXT = "; input.pdf: {pages: …} sends a part, {as: text} the text"


@dataclass(frozen=True)
class DocumentInput:
    """What the processes that read rows need to know of documents; can be pickled.

    `root` is filled in. `from_copies`: rows are those of a copy, whose marks of bytes are the
    pipeline's own. Without `store_sources` the input is only checked, and what is fetched from URLs
    alone is kept. With `fetch_again` URLs are fetched though they have been for this night.
    """

    home: str
    job: str
    partition: str
    root: str | None = None
    hosts: tuple[str, ...] = ()
    keep: Keep = "reference"
    pdf_as_text: bool = False
    pdf_pages: PageRanges | None = None
    from_copies: bool = False
    store_sources: bool = True
    fetch_again: bool = False


class _Looked(NamedTuple):
    """A document that was read through: what it is by its content, and its hash."""

    kind: str
    sha256: str
    size: int


class Resolver:
    """Puts documents into rows; `builder` makes their requests."""

    def __init__(self, declared: DocumentInput, builder: RequestBuilder) -> None:
        self._declared = declared
        self._builder = builder
        self._slots = builder.prompt.of_documents
        self._files = Files(declared.home)
        self._store = DocumentStore(self._files, declared.job)
        # Of PDFs of which the text is sent.
        self.pages_without_text = 0

    def resolved(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows with their documents, in their order; `resolve` of each that may have any."""
        if not self._slots:
            return (self.resolve(row) if _is_document(row) else row for row in rows)
        if self._declared.hosts:
            return map_in_threads(self.resolve, rows, _FETCHED_AT_ONCE)
        return map(self.resolve, rows)

    def resolve(self, row: Row) -> Row:
        """A row with the marks of its documents, its texts, and why it cannot be sent."""
        cells: dict[str, Any] = {}
        refused: Refused | None = None
        extracted: dict[str, Document] = {}
        for column, kinds in self._documents_of(row).items():
            try:
                document = self._document(row, column, kinds)
            except Refused as problem:
                refused = refused or problem
                cells[column] = _shown(row.cells.get(column))
                continue
            if row.file is not None and document.as_text and TEXT_COLUMN not in row.cells:
                cells[TEXT_COLUMN] = document.text
                document = replace(document, text=None, text_column=TEXT_COLUMN)
                # The request is known by the file that its text was taken from.
                extracted[column] = document
            cells[column] = document.as_cell()
        found = JsonRow(row.input, row.cells)
        if cells:
            found = with_cells(found, cells)
        if refused is None:
            refused = self._without_text(row, found.cells)
        if refused is not None:
            return row._replace(
                input=found.text, cells=found.cells, problem=refused.reason, refused=refused
            )
        parts = self._builder.parts_of(found)
        documents = extracted | parts.documents
        row_places = None
        if not documents and parts.problem is None:
            found, row_places = with_places(found, self._builder.columns)
        return row._replace(
            input=found.text, cells=found.cells, values=parts.values, problem=parts.problem,
            places=row_places, documents=documents,
        )  # fmt: skip

    def _documents_of(self, row: Row) -> Mapping[str, frozenset[str]]:
        """The columns of a row that are to be documents, with the kinds that placeholders want."""
        found: dict[str, frozenset[str]] = {}
        if _is_document(row):
            found[DOCUMENT] = frozenset()
        for slot in self._slots:
            cell = row.cells.get(slot.name)
            own_file = row.file is not None and slot.column == DOCUMENT
            is_text = slot.name in row.cells and not isinstance(cell, bytes) and not is_mark(cell)
            if own_file or not is_text:
                kinds = found.get(slot.column, frozenset[str]())
                found[slot.column] = kinds | {str(slot.kind)}
        return found

    def _without_text(self, row: Row, cells: Mapping[str, Any]) -> Refused | None:
        """Why a prompt that asks for a file's text gets none."""
        if (
            not _is_document(row)
            or TEXT_COLUMN in cells
            or TEXT_COLUMN not in self._builder.columns
        ):
            return None
        what = cells[DOCUMENT][MARK]["media_type"] if is_mark(cells.get(DOCUMENT)) else "a file"
        pdf = ", or input.pdf: {as: text}" if what == "application/pdf" else ""
        return Refused("no text", f"{what} is sent as it is; use {{document}}{pdf}")

    # --- where a document is ---------------------------------------------------------------------

    def _document(self, row: Row, column: str, kinds: frozenset[str]) -> Document:
        """The document of a row's column; raises Refused where it cannot be sent."""
        cell = row.cells.get(column)
        with ExitStack() as stack:
            if row.file is not None and column == DOCUMENT:
                place = locate.of_file(row.file)
            elif isinstance(cell, bytes):
                place = self._of_bytes(cell, column, stack.enter_context(self._files.staged()))
            elif isinstance(cell, str):
                place = self._named(cell)
            elif self._declared.from_copies and is_mark(cell):
                place = self._of_copy(cell, column)
            elif cell is None:
                raise Refused(f"null in column '{column}'", "")
            else:
                raise Refused(f"no path, URL or bytes in column '{column}'", "")
            return self._of_place(place, kinds, column, row, stack)

    def _named(self, cell: str) -> Place:
        if cell.partition("://")[0].lower() in ("http", "https"):
            return self._of_url(cell)
        if self._declared.root is None:
            raise Refused("a path, and input.root is not declared", cell)
        return locate.under_root(self._declared.root, cell)

    def _of_bytes(self, data: bytes, column: str, staged: Path) -> Place:
        """Bytes of a table, which the home keeps: the table has no place that could be opened."""
        if not data:
            raise Refused(locate.EMPTY, f"column '{column}' has no bytes")
        staged.write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        if self._declared.store_sources:
            self._store.add(staged, sha256)
            return self._kept(sha256, len(data), _bytes_of(column))
        return Place(_bytes_of(column), str(staged), None, len(data), stored=True)

    def _of_copy(self, cell: Any, column: str) -> Place:
        sha256, size = str(cell[MARK].get("sha256")), cell[MARK].get("size")
        if not isinstance(size, int) or len(sha256) != 64 or not self._store.has(sha256):
            raise Refused(f"no path, URL or bytes in column '{column}'", "")
        return self._kept(sha256, size, _bytes_of(column))

    def _of_url(self, url: str) -> Place:
        """What a URL has, fetched once a night."""
        declared = self._declared
        record = None
        if not declared.fetch_again:
            record = self._store.url_record(declared.partition, url)
        if record is None:
            with self._files.staged() as staged:
                fetched = self._fetcher.fetch(url, staged, MAX_SOURCE_BYTES)
                if not fetched.size:
                    raise Refused(locate.EMPTY, "the URL has no content")
                self._store.add(staged, fetched.sha256)
            record = {
                "sha256": fetched.sha256,
                "size": fetched.size,
                "content_type": fetched.content_type,
                "fetched_at": int(time.time()),
            }
            self._store.put_url_record(declared.partition, url, record)
        return self._kept(record["sha256"], record["size"], url)

    @cached_property
    def _fetcher(self) -> Fetcher:
        return Fetcher(self._declared.hosts)

    def _kept(self, sha256: str, size: int, path: str) -> Place:
        name, store = self._files.opened_as(self._store.path(sha256))
        return Place(path, name, store, size, stored=True)

    # --- what it is ------------------------------------------------------------------------------

    def _of_place(
        self, place: Place, kinds: frozenset[str], column: str, row: Row, stack: ExitStack
    ) -> Document:
        declared = self._declared
        name = Name.of(place.path.partition("?")[0] if place.stored else place.path)
        keeps = declared.keep == "copy" and not place.stored and declared.store_sources
        # A name that is not UTF-8 has no form in JSON that would open it again.
        keeps = keeps or has_surrogate(place.name)
        copy = None
        if keeps or place.store is not None:
            copy = stack.enter_context(self._files.staged())
        looked = self._looked_at(place, name, kinds, column, copy)
        local = place.name if copy is None else str(copy)
        cut = None
        if looked.kind == PDF and declared.pdf_pages is not None and not declared.pdf_as_text:
            cut = stack.enter_context(self._files.staged())
        facts = self._facts(looked, local, name, cut, row)
        document = Document(
            path=place.path,
            size=looked.size,
            sha256=looked.sha256,
            media_type=facts.media_type,
            name=None if keeps or place.stored else place.name,
            store=None if keeps or place.stored else place.store,
            stored=keeps or place.stored,
            pages=facts.pages,
            width=facts.width,
            height=facts.height,
            text_bytes=facts.text_bytes,
            extractor=None if facts.extractor is None else f"{facts.extractor}/{EXTRACTION}",
            text=facts.text,
        )
        if keeps and copy is not None and declared.store_sources:
            self._store.add(copy, looked.sha256)
        if facts.sent_pages is not None:
            document = self._with_part(document, facts, cut)
        if looked.kind == TEXT and row.file is not None and TEXT_COLUMN in row.cells:
            return replace(document, text=None, text_column=TEXT_COLUMN)
        return document

    def _looked_at(
        self, place: Place, name: Name, kinds: frozenset[str], column: str, copy: Path | None
    ) -> _Looked:
        """Read a document once, in blocks: its kind, its hash, and a copy where one is needed."""
        digest, size = hashlib.sha256(), 0
        try:
            with ExitStack() as stack:
                stream = stack.enter_context(open_named(place.name, place.store))
                head = stream.read(content_kinds.HEAD_BYTES)
                kind = content_kinds.kind_of_content(head, name)
                content_kinds.refuse_other(kind, kinds, name, column)
                most = self._most_bytes(kind)
                if place.size > most:
                    raise _larger(place.size, most)
                to = None if copy is None else stack.enter_context(copy.open("wb"))
                block = head
                while block:
                    digest.update(block)
                    size += len(block)
                    if size > most:
                        raise _larger(size, most)
                    if to is not None:
                        to.write(block)
                    block = stream.read(_BLOCK)
        except OSError as error:
            raise locate.cannot_be_read(place.path, error) from None
        return _Looked(kind, digest.hexdigest(), size)

    def _most_bytes(self, kind: str) -> int:
        declared = self._declared
        is_whole_pdf = kind == PDF and not declared.pdf_as_text and declared.pdf_pages is None
        if is_whole_pdf or kind == IMAGE:
            return MAX_NATIVE_BYTES
        return MAX_TEXT_BYTES if kind == TEXT else MAX_SOURCE_BYTES

    def _facts(self, looked: _Looked, local: str, name: Name, cut: Path | None, row: Row) -> Facts:
        if looked.kind == TEXT:
            if row.file is not None and TEXT_COLUMN in row.cells:
                text = row.cells[TEXT_COLUMN]
                size = len(text.encode()) if isinstance(text, str) else 0
                return Facts("text/plain", text_bytes=size, extractor="txt")
            return _text_facts(Path(local), name)
        declared = self._declared
        want = Want(
            local,
            looked.kind,
            name.shown,
            as_text=declared.pdf_as_text,
            pages=declared.pdf_pages if looked.kind == PDF else None,
            cut_to=None if cut is None else str(cut),
        )
        try:
            facts = inspection.inspect(want)
        except Refused as refused:
            raise content_kinds.refused_as(name, refused) from None
        self.pages_without_text += facts.pages_without_text
        return facts

    def _with_part(self, document: Document, facts: Facts, cut: Path | None) -> Document:
        """The document with the pages that are sent; a cut is a file of its own, and kept."""
        pages, declared = facts.pages or 0, self._declared.pdf_pages or ()
        ranges = tuple(
            (first, min(last or pages, pages)) for first, last in declared if first <= pages
        )
        part = replace(document, sent_pages=written(ranges), sent_count=facts.sent_pages)
        if not facts.cut or cut is None:
            return part
        with cut.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        part = replace(part, sent_sha256=sha256, sent_size=cut.stat().st_size)
        if self._declared.store_sources:
            self._store.add(cut, sha256)
        return part


def _is_document(row: Row) -> bool:
    return row.file is not None and row.file.is_document


def stored_names(documents: Iterable[Document]) -> list[str] | None:
    """The names under the home's folder of documents that a row needs; None: none."""
    found = {document.sha256 for document in documents if document.stored}
    found |= {document.sent_sha256 for document in documents if document.sent_sha256 is not None}
    return sorted(found) or None


def _bytes_of(column: str) -> str:
    """What stands for a path where there is none."""
    return f"bytes in column '{column}'"


def _shown(cell: object) -> object:
    """What a row that is set aside keeps of a cell: no bytes, nothing that looks like a mark."""
    if isinstance(cell, bytes):
        return f"{len(cell):,} bytes"
    if cell is None or isinstance(cell, str):
        return cell
    try:
        return orjson.dumps(cell).decode()
    except TypeError:
        return str(cell)


def _text_facts(path: Path, name: Name) -> Facts:
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Refused("undecodable text", f"{name.shown}: {error.reason}") from None
    if not text.strip():
        raise Refused("no text", f"{name.shown} is blank")
    return Facts("text/plain", text_bytes=len(text.encode()), text=text, extractor="txt")


def _larger(size: int, most: int) -> Refused:
    if most != MAX_NATIVE_BYTES:
        detail = f"{size / 1e6:,.1f} MB, {most / 1e6:,.1f} MB at most"
        return Refused("larger than a document may be", detail, too_large=True)
    detail = (
        f"{size / 1e6:,.1f} MB are {base64_bytes(size) / 1e6:,.1f} MB in base64, a request has "
        f"{MAX_REQUEST_BYTES / 1e6:,.0f} MB at most{_AS_TEXT}"
    )
    return Refused("larger than a request may be", detail, too_large=True)
