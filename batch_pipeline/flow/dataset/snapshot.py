"""The snapshot: a night's input as it was read, immutable, one row an item.

Belongs here: its columns, how rows are cut into row groups and files, and how they are found again.
When a snapshot is taken, and what follows from it, is in `input_dataset`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.flow.paths import parts_in

if TYPE_CHECKING:
    from batch_pipeline.ledger.snapshots import NewSnapshot
    from batch_pipeline.storage.files import Files

# `request_bytes` is the size of the parameters as they go on the wire. A row that is not sent has
# a `status`, which is its status in the results, and a `reason`, the same for all such rows;
# `detail` says more of this row. It has no unit, unless a filter sets it aside. A line's `row`
# counts from where its piece begins. `input` is the row as JSON, `places` where in it the texts of
# the request stand (`row_json.places_of`), if that is known. `kept_from` is the hash of the former
# declaration that made the request of a kept unit. `route` is the route of the declaration that
# made the request; NULL: the job's own.
#
# `prompt_size` is what the tokens of a request with documents follow from: its bytes without the
# documents' base64, the bytes of their text, and `visual_tokens`, those of pages and images. NULL:
# `request_bytes`, and none. `stored` are the names under `documents/` of the home that it needs.
SCHEMA = pa.schema(
    [
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("unit", pa.string()),
        pa.field("fingerprint", pa.string()),
        pa.field("request_bytes", pa.int64()),
        pa.field("status", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("input", pa.binary(), nullable=False),
        pa.field("kept_from", pa.string()),
        pa.field("places", pa.list_(pa.int64())),
        pa.field("route", pa.string()),
        pa.field("prompt_size", pa.int64()),
        pa.field("visual_tokens", pa.int64()),
        pa.field("stored", pa.list_(pa.string())),
    ]
)
# The bounds of a row group: it is what a reader and a writer hold in memory, and what is read for a
# single row, as retries do.
GROUP_ROWS = 10_000
GROUP_BYTES = 4 << 20
# The bounds of a part file, for pieces that could not be cut.
PART_ROWS = 50_000
PART_BYTES = 256 << 20

_WRITTEN = {
    # A text that hardly ever comes twice is not looked up in a dictionary.
    "use_dictionary": ["status", "reason", "source", "kept_from", "route"],
    # Rows are found by it, see `snapshot.read_inputs`.
    "write_statistics": ["ordinal"],
    # After this many rows pyarrow looks whether a page is full: with its default of 1,024 a row
    # group of large documents would be one page, which is held several times while it is written.
    "write_batch_size": 64,
}
# Ordinals of a piece count from a multiple of this, because pieces are written at the same time.
ORDINALS_A_PIECE = 1 << 32

Codec = Literal["none", "zstd"]


def part_paths(snapshot: NewSnapshot) -> list[str]:
    """The part files of all layers, in the order of their ordinals."""
    return [path for layer in snapshot.layers for path in parts_in(layer.folder, layer.parts)]


# --- writing -------------------------------------------------------------------------------------


class SnapshotRow(NamedTuple):
    """One row of `SCHEMA` without its ordinal, in the same order."""

    id: str
    unit: str | None
    fingerprint: str | None
    request_bytes: int | None
    status: str | None
    reason: str | None
    detail: str | None
    source: str
    row: int
    input: bytes
    kept_from: str | None = None
    places: Sequence[int] | None = None
    route: str | None = None
    prompt_size: int | None = None
    visual_tokens: int | None = None
    stored: Sequence[str] | None = None


class SnapshotWriter:
    """Writes part files into a local folder, holding one row group."""

    def __init__(self, folder: Path, piece: int, codec: Codec) -> None:
        self._folder = folder
        self._piece = piece
        self._codec = codec
        # By column, not by row: the garbage collector would look at each row again and again.
        self._columns: list[list[Any]] = [[] for _ in SnapshotRow._fields]
        self._rows = self._row_bytes = 0
        self._writer: pq.ParquetWriter | None = None
        self._part_rows = 0
        self._part_bytes = 0
        self.parts: list[Path] = []
        self.items = 0

    def add(self, row: SnapshotRow) -> int:
        """Write a row; returns its ordinal."""
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)
        ordinal = self._piece * ORDINALS_A_PIECE + self.items + self._rows
        self._rows += 1
        self._row_bytes += len(row.input)
        if self._row_bytes >= GROUP_BYTES or self._rows >= GROUP_ROWS:
            self._flush()
        return ordinal

    def close(self) -> None:
        self._flush()
        self._close_part()

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            path = self._folder / f"piece-{self._piece:06d}-{len(self.parts):05d}.parquet"
            self.parts.append(path)
            self._writer = pq.ParquetWriter(path, SCHEMA, compression=self._codec, **_WRITTEN)
        first = self._piece * ORDINALS_A_PIECE + self.items
        columns = [range(first, first + self._rows), *self._columns]
        arrays = [
            pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
        self.items += self._rows
        self._part_rows += self._rows
        self._part_bytes += self._row_bytes
        self._rows = self._row_bytes = 0
        for values in self._columns:
            values.clear()
        if self._part_rows >= PART_ROWS or self._part_bytes >= PART_BYTES:
            self._close_part()

    def _close_part(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None
        self._part_rows = self._part_bytes = 0


# --- reading -------------------------------------------------------------------------------------


class Input(NamedTuple):
    """An input row as JSON, and where in it the texts of its request stand, if that is known."""

    text: bytes
    places: Sequence[int] | None


def read_inputs(files: Files, snapshot: NewSnapshot, ordinals: Sequence[int]) -> Iterator[Input]:
    """The input rows with these ordinals, which ascend; a row group in memory.

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
                    rows = parquet.read_row_group(group, ["input", "places"], use_threads=False)
                    if len(found) < len(rows):
                        rows = rows.take(found)
                    columns = (column.to_pylist() for column in rows.columns)
                    yield from map(Input, *columns)
                start = end
        if ordinal is None:
            return


def _first_part(files: Files, snapshot: NewSnapshot, ordinal: int) -> int:
    """The part that has a row: the last one that does not start after it."""

    def start(path: str) -> int:
        with files.open(path) as file, pq.ParquetFile(file) as parquet:
            return _first_ordinal(parquet)

    return max(0, bisect_right(part_paths(snapshot), ordinal, key=start) - 1)


def _first_ordinal(parquet: pq.ParquetFile) -> int:
    return int(parquet.metadata.row_group(0).column(0).statistics.min)
