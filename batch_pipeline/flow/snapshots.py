"""The snapshot: a night's input as it was read, immutable, one row an item.

Belongs here: its files and how rows are written and found again. When a snapshot is taken, and what
follows from it, stands in `dataset`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.flow.paths import part_name

if TYPE_CHECKING:
    import duckdb

    from batch_pipeline.state.files import Files
    from batch_pipeline.state.inputs import NewSnapshot

# `problem` says why a row is not sent; `problem_status` is then its status in the results. A line's
# `row` counts from where its piece begins.
# `request_bytes` is the size of the parameters as they go on the wire. `kept_from` is the hash of
# the former declaration that made the request of a kept unit. `places` is where in `input` the
# texts of the request lie (`row_json.places_of`), if that is known. Older snapshots lack both.
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
        pa.field("input", pa.binary(), nullable=False),
        pa.field("kept_from", pa.string()),
        pa.field("places", pa.list_(pa.int64())),
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
# Small row groups: a retry reads a few rows from anywhere without decompressing its surroundings.
ROW_GROUP_ROWS = 1_000
ROW_GROUP_BYTES = 3 << 20
PART_ROWS = 50_000
PART_BYTES = 256 << 20
# Parts are looked at together up to so many rows, and so many parts if their sizes differ: a look
# takes a query 10 ms each time.
ROWS_TOGETHER = 20_000
MOST_TOGETHER = 8


# How a column is written follows from what is in it: a text that hardly ever comes twice is not
# looked up in a dictionary.
_WRITTEN = {
    # Only after so many rows it is looked whether a page is full: with pyarrow's 1,024 a row group
    # of large documents would be one page, held several times while it is compressed.
    "write_batch_size": 64,
    "use_dictionary": ["problem_status", "problem", "source", "kept_from"],
    # Rows are found by it, see `read_inputs`.
    "write_statistics": ["ordinal"],
}
# zstd at its lowest level, which is what it is without a word. To compress the documents takes as
# long as all else that is done for them: it is done where room or the network is short.
_PACKED = "zstd"
_PLAIN = {
    **{field.name: "zstd" for field in SCHEMA},
    "places.list.element": "zstd",
    "input": "none",
}
# Rows of a piece count from a multiple of this: pieces are written at the same time.
ORDINALS_A_PIECE = 1 << 32


class SnapshotRow(NamedTuple):
    """One row of `SCHEMA` without its ordinal, in the same order."""

    id: str
    unit: str | None
    fingerprint: str | None
    request_bytes: int | None
    problem_status: str | None
    problem: str | None
    source: str
    row: int
    input: bytes
    kept_from: str | None = None
    places: Sequence[int] | None = None


class SnapshotWriter:
    """Writes the rows of one piece into part files of a local folder, holding one row group.

    `packed`: the documents are compressed.
    """

    def __init__(self, folder: Path, piece: int = 0, *, packed: bool = False) -> None:
        self._folder = folder
        self._compression = _PACKED if packed else _PLAIN
        self._piece = piece
        self._rows: list[SnapshotRow] = []
        self._row_bytes = 0
        self._writer: pq.ParquetWriter | None = None
        self._part_rows = 0
        self._part_bytes = 0
        self.parts: list[Path] = []
        self.items = 0

    def add(self, row: SnapshotRow) -> None:
        self._rows.append(row)
        self._row_bytes += len(row.input)
        if len(self._rows) >= ROW_GROUP_ROWS or self._row_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._close_part()

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            path = self._folder / f"piece-{self._piece:06d}-{len(self.parts):05d}.parquet"
            self._writer = pq.ParquetWriter(path, SCHEMA, compression=self._compression, **_WRITTEN)
            self.parts.append(path)
        first = self._piece * ORDINALS_A_PIECE + self.items
        columns = [range(first, first + len(self._rows)), *zip(*self._rows, strict=True)]
        arrays = [
            _documents(column) if field.name == "input" else pa.array(column, field.type)
            for column, field in zip(columns, SCHEMA, strict=True)
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
        self.items += len(self._rows)
        self._part_rows += len(self._rows)
        self._part_bytes += self._row_bytes
        self._rows, self._row_bytes = [], 0
        if self._part_rows >= PART_ROWS or self._part_bytes >= PART_BYTES:
            self._close_part()

    def _close_part(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._part_rows, self._part_bytes = None, 0, 0


def _documents(rows: Sequence[bytes]) -> pa.Array[Any]:
    """As an Arrow array: Arrow itself would copy them again and again while it grows."""
    data = b"".join(rows)
    if len(data) >= 1 << 31:  # more than its offsets can say: Arrow's error tells it
        return pa.array(rows, pa.binary())
    ends = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(data)]
    return pa.BinaryArray.from_buffers(pa.binary(), len(rows), buffers)


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
    """An input row where it lies in its row group, which stays in memory as long as the view."""

    text: memoryview
    places: Sequence[int] | None


def read_inputs(files: Files, snapshot: NewSnapshot, ordinals: Sequence[int]) -> Iterator[Input]:
    """The input rows with these ordinals, which ascend; one row group in memory."""
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
                    rows = parquet.read_row_group(
                        group, columns=["input", "places"], use_threads=False
                    )
                    found = [ordinal - start]
                    while (ordinal := next(wanted, None)) is not None and ordinal < end:
                        found.append(ordinal - start)
                    yield from _views(rows, found)
                start = end
        if ordinal is None:
            return


def _views(rows: pa.Table, found: Sequence[int]) -> Iterator[InputView]:
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
