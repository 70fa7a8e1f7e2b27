"""Writing the rows of one piece of the input into part files of a snapshot.

Belongs here: how rows are cut into row groups and files, and how these are compressed. What the
columns mean, and how rows are found again, is in `snapshot`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.flow.dataset.snapshot import ORDINALS_A_PIECE, SCHEMA

Codec = Literal["none", "zstd"]

# A retry reads a few rows from anywhere, with the row group that each is in, and whatever reads or
# writes a snapshot holds one or two row groups.
GROUP_ROWS = 10_000
GROUP_BYTES = 4 << 20
PART_ROWS = 50_000
PART_BYTES = 256 << 20

_WRITTEN = {
    # A text that hardly ever comes twice is not looked up in a dictionary.
    "use_dictionary": ["status", "reason", "source", "kept_from"],
    # Rows are found by it, see `snapshot.read_inputs`.
    "write_statistics": ["ordinal"],
    # After this many rows pyarrow looks whether a page is full: with its default of 1,024 a row
    # group of large documents would be one page, which is held several times while it is written.
    "write_batch_size": 64,
}


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


class SnapshotWriter:
    """Writes part files into a local folder, holding one row group."""

    def __init__(self, folder: Path, piece: int, codec: Codec) -> None:
        self._folder = folder
        self._piece = piece
        self._codec = codec
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
        if self._row_bytes >= GROUP_BYTES or len(self._rows) >= GROUP_ROWS:
            self._flush()

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
        columns = [range(first, first + len(self._rows)), *zip(*self._rows, strict=True)]
        arrays = [
            pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)
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
        self._writer = None
        self._part_rows = self._part_bytes = 0
