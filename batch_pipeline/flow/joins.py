"""Joins over Parquet files in bounded memory, from which the state of each item follows.

DuckDB does the joining and Arrow the reading, so that remote homes work the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from batch_pipeline.storage.files import Files

if TYPE_CHECKING:
    import duckdb

# Above this limit DuckDB spills to a staging folder.
MEMORY_LIMIT = "256MB"
BATCH_ROWS = 10_000


@contextmanager
def tables(
    files: Files, sources: Mapping[str, tuple[Sequence[str], pa.Schema]]
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to an empty database with a table over Parquet files for each name.

    A name without files is an empty table of its schema, and a column that a file lacks is NULL.
    The database, and what it spilled, is gone at the end of the block. Opening one takes about
    30 ms.
    """
    import duckdb  # noqa: PLC0415  # heavy: `status` and others join nothing

    with files.staged() as spill:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": MEMORY_LIMIT,
            "threads": 2,
            "temp_directory": str(spill),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        with closing(duckdb.connect(config=config)) as connection:
            for name, (paths, schema) in sources.items():
                data = files.dataset(paths, schema) if paths else schema.empty_table()
                connection.register(name, data)
            yield connection


def batches(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    """The rows of a query as a stream of Arrow batches."""
    reader: pa.RecordBatchReader = connection.sql(query).to_arrow_reader(BATCH_ROWS)
    yield from reader
