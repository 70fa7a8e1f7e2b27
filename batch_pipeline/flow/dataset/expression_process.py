"""The process that evaluates expressions, and its other end.

An expression of a few words can take minutes or gigabytes for one row, like
`regexp_matches(text, text)`, and DuckDB cannot be interrupted within a row. So a process of its own
evaluates them, which the operating system ends at a limit of processor time or memory. It is
started for the first batch, and ends with this process, because the pipe between them closes then.

Belongs here: the process, its limits, and what is sent to and fro. What follows where it was ended
is in `expressions`.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Lock
from typing import TYPE_CHECKING

import pyarrow as pa

from batch_pipeline.flow.dataset.process_pool import WorkerDiedError
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
_READY = "ready"
_SQL, _SECONDS = b"sql", b"seconds"

# The value for each row; a text says why the expression failed for it.
Values = list[bool | str | None]


class _Process:
    """A running process; only one thread at a time may ask."""

    def __init__(self) -> None:
        ours, theirs = Pipe()
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            # The same modules, wherever this process has them from.
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                # What Arrow's other pools reserve counts as used.
                "ARROW_DEFAULT_MEMORY_POOL": "system",
            }
            # In a group of its own Ctrl-C does not reach it: it ends when the pipe closes.
            self._process = subprocess.Popen(  # noqa: S603  # of this package
                command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, process_group=0,
            )  # fmt: skip
        self._pipe = ours
        try:
            self._pipe.recv()
        except EOFError:
            self.end()
            raise WorkerDiedError(
                "The process that evaluates expressions (filters.where, routes, "
                "retry.escalate.where) could not be started, perhaps because the machine is out of "
                "memory. Nothing is lost: run again."
            ) from None

    def ask(self, request: bytes) -> Values:
        """The answer to a request; raises EOFError or OSError where the process has ended."""
        self._pipe.send_bytes(request)
        found: Values = self._pipe.recv()
        return found

    def end(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.wait()


_lock = Lock()
_running: _Process | None = None


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
            _running = _Process()
        try:
            return _running.ask(sink.getvalue())
        except (EOFError, OSError):
            _running.end()
            _running = None
            return None
        except BaseException:
            # Of an answer that is not waited for the next request must not read anything.
            _running.end()
            _running = None
            raise


def serve(pipe: Connection) -> None:
    """Answer requests until the other end closes: the work of the process."""
    with locked_database() as connection:
        pipe.send(_READY)
        while True:
            try:
                request = pipe.recv_bytes()
            except EOFError:
                return
            with pa.ipc.open_stream(request) as reader:
                rows = reader.read_all()
            asked = rows.schema.metadata
            _allow_seconds(int(asked[_SECONDS]))
            pipe.send(_values(connection, asked[_SQL].decode(), rows))


def _allow_seconds(seconds: int) -> None:
    """Have the system end this process where it computes for longer than this from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    # Where a system does not know a limit, it goes without.
    with suppress(OSError, ValueError):
        resource.setrlimit(what, (most, hard))


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
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_DATA, MOST_BYTES)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Connection(int(sys.argv[1])) as pipe:
        serve(pipe)
