"""Writing the rows of one piece of the input into part files of a snapshot.

Belongs here: how rows lie in files, for the least work and memory. What the columns mean, and how
rows are found again, stands in `snapshots`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.flow.dataset.snapshot import ORDINALS_A_PIECE, PACKED_SCHEMA, SCHEMA
from batch_pipeline.flow.paths import documents_of

# A retry reads a few rows from anywhere, with the row group that they are in: small ones, where
# documents are in them.
ROW_GROUP_ROWS = 10_000
PACKED_GROUP_ROWS = 1_000
PACKED_GROUP_BYTES = 3 << 20
PART_ROWS = 50_000
PART_BYTES = 256 << 20
# What is smaller than this is written together.
_WRITE_BYTES = 128 << 10

# Beside documents of this size, what else is known of them saves no room if it is compressed.
_LARGE_BYTES = 4 << 10

_LINE_END = ord("\n")
# How a column is written follows from what is in it: a text that hardly ever comes twice is not
# looked up in a dictionary.
_WRITTEN = {
    "use_dictionary": ["problem_status", "problem", "source", "kept_from"],
    # Rows are found by it, see `snapshots.read_inputs`.
    "write_statistics": ["ordinal"],
}
# Only after so many rows it is looked whether a page is full: with pyarrow's 1,024 a row group of
# large documents would be one page, held several times while it is compressed.
# zstd is at its lowest level, which is what it is without a word.
_PACKED_WRITTEN = {**_WRITTEN, "compression": "zstd", "write_batch_size": 64}

Positions = npt.NDArray[np.int64]


class SnapshotRow(NamedTuple):
    """One row of `SCHEMA` without its ordinal, in the same order; `at` counts from where the text
    begins that it is written with."""

    id: str
    unit: str | None
    fingerprint: str | None
    request_bytes: int | None
    problem_status: str | None
    problem: str | None
    source: str
    row: int
    at: int
    bytes: int
    kept_from: str | None = None
    places: Sequence[int] | None = None


class SnapshotWriter:
    """Writes part files into a local folder, holding one row group.

    As they are, the documents are a file of their own beside a part: a Parquet file would be two
    copies more of each. `packed`: they are a column of it, and compressed.
    """

    def __init__(self, folder: Path, piece: int = 0, *, packed: bool = False) -> None:
        self._folder = folder
        self._packed = packed
        self._piece = piece
        self._rows: list[SnapshotRow] = []
        # Texts that are not in a row group yet: how many rows each has, and where it begins.
        self._counts: list[int] = []
        self._begins: list[int] = []
        self._texts = bytearray()
        self._documents: BinaryIO | None = None
        self._rest: pa.NativeFile | None = None
        self._writer: pq.ParquetWriter | None = None
        self._part_rows = 0
        self._part_bytes = 0
        self.parts: list[Path] = []
        self.items = 0

    def add(self, text: bytes | memoryview, rows: Sequence[SnapshotRow]) -> None:
        """Rows that lie in a text, as lines of it; it is not needed any more then."""
        if self._writer is None:
            self._open_part(len(text) // len(rows))
        self._rows += rows
        self._counts.append(len(rows))
        end = b"" if text[-1] == _LINE_END else b"\n"
        if self._documents is None:
            self._begins.append(len(self._texts))
            self._texts += text
            self._texts += end
        else:
            self._begins.append(self._part_bytes)
            self._documents.write(text)
            self._documents.write(end)
        self._part_bytes += len(text) + len(end)
        most = PACKED_GROUP_ROWS if self._packed else ROW_GROUP_ROWS
        if (
            len(self._rows) >= most
            or len(self._texts) >= PACKED_GROUP_BYTES
            or self._part_bytes >= PART_BYTES
        ):
            self._flush()

    def close(self) -> None:
        self._flush()
        self._close_part()

    def _open_part(self, row_bytes: int) -> None:
        path = self._folder / f"piece-{self._piece:06d}-{len(self.parts):05d}.parquet"
        self.parts.append(path)
        # Parquet is written in hundreds of small pieces.
        self._rest = pa.output_stream(str(path), buffer_size=_WRITE_BYTES)
        if self._packed:
            self._writer = pq.ParquetWriter(self._rest, PACKED_SCHEMA, **_PACKED_WRITTEN)
            return
        compression = "none" if row_bytes >= _LARGE_BYTES else "zstd"
        self._writer = pq.ParquetWriter(self._rest, SCHEMA, compression=compression, **_WRITTEN)
        documents = Path(documents_of(str(path)))
        self._documents = documents.open("wb", buffering=_WRITE_BYTES)

    def _flush(self) -> None:
        if not self._rows:
            return
        assert self._writer is not None
        first = self._piece * ORDINALS_A_PIECE + self.items
        ordinals = np.arange(first, first + len(self._rows))
        columns = [ordinals, *zip(*self._rows, strict=True)]
        found = {
            field.name: pa.array(column, field.type)
            for column, field in zip(columns, SCHEMA, strict=True)
        }
        at = found["at"].to_numpy() + np.repeat(self._begins, self._counts)
        found["at"] = pa.array(at)
        if self._packed:
            found["input"] = _documents(self._texts, at, found["bytes"].to_numpy())
        schema = PACKED_SCHEMA if self._packed else SCHEMA
        arrays = [found[name] for name in schema.names]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
        self.items += len(self._rows)
        self._part_rows += len(self._rows)
        self._rows, self._counts, self._begins, self._texts = [], [], [], bytearray()
        if self._part_rows >= PART_ROWS or self._part_bytes >= PART_BYTES:
            self._close_part()

    def _close_part(self) -> None:
        for file in (self._writer, self._rest, self._documents):
            if file is not None:
                file.close()
        self._writer = self._rest = self._documents = None
        self._part_rows = self._part_bytes = 0


def _documents(texts: bytearray, at: Positions, sizes: Positions) -> pa.Array[Any]:
    """As an Arrow array: Arrow itself would copy them again and again while it grows."""
    ends = np.append(0, np.cumsum(sizes))
    view = memoryview(texts)
    places = zip(at.tolist(), (at + sizes).tolist(), strict=True)
    rows = [view[begin:end] for begin, end in places]
    if ends[-1] >= 1 << 31:  # more than its offsets can say: Arrow's error tells it
        return pa.array(map(bytes, rows), pa.binary())
    buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(rows))]
    return pa.BinaryArray.from_buffers(pa.binary(), len(rows), buffers)
