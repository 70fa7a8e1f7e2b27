"""One piece of the input → its part of the snapshot: each row becomes a request and is counted.

Belongs here: what can be done for a piece by itself, in whatever process. What concerns the input
as a whole is `dataset`. A worker process has this module loaded before it does anything: what is
heavy and not needed for it (the ledger, joins, the job's spec) is not imported.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.columns import LinesSeen, Wanted
from batch_pipeline.flow.outcomes import Status
from batch_pipeline.flow.pieces import Piece, with_lines_counted
from batch_pipeline.flow.prepared import EXAMPLES, Prepared, Problem
from batch_pipeline.flow.readers import Row, read_section, row_values
from batch_pipeline.flow.requests import Declaration, RequestBuilder, unit_of
from batch_pipeline.flow.snapshots import SnapshotRow, SnapshotWriter

if TYPE_CHECKING:
    from batch_pipeline.flow.kept_units import KeptUnits

# Half a SHA-256: enough to tell contents apart, and half as much to hand on.
DIGEST_BYTES = 16
_WORTH_HASHING_ONCE = 1_000
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
    builder = RequestBuilder(declaration)
    wanted = Wanted(declaration.id_column, builder.columns)
    writer = SnapshotWriter(folder, number, packed=packed)
    done = Prepared()
    digests, kept_units_found = bytearray(), bytearray()
    for section in piece:
        if section.end is not None:
            done.seen = LinesSeen(set(builder.columns))
        for row in read_section(section, wanted, done.seen):
            prepared = (kept and _kept(row, kept)) or _prepare(row, declaration, builder)
            digests += _digest(row, prepared, builder)
            if prepared.problem_status is not None:
                _count_problem(done, row, prepared)
            else:
                done.request_bytes += prepared.request_bytes or 0
            if prepared.kept_from is not None:
                kept_units_found += f"{prepared.unit}{len(row.id)}\n{row.id}".encode()
            writer.add(prepared)
    writer.close()
    done.parts, done.items = writer.parts, writer.items
    done.digests, done.kept = bytes(digests), bytes(kept_units_found)
    return done


def _digest(row: Row, prepared: SnapshotRow, builder: RequestBuilder) -> bytes:
    """Of all that a row has. The texts of its request have been hashed for the fingerprint, which
    stands for them here, with their places: other texts may come to the same prompt."""
    if row.places is None or len(row.input) < _WORTH_HASHING_ONCE:
        return hashlib.sha256(row.input).digest()[:DIGEST_BYTES]
    fingerprint = prepared.fingerprint
    if fingerprint is None or prepared.kept_from is not None:
        fingerprint, _ = builder.fingerprint_and_size(row.input, row.places)
    digest = hashlib.sha256(fingerprint.encode())
    at = 0
    for start, end in sorted(zip(row.places[::2], row.places[1::2], strict=True)):
        digest.update(b"%d %d\n%s" % (start, end, row.input[at:start]))
        at = end
    digest.update(row.input[at:])
    return digest.digest()[:DIGEST_BYTES]


def _count_problem(done: Prepared, row: Row, prepared: SnapshotRow) -> None:
    if prepared.problem_status == Status.TOO_LARGE:
        done.too_large += 1
    else:
        done.invalid_input += 1
    if len(done.problems) < EXAMPLES:
        done.problems.append(Problem(row.id, row.source, row.number, prepared.problem or ""))


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
        if row.places is not None and not (builder.may_be_empty and _may_be_blank(row)):
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
        row.input,
        places=row.places,
    )


def _may_be_blank(row: Row) -> bool:
    """Whether no text of a row begins with what is surely no blank."""
    return not any(row.input[at] in _NO_BLANK for at in (row.places or ())[::2])


def _set_aside(row: Row, status: Status, problem: str) -> SnapshotRow:
    return SnapshotRow(row.id, None, None, None, status, problem, row.source, row.number, row.input)
