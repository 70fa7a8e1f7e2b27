"""One piece of the input → its part of the snapshot: each row becomes a request and is counted.

Belongs here: what can be done for a piece by itself, in whatever process. What concerns the input
as a whole is `dataset`. A worker process has this module loaded before it does anything: what is
heavy and not needed for it (the ledger, joins, the job's spec) is not imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.columns import LinesSeen, Wanted
from batch_pipeline.flow.dataset.prepared import EXAMPLES, Prepared, Problem
from batch_pipeline.flow.dataset.requests import Declaration, RequestBuilder, unit_of
from batch_pipeline.flow.dataset.rows import CommonRows, Row, read_together, row_values
from batch_pipeline.flow.dataset.snapshot_writer import SnapshotRow, SnapshotWriter
from batch_pipeline.flow.dataset.splits import Piece, with_lines_counted
from batch_pipeline.flow.outcomes import Status

if TYPE_CHECKING:
    from batch_pipeline.flow.dataset.kept_units import KeptUnits

# Half a SHA-256: enough to tell contents apart, and half as much to hand on.
DIGEST_BYTES = 16
_WORTH_HASHING_ONCE = 1_000
# To copy one takes half as long as to make one.
_DIGEST = hashlib.sha256()
# As the first byte of a text in JSON: an escape, or a character beyond ASCII, may be a blank.
_NO_BLANK = frozenset(range(ord("!"), 127)) - frozenset(b'"\\')


def prepare(
    number: int,
    piece: Piece,
    declaration: Declaration,
    folder: Path,
    packed: bool,
    kept: KeptUnits | None = None,
) -> Prepared:
    """Read a piece into part files of a folder, in memory bounded by the largest document; they are
    not flushed to the disk.

    Raises InputDataError for what stops the night: an unreadable file, a missing column, a row
    without an id.
    """
    try:
        return _prepare_piece(number, piece, declaration, folder, packed, kept)
    except InputDataError:
        counted = tuple(map(with_lines_counted, piece))
        if counted == piece:
            raise
        # It names a line of the file, which is counted for this alone.
        _prepare_piece(number, counted, declaration, folder, packed, kept)
        raise


def _prepare_piece(
    number: int,
    piece: Piece,
    declaration: Declaration,
    folder: Path,
    packed: bool,
    kept: KeptUnits | None,
) -> Prepared:
    work = _Work(declaration, SnapshotWriter(folder, number, packed=packed), kept)
    wanted = Wanted(declaration.id_column, work.builder.columns)
    for section in piece:
        if section.end is not None:
            work.done.seen = LinesSeen(set(wanted.columns))
        for found in read_together(section, wanted, work.done.seen):
            if isinstance(found, Row):
                work.add(found)
            elif kept is not None:
                for row in found.rows():
                    work.add(row)
            else:
                work.add_common(found)
    return work.finish()


class _Work:
    """A piece as far as it is prepared."""

    def __init__(
        self, declaration: Declaration, writer: SnapshotWriter, kept: KeptUnits | None
    ) -> None:
        self.builder = RequestBuilder(declaration)
        self.done = Prepared()
        self._declaration = declaration
        self._writer = writer
        self._kept = kept
        self._digests, self._kept_found = bytearray(), bytearray()

    def add(self, row: Row) -> None:
        self._writer.add(row.input, [self._prepared(row)])

    def add_common(self, found: CommonRows) -> None:
        """Rows as they lie in their block, without a copy or an object of each."""
        builder, source = self.builder, found.source
        may_be_empty, most = builder.may_be_empty, self._declaration.max_request_bytes
        deduplicate = self._declaration.deduplicate
        data, begin, end, lines = found.lines
        request_bytes = 0
        rows: list[Any] = []
        for number, (row_id, start, stop, places) in enumerate(lines, found.number):
            row = data[start:stop]
            fingerprint, size = builder.fingerprint_and_size(row, places)
            if size > most or (may_be_empty and _may_be_blank(row, places)):
                rows.append(self._prepared(found.row(number))._replace(at=start - begin))
                continue
            request_bytes += size
            self._digests += _digest(row, places, fingerprint)
            unit = fingerprint if deduplicate else unit_of(fingerprint, row_id, deduplicate=False)
            # As `SnapshotRow` has them; to make one takes three times as long.
            rows.append((
                row_id, unit, fingerprint, size, None, None,
                source, number, start - begin, stop - start, None, places,
            ))  # fmt: skip
        self.done.request_bytes += request_bytes
        self._writer.add(data[begin:end], rows)

    def finish(self) -> Prepared:
        self._writer.close()
        self.done.parts, self.done.items = self._writer.parts, self._writer.items
        self.done.digests, self.done.kept = bytes(self._digests), bytes(self._kept_found)
        return self.done

    def _prepared(self, row: Row) -> SnapshotRow:
        kept, builder = self._kept, self.builder
        prepared = (kept and _kept(row, kept)) or _prepare(row, self._declaration, builder)
        self._digests += _digest_of_row(row, prepared, builder)
        if prepared.problem_status is not None:
            _count_problem(self.done, row, prepared)
        else:
            self.done.request_bytes += prepared.request_bytes or 0
        if prepared.kept_from is not None:
            self._kept_found += f"{prepared.unit}{len(row.id)}\n{row.id}".encode()
        return prepared


def _digest_of_row(row: Row, prepared: SnapshotRow, builder: RequestBuilder) -> bytes:
    """Of all that a row has. The texts of its request have been hashed for the fingerprint, which
    stands for them here, with their places: other texts may come to the same prompt."""
    if row.places is None:
        return hashlib.sha256(row.input).digest()[:DIGEST_BYTES]
    fingerprint = prepared.fingerprint
    if fingerprint is None or prepared.kept_from is not None:
        fingerprint, _ = builder.fingerprint_and_size(row.input, row.places)
    return _digest(row.input, row.places, fingerprint)


def _digest(row: bytes | memoryview, places: Sequence[int], fingerprint: str) -> bytes:
    if len(row) < _WORTH_HASHING_ONCE:
        return hashlib.sha256(row).digest()[:DIGEST_BYTES]
    pieces: list[bytes | memoryview] = [fingerprint.encode()]
    at = 0
    texts = (places,) if len(places) == 2 else sorted(zip(places[::2], places[1::2], strict=True))
    for start, end in texts:
        pieces += (b"%d %d\n" % (start, end), row[at:start])
        at = end
    pieces.append(row[at:])
    digest = _DIGEST.copy()
    digest.update(b"".join(pieces))
    return digest.digest()[:DIGEST_BYTES]


def _count_problem(done: Prepared, row: Row, prepared: SnapshotRow) -> None:
    done.set_aside[str(prepared.problem_status), _reason(prepared)] += 1
    if len(done.problems) < EXAMPLES:
        done.problems.append(Problem(row.id, row.source, row.number, prepared.problem or ""))


def _reason(prepared: SnapshotRow) -> str:
    """Why a row is set aside, in words that are the same for all such rows."""
    too_large = prepared.problem_status == Status.TOO_LARGE
    return "larger than a batch may be" if too_large else prepared.problem or ""


def _kept(row: Row, kept: KeptUnits) -> SnapshotRow | None:
    """The row as the declaration made it that its answer was bought under; None: it is asked as
    the present one has it, because nothing is kept for it or its texts have changed."""
    found = kept.of(row.id)
    if found is None:
        return None
    unit, builder = found
    values, problem = row_values(row.input, builder.columns)
    row = row._replace(columns=builder.columns, problem=problem, places=None, parsed=values)
    former = _prepare(row, builder.declaration, builder)
    return former._replace(kept_from=builder.declaration.hash) if former.unit == unit else None


def _prepare(row: Row, declaration: Declaration, builder: RequestBuilder) -> SnapshotRow:
    fingerprint, size, problem = "", 0, row.problem
    if problem is None:
        if row.places is not None and not (
            builder.may_be_empty and _may_be_blank(row.input, row.places)
        ):
            fingerprint, size = builder.fingerprint_and_size(row.input, row.places)
        else:
            params, problem = builder.build(row.values)
            fingerprint, size = builder.fingerprint(params), len(params)
    if problem is not None:
        return _set_aside(row, Status.INVALID_INPUT, problem)
    if size > declaration.max_request_bytes:
        problem = (
            f"the request has {size:,} bytes, a batch holds at most "
            f"{declaration.max_request_bytes:,}"
        )
        return _set_aside(row, Status.TOO_LARGE, problem)
    unit = unit_of(fingerprint, row.id, deduplicate=declaration.deduplicate)
    return SnapshotRow(
        row.id,
        unit,
        fingerprint,
        size,
        None,
        None,
        row.source,
        row.number,
        0,
        len(row.input),
        places=row.places,
    )


def _may_be_blank(row: bytes | memoryview, places: Sequence[int]) -> bool:
    """Whether no text of a row begins with what is surely no blank."""
    return not any(row[at] in _NO_BLANK for at in places[::2])


def _set_aside(row: Row, status: Status, problem: str) -> SnapshotRow:
    return SnapshotRow(
        row.id, None, None, None, status, problem, row.source, row.number, 0, len(row.input)
    )
