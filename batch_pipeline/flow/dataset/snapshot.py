"""The snapshot: a night's input as it was read, immutable, one row an item.

Belongs here: its files and how rows are written and found again. When a snapshot is taken, and what
follows from it, stands in `dataset`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.flow.paths import documents_of, part_name

if TYPE_CHECKING:
    import duckdb

    from batch_pipeline.ledger.snapshots import NewSnapshot
    from batch_pipeline.storage.files import Files

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
# Rows that lie within so many bytes are read at once, unless there is so much between them; they
# and what is made of them stay in a processor's cache.
READ_BYTES = 512 << 10
_GAP_BYTES = 64 << 10
_READ = ["input", "at", "bytes", "places"]
# Parts are looked at together up to so many rows, and so many parts if their sizes differ: a look
# takes a query 10 ms each time.
ROWS_TOGETHER = 20_000
MOST_TOGETHER = 8
# Rows of a piece count from a multiple of this: pieces are written at the same time.
ORDINALS_A_PIECE = 1 << 32

Positions = npt.NDArray[np.int64]


def part_paths(snapshot: NewSnapshot) -> list[str]:
    return [f"{snapshot.folder}/{part_name(number)}" for number in range(snapshot.parts)]


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


class InputBlock(NamedTuple):
    """Rows that lie together in `data`: where each begins and ends there, and where the texts of
    its request begin and end there (`row_json.places_of`), if that is known."""

    data: memoryview
    rows: Sequence[tuple[int, int]]
    texts: Sequence[Sequence[int] | None]


def read_inputs(files: Files, snapshot: NewSnapshot, ordinals: Sequence[int]) -> Iterator[Input]:
    """The input rows with these ordinals, which ascend; a row group or `READ_BYTES` in memory."""
    for data, rows, texts in read_blocks(files, snapshot, ordinals):
        for (start, end), places in zip(rows, texts, strict=True):
            within = None if places is None else [place - start for place in places]
            yield Input(bytes(data[start:end]), within)


def read_blocks(
    files: Files, snapshot: NewSnapshot, ordinals: Sequence[int]
) -> Iterator[InputBlock]:
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
                    if len(found) < len(rows):
                        rows = rows.take(found)
                    if "input" in rows.column_names:
                        yield _packed_block(rows)
                    else:
                        with files.open(documents_of(path)) as documents:
                            yield from _blocks(documents, documents_of(path), rows)
                start = end
        if ordinal is None:
            return


def _blocks(documents: BinaryIO, path: str, rows: pa.Table) -> Iterator[InputBlock]:
    """What lies together is read at once."""
    begins, sizes = (rows.column(name).to_numpy() for name in ("at", "bytes"))
    ends, texts = begins + sizes, _Texts(rows, begins)
    for first, after in _together(begins, ends):
        start, end = int(begins[first]), int(ends[after - 1])
        documents.seek(start)
        data = documents.read(end - start)
        if len(data) < end - start:
            raise OSError(f"a file of the snapshot was cut off: {path}")
        from_here = (begins[first:after] - start).tolist()
        to_here = (ends[first:after] - start).tolist()
        yield InputBlock(
            memoryview(data),
            list(zip(from_here, to_here, strict=True)),
            texts.within(first, after, start),
        )


def _together(begins: Positions, ends: Positions) -> Iterator[tuple[int, int]]:
    """Rows that are read at once: from which one up to which."""
    apart = np.flatnonzero(begins[1:] - ends[:-1] >= _GAP_BYTES) + 1
    for first, last in pairwise([0, *apart.tolist(), len(begins)]):
        after = first
        while after < last:
            start = after
            fit = np.searchsorted(ends[start:last], begins[start] + READ_BYTES, side="right")
            after += max(1, int(fit))
            yield start, after


def _packed_block(rows: pa.Table) -> InputBlock:
    column = rows.column("input").combine_chunks()
    _, offsets, data = column.buffers()
    offsets = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    ends = offsets.astype(np.int64)
    return InputBlock(
        memoryview(data),
        list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)),
        _Texts(rows, ends[:-1]).within(0, len(rows), 0),
    )


class _Texts:
    """Where the texts of rows lie that begin at `begins`, counted from where these are."""

    def __init__(self, rows: pa.Table, begins: Positions) -> None:
        self._begins = begins
        lists = rows.column("places").combine_chunks() if "places" in rows.column_names else None
        # As a rule all of them are known, and as many for each row.
        self._even: npt.NDArray[np.int64] | None = None
        self._lists: list[list[int] | None] = [None] * len(begins) if lists is None else []
        if lists is not None and len(lists):
            counts = np.diff(lists.offsets.to_numpy())
            if lists.null_count or (counts != counts[0]).any():
                self._lists = lists.to_pylist()
            else:
                places = lists.flatten().to_numpy().reshape(len(lists), counts[0])
                self._even = places + begins[:, None]

    def within(self, first: int, after: int, start: int) -> Sequence[Sequence[int] | None]:
        """Of some of the rows, counted from `start`."""
        if self._even is not None:
            found: list[list[int]] = (self._even[first:after] - start).tolist()
            return found
        shifts = (self._begins[first:after] - start).tolist()
        return [
            None if places is None else [shift + place for place in places]
            for places, shift in zip(self._lists[first:after], shifts, strict=True)
        ]


def _first_part(files: Files, snapshot: NewSnapshot, ordinal: int) -> int:
    """The part that has a row: the last one that does not start after it."""

    def start(path: str) -> int:
        with files.open(path) as file, pq.ParquetFile(file) as parquet:
            return _first_ordinal(parquet)

    return max(0, bisect_right(part_paths(snapshot), ordinal, key=start) - 1)


def _first_ordinal(parquet: pq.ParquetFile) -> int:
    return int(parquet.metadata.row_group(0).column(0).statistics.min)
