"""The snapshot: a night's input as it was read, immutable, one row an item.

Belongs here: its files and how rows are written and found again. When a snapshot is taken, and what
follows from it, stands in `dataset`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.flow.paths import documents_of, part_name

if TYPE_CHECKING:
    import duckdb

    from batch_pipeline.state.files import Files
    from batch_pipeline.state.inputs import NewSnapshot

# `problem` says why a row is not sent; `problem_status` is then its status in the results. A line's
# `row` counts from where its piece begins. `request_bytes` is the size of the parameters as they go
# on the wire. The row itself, as JSON, is so many `bytes` of the part's documents, from `at` on.
# `kept_from` is the hash of the former declaration that made the request of a kept unit. `places`
# is where in the row the texts of the request lie (`row_json.places_of`), if that is known. Older
# snapshots lack the last two.
SCHEMA = pa.schema(
    [
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("unit", pa.string()),
        pa.field("fingerprint", pa.string()),
        pa.field("request_bytes", pa.int64()),
        pa.field("problem_status", pa.string()),
        pa.field("problem", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("at", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("kept_from", pa.string()),
        pa.field("places", pa.list_(pa.int64())),
    ]
)
# In packed snapshots and older ones the rows are a column.
PACKED_SCHEMA = pa.schema(
    [
        pa.field("input", pa.binary(), nullable=False) if field.name == "bytes" else field
        for field in SCHEMA
        if field.name != "at"
    ]
)
# Items that the request of an earlier item (`first_ordinal`) answers. Without any there is no file.
DUPLICATES = "duplicates.parquet"
DUPLICATES_SCHEMA = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("first_ordinal", pa.int64(), nullable=False),
    ]
)
# Rows that lie within so many bytes are read at once, unless there is so much between them.
READ_BYTES = 1 << 20
_GAP_BYTES = 64 << 10
_READ = ["input", "at", "bytes", "places"]
# Parts are looked at together up to so many rows, and so many parts if their sizes differ: a look
# takes a query 10 ms each time.
ROWS_TOGETHER = 20_000
MOST_TOGETHER = 8
# Rows of a piece count from a multiple of this: pieces are written at the same time.
ORDINALS_A_PIECE = 1 << 32


def part_paths(snapshot: NewSnapshot) -> list[str]:
    return [f"{snapshot.folder}/{part_name(number)}" for number in range(snapshot.parts)]


def duplicates_paths(snapshot: NewSnapshot) -> list[str]:
    return [f"{snapshot.folder}/{DUPLICATES}"] if snapshot.duplicates else []


def read_columns(files: Files, path: str, columns: Sequence[str]) -> pa.Table:
    """Columns of one of the snapshot's Parquet files, which may be small beside the documents."""
    with files.open_native(path) as file, pq.ParquetFile(file) as parquet:
        return parquet.read(columns=list(columns)).select(columns)


def each_part(
    connection: duckdb.DuckDBPyConnection, files: Files, parts: Sequence[str], items: int
) -> Iterator[None]:
    """Make each part the table `snapshot`, one after the other; small ones several together.

    A join with a whole snapshot would hold all of it: DuckDB cannot know how large it is, and
    builds on it. `items` is how many rows all parts have.
    """
    together = min(MOST_TOGETHER, max(1, ROWS_TOGETHER * len(parts) // max(1, items)))
    for first in range(0, len(parts), together):
        connection.register("snapshot", files.dataset(parts[first : first + together]))
        yield
        connection.unregister("snapshot")


class Input(NamedTuple):
    """An input row as JSON, and where in it the texts of its request lie, if that is known."""

    text: bytes
    places: Sequence[int] | None


class InputView(NamedTuple):
    """An input row where it lies among others, which stay in memory as long as the view."""

    text: memoryview
    places: Sequence[int] | None


def read_inputs(files: Files, snapshot: NewSnapshot, ordinals: Sequence[int]) -> Iterator[Input]:
    """The input rows with these ordinals, which ascend; a row group or `READ_BYTES` in memory."""
    for view in read_views(files, snapshot, ordinals):
        yield Input(bytes(view.text), view.places)


def read_views(files: Files, snapshot: NewSnapshot, ordinals: Sequence[int]) -> Iterator[InputView]:
    """`read_inputs`, without a copy of each row.

    Rows of a part have ordinals without gaps; where a part starts, its statistics say.
    """
    wanted = iter(ordinals)
    ordinal = next(wanted, None)
    if ordinal is None:
        return
    for path in part_paths(snapshot)[_first_part(files, snapshot, ordinal) :]:
        with files.open(path) as file, pq.ParquetFile(file) as parquet:
            start = _first_ordinal(parquet)
            for group in range(parquet.num_row_groups):
                end = start + parquet.metadata.row_group(group).num_rows
                if ordinal is not None and ordinal < end:
                    found = [ordinal - start]
                    while (ordinal := next(wanted, None)) is not None and ordinal < end:
                        found.append(ordinal - start)
                    rows = parquet.read_row_group(group, columns=_READ, use_threads=False)
                    if "input" in rows.column_names:
                        yield from _packed_views(rows, found)
                    else:
                        with files.open(documents_of(path)) as documents:
                            yield from _views(documents, documents_of(path), rows, found)
                start = end
        if ordinal is None:
            return


def _views(
    documents: BinaryIO, path: str, rows: pa.Table, found: Sequence[int]
) -> Iterator[InputView]:
    """What lies together is read at once."""
    rows = rows if len(found) == len(rows) else rows.take(found)
    begins, sizes, places = (rows.column(name).to_pylist() for name in ("at", "bytes", "places"))
    first = 0
    while first < len(found):
        start = begins[first]
        end = start + sizes[first]
        after = first + 1
        while after < len(found) and begins[after] - end < _GAP_BYTES:
            if begins[after] + sizes[after] > start + READ_BYTES:
                break
            end = begins[after] + sizes[after]
            after += 1
        documents.seek(start)
        view = memoryview(documents.read(end - start))
        if len(view) < end - start:
            raise OSError(f"a file of the snapshot was cut off: {path}")
        for number in range(first, after):
            at = begins[number] - start
            yield InputView(view[at : at + sizes[number]], places[number])
        first = after


def _packed_views(rows: pa.Table, found: Sequence[int]) -> Iterator[InputView]:
    places: Sequence[Sequence[int] | None] = [None] * len(found)
    if "places" in rows.column_names:
        column = rows.column("places")
        places = (column if len(found) == len(rows) else column.take(found)).to_pylist()
    texts = rows.column("input").combine_chunks()
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int32)[texts.offset :].tolist()
    view = memoryview(data)
    for at, known in zip(found, places, strict=True):
        yield InputView(view[ends[at] : ends[at + 1]], known)


def _first_part(files: Files, snapshot: NewSnapshot, ordinal: int) -> int:
    """The part that has a row: the last one that does not start after it."""

    def start(path: str) -> int:
        with files.open(path) as file, pq.ParquetFile(file) as parquet:
            return _first_ordinal(parquet)

    return max(0, bisect_right(part_paths(snapshot), ordinal, key=start) - 1)


def _first_ordinal(parquet: pq.ParquetFile) -> int:
    return int(parquet.metadata.row_group(0).column(0).statistics.min)
