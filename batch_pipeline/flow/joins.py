"""Joins over Parquet files in bounded memory: item state is never held in the ledger.

DuckDB does the joining, Arrow the reading, so that remote homes work the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from batch_pipeline.state.files import Files

# Beyond this DuckDB spills to the staging folder.
MEMORY_LIMIT = "256MB"
BATCH_ROWS = 10_000


@contextmanager
def tables(
    files: Files, sources: Mapping[str, tuple[Sequence[str], pa.Schema]]
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection on which each name is a table over Parquet files (empty without any)."""
    with files.staged() as spill:
        connection = duckdb.connect(
            config={
                "memory_limit": MEMORY_LIMIT,
                "threads": 2,
                "temp_directory": str(spill),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            }
        )
        try:
            for name, (paths, schema) in sources.items():
                data = files.dataset(paths) if paths else schema.empty_table()
                connection.register(name, data)
            yield connection
        finally:
            connection.close()


def batches(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    """The rows of a query as a stream of Arrow batches."""
    reader: pa.RecordBatchReader = connection.sql(query).to_arrow_reader(BATCH_ROWS)
    yield from reader
