"""Expressions of a declaration, evaluated over rows: true, false, NULL, or failed, for each row.

Belongs here: what a row's columns are for an expression, and what becomes of a row that takes too
much time or memory. What may stand in an expression is in `jobs.expressions`, the process that
evaluates it in `expression_process`; what follows from a value is the caller's.

A column is the text of the row's JSON: a text as it is, any other value as its JSON text, a null
and a missing key as NULL; a document is its path. So an expression means the same for each file
format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from batch_pipeline.flow.dataset.choosing import expression_process
from batch_pipeline.flow.dataset.choosing.expression_process import MOST_BYTES, MOST_SECONDS
from batch_pipeline.flow.dataset.documents.reference import MARK, is_mark
from batch_pipeline.flow.dataset.reading.row_json import CellProblem, JsonRow, column_text
from batch_pipeline.jobs.expressions import Expression

# The bounds of a batch: DuckDB works on 2,048 rows at a time.
BATCH_ROWS = 2_048
BATCH_BYTES = 4 << 20
# After this number of rows that took too much, an expression is tried on no further row.
MOST_ENDED = 5
TOOK_TOO_MUCH = (
    f"the expression takes over {MOST_SECONDS} seconds or {MOST_BYTES >> 30} GB for this row"
)
NOT_TRIED = f"not tried, because {MOST_ENDED} rows before took too much time or memory"


class Failed(NamedTuple):
    """An expression could not be evaluated for a row, and why (a line of text)."""

    message: str


Value = bool | None | Failed


class Evaluator:
    """One expression, evaluated over batches of rows."""

    def __init__(self, expression: Expression) -> None:
        self.expression = expression
        self._ended = 0

    def values(self, rows: pa.Table) -> list[Value]:
        """The value for each row of a table that has the expression's columns, of the types that
        the expression was parsed for. A failure concerns its row alone."""
        if not self.expression.columns:
            # A table without columns has no rows for DuckDB.
            rows = pa.table({"nothing": pa.nulls(rows.num_rows)})
        if self._ended >= MOST_ENDED:
            return [Failed(NOT_TRIED)] * rows.num_rows
        found = expression_process.evaluate(self.expression.sql, rows)
        if found is not None:
            return [Failed(value) if isinstance(value, str) else value for value in found]
        if rows.num_rows == 1:
            self._ended += 1
            return [Failed(TOOK_TOO_MUCH)]
        # Each row has the time of a batch.
        alone = (rows.slice(number, 1) for number in range(rows.num_rows))
        return [value for row in alone for value in self.values(row)]

    def of_rows(self, rows: Sequence[Mapping[str, str | None]]) -> list[Value]:
        """The value for each row, given as the texts of its columns (`texts_of`)."""
        if not rows:
            return []
        names = self.expression.columns or ("nothing",)
        return self.values(
            pa.table(
                {name: pa.array([row.get(name) for row in rows], pa.string()) for name in names}
            )
        )


def texts_of(row: JsonRow, columns: Sequence[str]) -> dict[str, str | None] | Failed:
    """What a row's columns are for an expression; Failed where one of them is no valid text."""
    texts: dict[str, str | None] = {}
    for column in columns:
        cell = row.cells.get(column)
        if cell is None:
            texts[column] = None
            continue
        if is_mark(cell):
            path = cell[MARK].get("path") if isinstance(cell[MARK], dict) else None
            texts[column] = path if isinstance(path, str) else None
            continue
        try:
            texts[column] = column_text(row, column)
        except CellProblem as problem:
            return Failed(str(problem))
    return texts
