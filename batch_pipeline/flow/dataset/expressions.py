"""Expressions of a declaration, evaluated over rows: true, false, NULL, or failed, for each row.

Belongs here: what a row's columns are for an expression, and which row it is that fails. What may
stand in an expression is in `jobs.expressions`; what follows from a value is the caller's.

A column is the text of the row's JSON: a text as it is, any other value as its JSON text, a null
and a missing key as NULL. So an expression means the same for each file format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from batch_pipeline.flow.dataset.reading.row_json import CellProblem, JsonRow, column_text
from batch_pipeline.jobs.expressions import Expression, locked_database

if TYPE_CHECKING:
    import duckdb

# The bounds of a batch: DuckDB works on 2,048 rows at a time.
BATCH_ROWS = 2_048
BATCH_BYTES = 4 << 20
# Why a row failed is found out by a query of its own, about a millisecond, for the first of them.
_MESSAGES = 100
_MESSAGE_CHARACTERS = 200
_ROWS = "rows_of_batch"
# How a value is read: NULL is an answer of its own, beside the NULL that TRY makes of a failure.
_QUERY = f"SELECT TRY(coalesce(CAST(({{}}) AS TINYINT), 2::TINYINT)) FROM {_ROWS}"  # noqa: S608
_VALUES: Mapping[int, bool | None] = {0: False, 1: True, 2: None}


class Failed(NamedTuple):
    """An expression could not be evaluated for a row, and why (a line of text)."""

    message: str


Value = bool | None | Failed


class Evaluator:
    """One expression, in an open locked database."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, expression: Expression) -> None:
        self._connection = connection
        self.expression = expression
        self._messages = 0

    def values(self, rows: pa.Table) -> list[Value]:
        """The value for each row of a table that has the expression's columns, of the types that
        the expression was parsed for. A failure concerns its row alone."""
        import duckdb  # noqa: PLC0415

        if not self.expression.columns:
            # A table without columns has no rows for DuckDB.
            rows = pa.table({"nothing": pa.nulls(rows.num_rows)})
        try:
            found = self._query(_QUERY, rows)
        except (duckdb.InternalException, duckdb.FatalException):
            raise
        except duckdb.Error as error:
            # What TRY lets through, as where memory is short: the row is found by halves.
            if rows.num_rows == 1:
                return [Failed(_told(error))]
            middle = rows.num_rows // 2
            return [*self.values(rows.slice(0, middle)), *self.values(rows.slice(middle))]
        return [
            self._failed(rows, row) if value is None else _VALUES[value]
            for row, value in enumerate(found)
        ]

    def of_rows(self, rows: Sequence[Mapping[str, str | None]]) -> list[Value]:
        """The value for each row, given as the texts of its columns (`texts_of`)."""
        columns = {
            name: pa.array([row[name] for row in rows], pa.string())
            for name in self.expression.columns or ("nothing",)
            if rows and name in rows[0]
        }
        return self.values(pa.table(columns or {"nothing": pa.nulls(len(rows))})) if rows else []

    def _query(self, query: str, rows: pa.Table) -> list[int | None]:
        self._connection.register(_ROWS, rows)
        try:
            found = self._connection.execute(query.format(self.expression.sql)).fetchall()
        finally:
            self._connection.unregister(_ROWS)
        return [value for (value,) in found]

    def _failed(self, rows: pa.Table, row: int) -> Failed:
        import duckdb  # noqa: PLC0415

        self._messages += 1
        if self._messages <= _MESSAGES:
            try:
                self._query(f"SELECT ({{}}) FROM {_ROWS}", rows.slice(row, 1))  # noqa: S608
            except duckdb.Error as error:
                return Failed(_told(error))
        return Failed("the expression cannot be evaluated for this row")


@contextmanager
def evaluators(expressions: Sequence[Expression]) -> Iterator[list[Evaluator]]:
    """An evaluator for each expression; without expressions no database is opened."""
    if not expressions:
        yield []
        return
    with locked_database() as connection:
        yield [Evaluator(connection, expression) for expression in expressions]


def texts_of(row: JsonRow, columns: Sequence[str]) -> dict[str, str | None] | Failed:
    """What a row's columns are for an expression; Failed where one of them is no valid text."""
    texts: dict[str, str | None] = {}
    for column in columns:
        if row.cells.get(column) is None:
            texts[column] = None
            continue
        try:
            texts[column] = column_text(row, column)
        except CellProblem as problem:
            return Failed(str(problem))
    return texts


def _told(error: Exception) -> str:
    """DuckDB's message without the line of SQL that it shows; it may quote the row's value."""
    return " ".join(str(error).split("LINE 1:")[0].split())[:_MESSAGE_CHARACTERS]
