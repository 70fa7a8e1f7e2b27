"""The snapshot: a night's input as it was read, immutable, one row an item.

Belongs here: its files and how rows are written and found again. When a snapshot is taken, and what
follows from it, stands in `dataset`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.state.files import Files
from batch_pipeline.state.nights import NewSnapshot

# `problem` says why a row is not sent; `problem_status` is then its status in the results.
# `request_bytes` is the size of the parameters as they go on the wire. `kept_from` is the hash of
# the former declaration that made the request of a kept unit; older snapshots lack it.
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
    ]
)
# Items that the request of an earlier item (`first_ordinal`) answers.
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
ROW_GROUP_BYTES = 8 << 20
PART_ROWS = 50_000
PART_BYTES = 256 << 20


@dataclass(frozen=True)
class SnapshotRow:
    """One row of `SCHEMA` without its ordinal."""

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


class SnapshotWriter:
    """Writes rows into part files of a local folder, holding one row group in memory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._rows: list[SnapshotRow] = []
        self._row_bytes = 0
        self._writer: pq.ParquetWriter | None = None
        self._part_rows = 0
        self._part_bytes = 0
        self.parts = 0
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
            path = self._folder / part_name(self.parts)
            self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd", compression_level=1)
            self.parts += 1
        columns: list[pa.Array] = [
            pa.array(range(self.items, self.items + len(self._rows)), pa.int64())
        ]
        columns += [
            pa.array([getattr(row, field.name) for row in self._rows], field.type)
            for field in SCHEMA
            if field.name != "ordinal"
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
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


def part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def part_paths(snapshot: NewSnapshot) -> list[str]:
    return [f"{snapshot.folder}/{part_name(number)}" for number in range(snapshot.parts)]


def duplicates_paths(snapshot: NewSnapshot) -> list[str]:
    return [f"{snapshot.folder}/duplicates.parquet"] if snapshot.duplicates else []


def read_inputs(files: Files, snapshot: NewSnapshot, ordinals: Sequence[int]) -> Iterator[bytes]:
    """The `input` of the rows with these ordinals, which ascend; one row group in memory."""
    wanted = iter(ordinals)
    ordinal = next(wanted, None)
    start = 0
    for path in part_paths(snapshot):
        if ordinal is None:
            return
        with files.open(path) as file, pq.ParquetFile(file) as parquet:
            if ordinal >= start + parquet.metadata.num_rows:
                start += parquet.metadata.num_rows
                continue
            for group in range(parquet.num_row_groups):
                end = start + parquet.metadata.row_group(group).num_rows
                if ordinal is not None and ordinal < end:
                    column = parquet.read_row_group(group, columns=["input"]).column(0)
                    while ordinal is not None and ordinal < end:
                        yield column[ordinal - start].as_py()
                        ordinal = next(wanted, None)
                start = end
