"""Joins over Parquet files in bounded memory, from which the state of each item follows.

DuckDB does the joining. Files on a disk are read by Arrow. Files of a remote home are read by
DuckDB itself: Arrow starts a scan while it holds Python's lock, and may then wait for a thread in
which fsspec opens a file and waits for that lock, for ever.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from batch_pipeline.storage.duckdb_filesystem import ColumnReads
from batch_pipeline.storage.files import Files

if TYPE_CHECKING:
    import duckdb

# Above this limit DuckDB spills to a staging folder.
MEMORY_LIMIT = "256MB"
BATCH_ROWS = 10_000
# Ctrl-C or a stop by a service manager, as DuckDB tells it: a RuntimeError of this text.
INTERRUPTED = "Query interrupted"


@contextmanager
def tables(
    files: Files, sources: Mapping[str, tuple[Sequence[str], pa.Schema]]
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to an empty database with a table over Parquet files for each name.

    A name without files is an empty table of its schema, and a column that a file lacks is NULL.
    The database, and what it spilled, is gone at the end of the block. Opening one takes about
    30 ms. Raises KeyboardInterrupt where a query is interrupted: that is no fault of the night.
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
                add_files(connection, name, [(files, paths)], schema)
            try:
                yield connection
            except RuntimeError as error:
                if str(error) == INTERRUPTED:
                    raise KeyboardInterrupt from error
                raise


def add_files(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    sources: Sequence[tuple[Files, Sequence[str]]],
    schema: pa.Schema,
) -> None:
    """Make Parquet files the table `name`, in place of a table of that name.

    Without files it is empty, and a column that a file lacks is NULL.
    """
    import pyarrow.dataset as ds  # noqa: PLC0415  # heavy, as DuckDB is

    sources = [(files, paths) for files, paths in sources if paths]
    if not any(files.is_remote for files, _ in sources):
        found = [files.dataset(paths, schema) for files, paths in sources]
        connection.register(name, ds.dataset(found) if found else schema.empty_table())
        return
    connection.register(f"{name}_columns", schema.empty_table())
    pieces = [f"{name}_columns"]
    for number, (files, paths) in enumerate(sources):
        pieces.append(f"{name}_{number}")
        if files.is_remote:
            _register_filesystem(connection, files)
            urls = [glob.escape(url) for url in files.urls(paths)]
            connection.read_parquet(urls, union_by_name=True).create_view(pieces[-1])
        else:
            connection.register(pieces[-1], files.dataset(paths, schema))
    union = " UNION ALL BY NAME ".join(f"SELECT * FROM {piece}" for piece in pieces)  # noqa: S608
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {union}")


def _register_filesystem(connection: duckdb.DuckDBPyConnection, files: Files) -> None:
    protocol = files.filesystem.protocol
    name = protocol if isinstance(protocol, str) else protocol[0]
    if not connection.filesystem_is_registered(name):
        connection.register_filesystem(ColumnReads(files.filesystem))


def batches(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    """The rows of a query as a stream of Arrow batches."""
    reader: pa.RecordBatchReader = connection.sql(query).to_arrow_reader(BATCH_ROWS)
    yield from reader
