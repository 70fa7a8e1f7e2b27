"""The process that evaluates expressions, and its other end.

An expression of a few words can take minutes or gigabytes for one row, like
`regexp_matches(text, text)`, and DuckDB cannot be interrupted within a row. So a process of its own
evaluates them (`limited_process`).

Belongs here: its limits, and what is sent to and fro. What follows where it was ended is in
`expressions`.
"""

from __future__ import annotations

import os
from threading import Lock
from typing import TYPE_CHECKING

import orjson
import pyarrow as pa

from batch_pipeline.flow.dataset.limited_process import (
    LimitedProcess,
    allow_seconds,
    run_as_process,
)
from batch_pipeline.jobs.expressions import locked_database

if TYPE_CHECKING:
    import duckdb

# Of processor time, for a batch (a row, where the row is tried alone). Expressions take some
# microseconds for a document, and rows are up to 256 MB.
MOST_SECONDS = 10
# DuckDB has a limit of its own, which lists and long texts escape.
MOST_BYTES = 1 << 30
# Why a row failed is found out by a query of its own, about a millisecond, for the first of them.
_MESSAGES_OF_A_BATCH = 10
_MESSAGE_CHARACTERS = 200
_ROWS = "rows_of_batch"
# How a value is read: NULL is an answer of its own, beside the NULL that TRY makes of a failure.
_QUERY = f"SELECT TRY(coalesce(CAST(({{}}) AS TINYINT), 2::TINYINT)) FROM {_ROWS}"  # noqa: S608
_VALUES = {0: False, 1: True, 2: None}
_SQL, _SECONDS = b"sql", b"seconds"
_PURPOSE = "evaluates expressions (filters.where, routes, retry.escalate.where)"

# The value for each row; a text says why the expression failed for it.
Values = list[bool | str | None]


_lock = Lock()
_running: LimitedProcess | None = None


def evaluate(sql: str, rows: pa.Table) -> Values | None:
    """The value of a checked expression for each row; None where the process was ended, mostly for
    what the expression takes for one of them."""
    global _running  # noqa: PLW0603  # starting it takes half a second, so there is one for all
    sink = pa.BufferOutputStream()
    table = rows.replace_schema_metadata({_SQL: sql, _SECONDS: str(MOST_SECONDS)})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with _lock:
        if _running is None:
            # What Arrow's other pools reserve counts as used.
            environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
            _running = LimitedProcess(__name__, _PURPOSE, environment, MOST_BYTES)
        try:
            values: Values = orjson.loads(_running.ask(sink.getvalue()))
            return values
        except (EOFError, OSError):
            _running.end()
            _running = None
            return None
        except BaseException:
            # Of an answer that is not waited for the next request must not read anything.
            _running.end()
            _running = None
            raise


def _answer(connection: duckdb.DuckDBPyConnection, request: bytes) -> bytes:
    with pa.ipc.open_stream(request) as reader:
        rows = reader.read_all()
    asked = rows.schema.metadata
    allow_seconds(int(asked[_SECONDS]))
    return orjson.dumps(_values(connection, asked[_SQL].decode(), rows))


def _values(connection: duckdb.DuckDBPyConnection, sql: str, rows: pa.Table) -> Values:
    import duckdb  # noqa: PLC0415  # for this process alone

    try:
        found = _query(connection, _QUERY.format(sql), rows)
    except (duckdb.InternalException, duckdb.FatalException):
        # The database is of no use any more.
        raise
    except duckdb.Error as error:
        # What TRY lets through, as where memory is short: the row is found by halves.
        if rows.num_rows == 1:
            return [_failed(error)]
        middle = rows.num_rows // 2
        halves = rows.slice(0, middle), rows.slice(middle)
        return [value for half in halves for value in _values(connection, sql, half)]
    messages = 0
    values: Values = []
    for number, value in enumerate(found):
        if value is not None:
            values.append(_VALUES[value])
            continue
        messages += 1
        alone = rows.slice(number, 1) if messages <= _MESSAGES_OF_A_BATCH else None
        values.append(_why_failed(connection, sql, alone))
    return values


def _why_failed(connection: duckdb.DuckDBPyConnection, sql: str, row: pa.Table | None) -> str:
    import duckdb  # noqa: PLC0415

    if row is not None:
        try:
            _query(connection, f"SELECT ({sql}) FROM {_ROWS}", row)  # noqa: S608  # as checked
        except duckdb.Error as error:
            return _failed(error)
    return "the expression cannot be evaluated for this row"


def _query(connection: duckdb.DuckDBPyConnection, query: str, rows: pa.Table) -> list[int | None]:
    connection.register(_ROWS, rows)
    try:
        found = connection.execute(query).fetchall()
    finally:
        connection.unregister(_ROWS)
    return [value for (value,) in found]


def _failed(error: Exception) -> str:
    """DuckDB's message without the line of SQL that it shows; it may quote the row's value.

    Where memory is short the error is raised, which ends the process, as the system does at its
    limit.
    """
    import duckdb  # noqa: PLC0415

    if isinstance(error, duckdb.OutOfMemoryException):
        raise error
    return " ".join(str(error).split("LINE 1:")[0].split())[:_MESSAGE_CHARACTERS]


if __name__ == "__main__":
    with locked_database() as database:
        run_as_process(lambda request: _answer(database, request))
