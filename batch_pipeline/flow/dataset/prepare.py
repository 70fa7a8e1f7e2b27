"""One piece of the input → its part files of the snapshot: each row becomes a request.

Belongs here: what is done for a row by itself, in the process that reads it: is it sent, and as
which request. What is seen only with all rows together (duplicates) is in `duplicates`; what
concerns the input as a whole is in `input_dataset`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.answers.outcomes import Status
from batch_pipeline.flow.dataset.choosing import filters
from batch_pipeline.flow.dataset.choosing.expressions import BATCH_BYTES, BATCH_ROWS, Failed
from batch_pipeline.flow.dataset.choosing.filters import Filters, SetAside
from batch_pipeline.flow.dataset.choosing.near_duplicates.signatures import SignatureFile
from batch_pipeline.flow.dataset.choosing.routes import (
    UNLISTED_MODEL,
    Found,
    Router,
    Unlisted,
    columns_of,
)
from batch_pipeline.flow.dataset.documents.resolve import DocumentInput, Resolver, stored_names
from batch_pipeline.flow.dataset.reading.columns import LinesSeen, Wanted
from batch_pipeline.flow.dataset.reading.row_json import LARGER_THAN_A_BATCH, row_of_json
from batch_pipeline.flow.dataset.reading.rows import Row, read_section
from batch_pipeline.flow.dataset.reading.splits import Piece, Section, with_lines_counted
from batch_pipeline.flow.dataset.requests.declaration import Declaration, unit_of
from batch_pipeline.flow.dataset.requests.document_blocks import visual_of
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.flow.dataset.requests.sizes import Sizes
from batch_pipeline.flow.dataset.snapshot import Codec, SnapshotRow, SnapshotWriter
from batch_pipeline.pricing.documents import MAX_REQUEST_BYTES, limit_passed

if TYPE_CHECKING:
    from batch_pipeline.flow.dataset.kept_units import KeptUnits

# Why a row is set aside for which a route's expression cannot be evaluated.
RULE_FAILED = "a route's rule cannot be evaluated"
# How many rows that are set aside an error message names.
EXAMPLES = 5
# Bytes from which on a row's texts are not hashed a second time.
_WORTH_HASHING_ONCE = 4_000


class Problem(NamedTuple):
    """Why a row is set aside; the number of a line counts from where its piece begins."""

    id: str
    source: str
    number: int
    message: str

    def told(self, lines_before: int) -> str:
        return f"{self.id!r} ({self.source}:{lines_before + self.number}): {self.message}"


@dataclass
class Prepared:
    """A piece that was read: its part files, and the sums over its rows.

    `set_aside` counts rows by status and reason, `problems` names the first of them. `content` is
    a hash of all rows, `kept` of the unit and id of each kept unit. `seen` is there for a part of a
    jsonl file. `without_rows` are files. `signatures` is the file of them, where they are wanted.
    `documents` are counts of those that are sent, by media type: files, pages and bytes of text,
    estimated where it was not taken out, and files without any. `pages_without_text` are those of
    PDFs that are sent as text.
    """

    parts: list[Path] = field(default_factory=list)
    items: int = 0
    set_aside: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    request_bytes: int = 0
    prompt_size: int = 0
    visual_tokens: int = 0
    content: bytes = b""
    kept: bytes = b""
    seen: LinesSeen | None = None
    without_rows: list[str] = field(default_factory=list)
    signatures: Path | None = None
    documents: dict[str, Counter[str]] = field(default_factory=dict)
    pages_without_text: int = 0

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.request_bytes, self.prompt_size, self.visual_tokens)


def prepare(
    number: int,
    piece: Piece,
    declaration: Declaration,
    folder: Path,
    codec: Codec,
    kept: KeptUnits | None = None,
    only: Collection[str] | None = None,
    carried: Sequence[str] = (),
    documents: DocumentInput | None = None,
) -> Prepared:
    """Read a piece into part files of a folder, in memory bounded by the largest document; they are
    not flushed to the disk. With `only`, rows with other ids are passed over. The `carried` columns
    must be there too. `documents` says where files, URLs and bytes that rows name are looked for.

    Raises InputDataError for what stops the night: an unreadable file, a missing column, a row
    without an id.
    """
    wanted = declaration.near_duplicates is not None and only is None
    asked = filters.of(declaration.filters)
    path = folder / f"piece-{number:06d}.signatures" if wanted else None
    with SignatureFile(path) as signatures:
        arguments = number, declaration, folder, codec, kept, only, asked, signatures, documents
        try:
            return _Preparation(*arguments).of(piece, carried)
        except InputDataError:
            counted = tuple(map(with_lines_counted, piece))
            if counted == piece:
                raise
            # The message names a line of the file; the lines before the piece are counted only now.
            _Preparation(*arguments).of(counted, carried)
            raise


def wanted_by(declaration: Declaration, carried: Sequence[str]) -> Wanted:
    """The columns that a declaration reads, and those that are carried into the output."""
    builder = RequestBuilder(declaration)
    also = [(name, "filters.where") for name in filters.columns_of(declaration.filters)]
    also += columns_of(declaration)
    also += [(name, "output.carry") for name in carried]
    also += builder.columns_beside_the_prompt
    further = [pair for pair in also if pair[0] not in builder.prompt.columns]
    return Wanted(
        declaration.id_column, builder.columns, tuple(dict(reversed(further)).items()),
        builder.prompt.of_documents,
    )  # fmt: skip


class _Preparation:
    """The reading of one piece, with the sums over the rows so far."""

    def __init__(
        self,
        number: int,
        declaration: Declaration,
        folder: Path,
        codec: Codec,
        kept: KeptUnits | None,
        only: Collection[str] | None,
        asked: Filters | None,
        signatures: SignatureFile,
        documents: DocumentInput | None,
    ) -> None:
        self._declaration = declaration
        self._builders = {
            route: RequestBuilder(asked) for route, asked in declaration.by_route().items()
        }
        self._builder = self._builders[None]
        self._routes = Router(declaration)
        self._resolver = None if documents is None else Resolver(documents, self._builder)
        self._writer = SnapshotWriter(folder, number, codec)
        self._kept, self._only, self._filters = kept, only, asked
        self._signatures = signatures
        # Rows that the filters have not been asked of yet, and whether they are to be.
        self._waiting: list[tuple[Row, SnapshotRow, bool]] = []
        self._waiting_bytes = 0
        self._content, self._kept_found = hashlib.sha256(), hashlib.sha256()
        self._done = Prepared()
        self._rows = 0

    def of(self, piece: Piece, carried: Sequence[str]) -> Prepared:
        wanted = wanted_by(self._declaration, carried)
        done = self._done
        for section in piece:
            if section.end is not None:
                done.seen = wanted.seen()
            before = self._rows
            rows = self._wanted(section, wanted)
            if self._resolver is not None:
                # Before routes and filters, which may read what a document says.
                rows = self._resolver.resolved(rows)
            for row, route in self._routes.routed(rows):
                self._take(row, route)
            if self._rows == before and section.end is None:
                done.without_rows.append(section.file.path)
        self._add_waiting()
        self._writer.close()
        done.parts, done.items = self._writer.parts, self._writer.items
        done.signatures = self._signatures.path
        if self._resolver is not None:
            done.pages_without_text = self._resolver.pages_without_text
        done.content, done.kept = self._content.digest(), self._kept_found.digest()
        return done

    def _wanted(self, section: Section, wanted: Wanted) -> Iterator[Row]:
        for row in read_section(section, wanted, self._done.seen):
            self._rows += 1
            if self._only is None or row.id in self._only:
                yield row

    def _take(self, row: Row, route: Found) -> None:
        """Make a row's request; where there are filters, the row waits until a batch is full."""
        prepared = prepare_routed(row, route, self._builders)
        self._content.update(_content_of(row, prepared.fingerprint))
        kept = None if self._kept is None else self._as_kept(row, self._kept)
        if self._filters is None:
            self._add(row, kept or prepared)
            return
        # A row that keeps its answer is asked no filter.
        self._waiting.append((row, kept or prepared, kept is None and prepared.status is None))
        self._waiting_bytes += len(row.input)
        if len(self._waiting) >= BATCH_ROWS or self._waiting_bytes >= BATCH_BYTES:
            self._add_waiting()

    def _add_waiting(self) -> None:
        if self._filters is None:
            return
        asked = [row for row, _, is_asked in self._waiting if is_asked]
        verdicts = iter(self._filters.verdicts(asked, self._builder.prompt.columns))
        for row, prepared, is_asked in self._waiting:
            verdict = next(verdicts) if is_asked else None
            self._add(row, prepared if verdict is None else without(prepared, verdict))
        self._waiting.clear()
        self._waiting_bytes = 0

    def _add(self, row: Row, prepared: SnapshotRow) -> None:
        if prepared.status is not None:
            self._count_set_aside(row, prepared)
        else:
            self._count_sizes(prepared)
            if row.documents:
                self._count_documents(row)
        ordinal = self._writer.add(prepared)
        if self._signatures.path is None or prepared.status is not None:
            return
        # Of pages and images nothing tells that two are alike.
        texts = row.texts(self._builder.prompt.columns)
        if texts is not None:
            # Twins have the same route: its place in the list, 0 for the job's own way.
            self._signatures.add(ordinal, "\n".join(texts), int(prepared.route or 0))

    def _count_documents(self, row: Row) -> None:
        for document in row.documents.values():
            counts = self._done.documents.setdefault(document.media_type, Counter())
            pages = document.pages if document.sent_count is None else document.sent_count
            counts["files"] += 1
            counts["pages"] += pages or 0
            counts["text_bytes"] += document.text_bytes or 0
            counts["without_text"] += not document.text_bytes

    def _count_sizes(self, prepared: SnapshotRow) -> None:
        done, size = self._done, prepared.request_bytes or 0
        done.request_bytes += size
        if prepared.prompt_size is None:
            done.prompt_size += size
        else:
            done.prompt_size += prepared.prompt_size
            done.visual_tokens += prepared.visual_tokens or 0

    def _as_kept(self, row: Row, kept: KeptUnits) -> SnapshotRow | None:
        """The row as the former declaration made it that its answer was bought under; None where
        nothing is kept for it or its texts have changed: then it is asked as now declared."""
        found = kept.of(row.id)
        if found is None:
            return None
        unit, made_by, builder = found
        parts = builder.parts_of(row_of_json(row.input))
        extracted = {name: each for name, each in row.documents.items() if each.text_column}
        asked = row._replace(
            values=parts.values, problem=parts.problem, places=None,
            documents=extracted | parts.documents,
        )  # fmt: skip
        former = prepare_row(asked, builder)
        if former.unit != unit:
            return None
        self._kept_found.update(f"{unit}{len(row.id)}\n{row.id}".encode())
        return former._replace(kept_from=made_by.declaration, route=made_by.route)

    def _count_set_aside(self, row: Row, prepared: SnapshotRow) -> None:
        done, reason = self._done, prepared.reason or ""
        done.set_aside[str(prepared.status), reason] += 1
        if len(done.problems) < EXAMPLES and prepared.status != Status.FILTERED:
            message = prepared.detail or reason
            done.problems.append(Problem(row.id, row.source, row.number, message))


def prepare_routed(
    row: Row, route: Found, builders: Mapping[str | None, RequestBuilder]
) -> SnapshotRow:
    """The snapshot's row with the request of its route; `builders` are by route."""
    if isinstance(route, Failed):
        reason = UNLISTED_MODEL if isinstance(route, Unlisted) else RULE_FAILED
        return _set_aside(row, Status.INVALID_INPUT, reason, route.message)
    return prepare_row(row, builders[route])._replace(route=route)


def prepare_row(row: Row, builder: RequestBuilder) -> SnapshotRow:
    """A row as the snapshot has it: with its request, or with the status and reason why it is not
    sent.

    What sets a row aside for what is in this row alone is checked here, in order. Filters are asked
    of many rows at a time, and of those alone that have no problem.
    """
    if row.refused is not None:
        status = Status.TOO_LARGE if row.refused.too_large else Status.INVALID_INPUT
        return _set_aside(row, status, row.refused.reason, row.refused.whole)
    problem = row.problem or builder.problem(row.values, row.documents)
    if problem is not None:
        larger = problem == LARGER_THAN_A_BATCH
        return _set_aside(row, Status.TOO_LARGE if larger else Status.INVALID_INPUT, problem)

    prompt_size = visual_tokens = None
    if row.places is not None:
        fingerprint, size = builder.fingerprint_and_size(row.input, row.places)
    else:
        fingerprint, size, prompt_size, visual_tokens = builder.measure(row.values, row.documents)
    declaration = builder.declaration
    if row.documents or size > MAX_REQUEST_BYTES:
        visuals = [visual_of(document) for document in row.documents.values()]
        passed = limit_passed(visuals, size, declaration.model_id)
        if passed is not None:
            return _set_aside(row, Status.TOO_LARGE, passed[0], ": ".join(passed))
    if size > declaration.max_request_bytes:
        detail = (
            f"the request has {size:,} bytes, a batch holds at most "
            f"{declaration.max_request_bytes:,}"
        )
        return _set_aside(row, Status.TOO_LARGE, LARGER_THAN_A_BATCH, detail)
    unit = unit_of(fingerprint, row.id, deduplicate=declaration.deduplicate)
    return SnapshotRow(
        row.id, unit, fingerprint, size, None, None, None,
        row.source, row.number, row.input, None, row.places, None,
        prompt_size, visual_tokens, stored_names(row.documents.values()) if row.documents else None,
    )  # fmt: skip


def _set_aside(row: Row, status: Status, reason: str, detail: str | None = None) -> SnapshotRow:
    """The row without a request. `reason` has one of few values, by which rows are counted; what
    differs from row to row is `detail`."""
    return SnapshotRow(
        row.id, None, None, None, status, reason, detail, row.source, row.number, row.input
    )


def without(prepared: SnapshotRow, verdict: SetAside) -> SnapshotRow:
    """A row that is not sent though it has a request, by which it is known what that saves."""
    return prepared._replace(status=verdict.status, reason=verdict.reason, detail=verdict.value)


def _content_of(row: Row, fingerprint: str | None) -> bytes:
    """All that a row has, for the hash of the input, without a line end in it.

    The texts of the request have been hashed for the fingerprint, which stands for them here
    together with their places: other texts may make the same prompt.
    """
    if fingerprint is None or row.places is None or len(row.input) < _WORTH_HASHING_ONCE:
        return row.input + b"\n"
    pieces = [fingerprint.encode()]
    at = 0
    for start, end in sorted(_pairs(row.places)):
        pieces += (b" %d %d " % (start, end), row.input[at:start])
        at = end
    pieces += (row.input[at:], b"\n")
    return b"".join(pieces)


def _pairs(places: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(places[::2], places[1::2], strict=True))
