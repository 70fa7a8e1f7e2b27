"""Cutting a night's files into pieces that can be read apart from each other, in any order.

Belongs here: where a piece begins and ends. It follows from the files alone and never from who
reads them, because the snapshot's files follow from it: two processes that read the same input make
the same snapshot, whatever cores they have. Reading a piece is `readers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from batch_pipeline.flow.sources import Kind, SourceFile, Sources, is_plain, is_remote

# Small enough that the last ones leave no core idle for long, large enough that a piece's own file
# in the snapshot costs nothing beside it.
PIECE_BYTES = 32 << 20
# Opening a small file costs more than reading it.
PIECE_FILES = 2_000
# Whether a smaller parquet file has several row groups is not worth opening it for.
_WORTH_A_LOOK = 4 << 20
_BLOCK_BYTES = 256 << 10
_LINE_END = ord("\n")


@dataclass(frozen=True, slots=True)
class Section:
    """A file, or with an `end` a part of it: the lines of a jsonl file from byte `start` to `end`,
    or the row groups of a parquet file by their number. `first` is the line or row that it starts
    at, from 1.
    """

    file: SourceFile
    start: int = 0
    end: int | None = None
    first: int = 1


Piece = tuple[Section, ...]


def pieces_of(sources: Sources) -> Iterator[Piece]:
    """The pieces of all files, in their order; each section is part of one."""
    small: list[Section] = []
    size = 0
    for file in sources.files:
        sections = _sections(file)
        first = next(sections)
        if first.end is not None:
            if small:
                yield tuple(small)
                small, size = [], 0
            yield (first,)
            yield from ((section,) for section in sections)
            continue
        if small and (size + file.size > PIECE_BYTES or len(small) >= PIECE_FILES):
            yield tuple(small)
            small, size = [], 0
        small.append(first)
        size += file.size
    if small:
        yield tuple(small)


def _sections(file: SourceFile) -> Iterator[Section]:
    """At least one section; a file that cannot be looked into stays whole: its reader says why."""
    try:
        if file.kind is Kind.PARQUET and file.size > _WORTH_A_LOOK:
            groups = _group_rows(file)
        elif _has_plain_lines(file) and file.size > PIECE_BYTES:
            yield from _line_ranges(file)
            return
        else:
            groups = []
    except OSError:
        groups = []
    except Exception as error:
        from pyarrow import ArrowException  # noqa: PLC0415

        # Remote backends raise what their HTTP clients raise; anything else is a bug.
        if not isinstance(error, ArrowException) and not is_remote(file.path):
            raise
        groups = []
    if len(groups) <= 1:
        yield Section(file)
    else:
        yield from _group_ranges(file, groups)


def _has_plain_lines(file: SourceFile) -> bool:
    return file.kind is Kind.JSONL and is_plain(file) and not is_remote(file.path)


def _line_ranges(file: SourceFile) -> Iterator[Section]:
    start, first = 0, 1
    block = bytearray(_BLOCK_BYTES)
    # Unbuffered: a block that is used again stays in the processor's cache.
    with Path(file.path).open("rb", buffering=0) as lines:
        while True:
            count, end = _lines_of(lines, PIECE_BYTES, block)
            if not count:
                # An empty file, or nothing after the last line.
                if start == 0:
                    yield Section(file)
                return
            yield Section(file, start, end, first)
            start, first = end, first + count


def _lines_of(lines: FileIO, wanted: int, block: bytearray) -> tuple[int, int]:
    """Read on to the first line end after `wanted` bytes; how many lines, and where that is."""
    import numpy as np  # noqa: PLC0415

    start = lines.tell()
    count = read = 0
    in_line = False
    seen = np.frombuffer(block, np.uint8)
    while size := lines.readinto(block):
        # `bytes.count` goes byte by byte, and this is done for all of the input by one process.
        is_end = seen[:size] == _LINE_END
        enough = max(0, min(size, wanted - 1 - read))
        count += int(np.count_nonzero(is_end[:enough]))
        if enough < size and (found := np.flatnonzero(is_end[enough:])).size:
            end = start + read + enough + int(found[0]) + 1
            lines.seek(end)
            return count + 1, end
        read += size
        in_line = not is_end[-1]
    return count + in_line, start + read


def _group_rows(file: SourceFile) -> list[tuple[int, int]]:
    """Rows and bytes of each row group."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    from batch_pipeline.flow.streams import open_stream  # noqa: PLC0415

    with open_stream(file) as stream:
        metadata = pq.ParquetFile(stream, pre_buffer=False).metadata
        groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
        return [(group.num_rows, group.total_byte_size) for group in groups]


def _group_ranges(file: SourceFile, groups: list[tuple[int, int]]) -> Iterator[Section]:
    start = size = rows = 0
    first = 1
    for number, (group_rows, group_bytes) in enumerate(groups, 1):
        rows += group_rows
        size += group_bytes
        if size >= PIECE_BYTES or number == len(groups):
            yield Section(file, start, number, first)
            start, first = number, first + rows
            size = rows = 0
