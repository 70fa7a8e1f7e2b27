"""The snapshot: a night's input as it was read, immutable, one row an item.

Belongs here: its columns, and how its rows are found again. Writing it is in `snapshot_writer`;
when a snapshot is taken, and what follows from it, is in `input_dataset`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.flow.paths import part_name

if TYPE_CHECKING:
    import duckdb

    from batch_pipeline.ledger.snapshots import NewSnapshot
    from batch_pipeline.storage.files import Files

# `request_bytes` is the size of the parameters as they go on the wire. A row that is not sent has
# no unit but a `status`, which is its status in the results, and a `reason`, the same for all such
# rows; `detail` says more of this row. A line's `row` counts from where its piece begins. `input`
# is the row as JSON, `places` where in it the texts of the request stand (`row_json.places_of`), if
# that is known. `kept_from` is the hash of the former declaration that made the request of a kept
# unit.
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
    ]
)
# Parts are looked at together up to so many rows, and so many parts if their sizes differ: a look
# takes a query 10 ms each time.
ROWS_TOGETHER = 20_000
MOST_TOGETHER = 8
# Rows of a piece count from a multiple of this: pieces are written at the same time.
ORDINALS_A_PIECE = 1 << 32


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
