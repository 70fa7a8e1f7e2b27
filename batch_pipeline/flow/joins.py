"""Joins over Parquet files in bounded memory: item state is never held in the ledger.

DuckDB does the joining, Arrow the reading, so that remote homes work the same way.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from batch_pipeline.storage.files import Files

if TYPE_CHECKING:
    import duckdb

# Beyond this DuckDB spills to the staging folder.
MEMORY_LIMIT = "256MB"
BATCH_ROWS = 10_000
# A database gives back what it took for more only once it is closed: 170 bytes for each row.
MANY_ROWS = 100_000


# By home, one at most: a database that the next join goes on with.
_kept: dict[str, tuple[duckdb.DuckDBPyConnection, Path]] = {}
_keeping = threading.Lock()


@contextmanager
def tables(
    files: Files, sources: Mapping[str, tuple[Sequence[str], pa.Schema]], *, rows: int = 0
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection on which each name is a table over Parquet files (empty without any).

    What is made on it has to be TEMP: it goes with the connection, the database may stay. `rows` is
    how many are looked at by one query, where that may be a whole night.
    """
    with _database(files, keep=rows <= MANY_ROWS) as database, database.cursor() as connection:
        for name, (paths, schema) in sources.items():
            data = files.dataset(paths) if paths else schema.empty_table()
            connection.register(name, data)
        yield connection


@contextmanager
def _database(files: Files, *, keep: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database that nobody else uses meanwhile.

    To make one takes as long as to join some ten thousand rows, and a night joins a dozen times.
    One that has spilled or was used for much, or whose join failed, is not used again.
    """
    with files.staged() as folder:
        with _keeping:
            kept = _kept.pop(files.home, None)
        database, spill = kept or (_connect(folder), folder)
        try:
            yield database
        except BaseException:
            _discard(database, spill)
            raise
        if spill.exists() or not keep:
            _discard(database, spill)
        else:
            _keep(files.home, database, spill)


def _keep(home: str, database: duckdb.DuckDBPyConnection, spill: Path) -> None:
    with _keeping:
        former = list(_kept.values())
        _kept.clear()
        _kept[home] = (database, spill)
    for each in former:
        _discard(*each)


def _discard(database: duckdb.DuckDBPyConnection, spill: Path) -> None:
    database.close()
    shutil.rmtree(spill, ignore_errors=True)


def get_ready() -> None:
    """Load the database, at a moment when nothing else is to be done."""
    import_module("duckdb")


def _connect(spill: Path) -> duckdb.DuckDBPyConnection:
    import duckdb  # noqa: PLC0415  # heavy: a night that nothing is answered of does without

    return duckdb.connect(
        config={
            "memory_limit": MEMORY_LIMIT,
            "threads": 2,
            "temp_directory": str(spill),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )


def batches(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    """The rows of a query as a stream of Arrow batches."""
    reader: pa.RecordBatchReader = connection.sql(query).to_arrow_reader(BATCH_ROWS)
    yield from reader
