"""Cutting a night's files into pieces that can be read apart from each other, in any order.

Belongs here: where a piece begins and ends. It follows from the files alone and never from who
reads them, because the snapshot's files follow from it: two processes that read the same input make
the same snapshot, whatever cores they have. Reading a piece is `readers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import SEEK_END, FileIO
from pathlib import Path

from batch_pipeline.flow.dataset.files import Kind, SourceFile, Sources, is_plain, is_remote

# Large enough that a piece's own file in the snapshot costs nothing beside it.
PIECE_BYTES = 32 << 20
# The last pieces are smaller, an eighth of what is left, so that no core is idle for long while
# another one is at the last of them.
_SHARE = 8
_LEAST_BYTES = 4 << 20
# Opening a file takes as long as reading so much.
_FILE_BYTES = 16 << 10
# Whether a smaller parquet file has several row groups is not worth opening it for.
_WORTH_A_LOOK = 4 << 20
_BLOCK_BYTES = 64 << 10
_COUNTED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Section:
    """A file, or with an `end` a part of it: the lines of a jsonl file from byte `start` to `end`,
    or the row groups of a parquet file by their number. `first` is the line or row that it starts
    at, from 1; where the lines before it were not `counted` it says 1 too.
    """

    file: SourceFile
    start: int = 0
    end: int | None = None
    first: int = 1
    counted: bool = True


Piece = tuple[Section, ...]


def pieces_of(sources: Sources) -> Iterator[Piece]:
    """The pieces of all files, in their order; each section is part of one.

    Takes next to no time: what is read of a file is where a line ends, or its footer.
    """
    left = sum(map(_weight, sources.files))
    small: list[Section] = []
    size = 0
    for file in sources.files:
        sections = _sections(file, left)
        first = next(sections)
        if first.end is not None:
            if small:
                yield tuple(small)
                small, size = [], 0
            yield (first,)
            yield from ((section,) for section in sections)
        else:
            if small and size + _weight(file) > _piece_bytes(size + left):
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
    with Path(section.file.path).open("rb") as file:
        while block := file.read(min(left, _COUNTED_BYTES)):
            lines += block.count(b"\n")
            left -= len(block)
    return replace(section, first=1 + lines, counted=True)


def _weight(file: SourceFile) -> int:
    return file.size + _FILE_BYTES


def _piece_bytes(left: int) -> int:
    """How large the next piece is to be, where so much is left with it."""
    return min(PIECE_BYTES, max(_LEAST_BYTES, left // _SHARE))


def _sections(file: SourceFile, left: int) -> Iterator[Section]:
    """At least one section; a file that cannot be looked into stays whole: its reader says why."""
    try:
        if file.kind is Kind.PARQUET and file.size > _WORTH_A_LOOK:
            groups = _group_rows(file)
        elif _has_plain_lines(file) and file.size > _piece_bytes(left):
            yield from _line_ranges(file, left)
            return
        else:
            groups = []
    except OSError:
        groups = []
    except Exception as error:
        from pyarrow import ArrowException  # noqa: PLC0415  # slow to import

        # Remote backends raise what their HTTP clients raise; anything else is a bug.
        if not isinstance(error, ArrowException) and not is_remote(file.path):
            raise
        groups = []
    if len(groups) <= 1:
        yield Section(file)
    else:
        yield from _group_ranges(file, groups, left)


def _has_plain_lines(file: SourceFile) -> bool:
    return file.kind is Kind.JSONL and is_plain(file) and not is_remote(file.path)


def _line_ranges(file: SourceFile, left: int) -> Iterator[Section]:
    start = 0
    with Path(file.path).open("rb", buffering=0) as lines:
        while end := _line_end(lines, start, start + _piece_bytes(left - start)):
            yield Section(file, start, end, counted=start == 0)
            start = end
    if start == 0:  # emptied meanwhile
        yield Section(file)


def _line_end(lines: FileIO, start: int, least: int) -> int:
    """Behind the first line end from byte `least` on, or the file's end; 0: it ends at `start`."""
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
    import pyarrow.parquet as pq  # noqa: PLC0415  # slow to import

    from batch_pipeline.flow.dataset.streams import open_stream  # noqa: PLC0415

    with open_stream(file) as stream:
        metadata = pq.ParquetFile(stream, pre_buffer=False).metadata
        groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
        return [(group.num_rows, group.total_byte_size) for group in groups]


def _group_ranges(file: SourceFile, groups: list[tuple[int, int]], left: int) -> Iterator[Section]:
    start = size = rows = 0
    first = 1
    for number, (group_rows, group_bytes) in enumerate(groups, 1):
        rows += group_rows
        size += group_bytes
        if size >= _piece_bytes(left) or number == len(groups):
            yield Section(file, start, number, first)
            start, first = number, first + rows
            left -= size
            size = rows = 0
