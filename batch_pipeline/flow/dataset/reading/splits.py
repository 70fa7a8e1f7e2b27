"""Cutting a night's files into pieces that can be read independently, in any order.

Belongs here: where a piece begins and ends. That follows from the files alone and never from the
number of processes that read them, because the snapshot's files follow from it: two processes that
read the same input make the same snapshot. Reading a piece is in `prepare`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import SEEK_END, FileIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.flow.dataset.reading.files import ONE_ROW, Kind, SourceFile, Sources
from batch_pipeline.flow.dataset.reading.streams import open_stream

# Large enough that to open and close a part file for each piece costs nothing beside reading it.
PIECE_BYTES = 32 << 20
# The last pieces are smaller, an eighth of what is left, so that no core is idle for long while
# another one reads the last piece.
_SHARE = 8
_LEAST_BYTES = 4 << 20
# Opening a file takes as long as reading this many bytes.
_FILE_BYTES = 16 << 10
# Smaller parquet files are not opened to see whether they have several row groups.
_WORTH_A_LOOK = 4 << 20
_BLOCK_BYTES = 64 << 10
_COUNTED_BYTES = 1 << 20
# A row of a table that names a document takes as long as one of this many times its bytes.
NAMES_DOCUMENTS = 32


@dataclass(frozen=True, slots=True)
class Section:
    """A file, or with an `end` a part of it: the lines of a jsonl file from byte `start` to `end`,
    or the row groups of a parquet file from number `start` to `end`. `first` is the number of its
    first line or row, from 1; where the lines before it were not `counted` it is 1 as well.
    """

    file: SourceFile
    start: int = 0
    end: int | None = None
    first: int = 1
    counted: bool = True


Piece = tuple[Section, ...]


def pieces_of(sources: Sources, share: int = 1) -> Iterator[Piece]:
    """The pieces of all files, in their order; each section is part of one.

    Of a file only the bytes around a cut are read, or its footer. Those of tables are smaller by
    the `share`: `NAMES_DOCUMENTS`, where rows name documents.
    """
    left = sum(map(_weight, sources.files))
    small: list[Section] = []
    size = 0
    for file in sources.files:
        smaller = 1 if file.kind in ONE_ROW else share
        sections = _sections(file, left, smaller)
        first = next(sections)
        if first.end is not None:
            if small:
                yield tuple(small)
                small, size = [], 0
            yield (first,)
            yield from ((section,) for section in sections)
        else:
            if small and size + _weight(file) > _piece_bytes(size + left, smaller):
                yield tuple(small)
                small, size = [], 0
            small.append(first)
            size += _weight(file)
        left -= _weight(file)
    if small:
        yield tuple(small)


def with_lines_counted(section: Section) -> Section:
    """A section whose `first` is the line of its file that it starts at."""
    if section.counted:
        return section
    lines, left = 0, section.start
    with Path(section.file.name).open("rb") as file:
        while block := file.read(min(left, _COUNTED_BYTES)):
            lines += block.count(b"\n")
            left -= len(block)
    return replace(section, first=1 + lines, counted=True)


def is_one_large_piece(file: SourceFile) -> bool:
    """Whether a file is larger than a piece, and cannot be cut."""
    can_be_cut = file.kind is Kind.PARQUET or _has_plain_lines(file)
    return file.size > PIECE_BYTES and file.kind not in ONE_ROW and not can_be_cut


def _weight(file: SourceFile) -> int:
    return file.size + _FILE_BYTES


def _piece_bytes(left: int, share: int) -> int:
    """The bytes of the next piece, where `left` bytes are left, the piece included."""
    return min(PIECE_BYTES // share, max(_LEAST_BYTES // share, left // _SHARE))


def _sections(file: SourceFile, left: int, share: int) -> Iterator[Section]:
    """At least one section. A file that cannot be opened stays whole: the error comes when it is
    read, with the place."""
    try:
        if file.kind is Kind.PARQUET and file.size > _WORTH_A_LOOK // share:
            groups = _group_rows(file)
        elif _has_plain_lines(file) and file.size > _piece_bytes(left, share):
            yield from _line_ranges(file, left, share)
            return
        else:
            groups = []
    except (OSError, pa.ArrowException):
        groups = []
    except Exception:
        # Remote backends raise what their HTTP clients raise; anything else is a bug.
        if not file.is_remote:
            raise
        groups = []
    if len(groups) <= 1:
        yield Section(file)
    else:
        yield from _group_ranges(file, groups, left, share)


def _has_plain_lines(file: SourceFile) -> bool:
    return file.kind is Kind.JSONL and file.is_plain and not file.is_remote


def _line_ranges(file: SourceFile, left: int, share: int) -> Iterator[Section]:
    start = 0
    with Path(file.name).open("rb", buffering=0) as lines:
        while end := _line_end(lines, start, start + _piece_bytes(left - start, share)):
            yield Section(file, start, end, counted=start == 0)
            start = end
    if start == 0:  # emptied meanwhile
        yield Section(file)


def _line_end(lines: FileIO, start: int, least: int) -> int:
    """The byte after the first line end from byte `least` on, or the file's end; 0 where the file
    ends at `start`."""
    at = least - 1
    lines.seek(at)
    while block := lines.read(_BLOCK_BYTES):
        found = block.find(b"\n")
        if found >= 0:
            return at + found + 1
        at += len(block)
    end = lines.seek(0, SEEK_END)
    return end if end > start else 0


def _group_rows(file: SourceFile) -> list[tuple[int, int]]:
    """Rows and bytes of each row group."""
    with open_stream(file) as stream:
        metadata = pq.ParquetFile(stream, pre_buffer=False).metadata
        groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
        return [(group.num_rows, group.total_byte_size) for group in groups]


def _group_ranges(
    file: SourceFile, groups: list[tuple[int, int]], left: int, share: int
) -> Iterator[Section]:
    start = size = rows = 0
    first = 1
    for number, (group_rows, group_bytes) in enumerate(groups, 1):
        rows += group_rows
        size += group_bytes
        if size >= _piece_bytes(left, share) or number == len(groups):
            yield Section(file, start, number, first)
            start, first = number, first + rows
            left -= size
            size = rows = 0
