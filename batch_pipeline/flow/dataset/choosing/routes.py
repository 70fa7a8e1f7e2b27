"""The route of each row: the first whose expression is true for it, or the one of the model that
the row names.

Belongs here: finding it, for batches of rows. Which request follows from a route is in `requests`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from batch_pipeline.flow.dataset.choosing.expressions import (
    BATCH_BYTES,
    BATCH_ROWS,
    Evaluator,
    Failed,
    texts_of,
)
from batch_pipeline.flow.dataset.reading.row_json import CellProblem, column_text, row_of_json
from batch_pipeline.flow.dataset.reading.rows import Row
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.jobs import expressions

# The name of a route, None for the job's own way, or why a rule cannot be evaluated for the row.
Found = str | None | Failed


# Why a row is set aside that names no model, or another one than those declared.
UNLISTED_MODEL = "a model that rows may not name"


class Unlisted(Failed):
    """A row names a model that it may not name, or none."""


class Router:
    """Finds routes by the expressions of a declaration, or by the model that a row names."""

    def __init__(self, declaration: Declaration) -> None:
        self._by_value = {
            route.equals[1]: str(number)
            for number, route in enumerate(declaration.routes, 1)
            if route.equals is not None
        }
        self._column = next((route.equals[0] for route in declaration.routes if route.equals), "")
        ruled = (route for route in declaration.routes if route.equals is None)
        parsed = [expressions.parse(route.where) for route in ruled]
        self._rules = [Evaluator(expression) for expression in parsed]
        columns = (column for each in self._rules for column in each.expression.columns)
        self._columns = list(dict.fromkeys(columns))

    def routed(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Found]]:
        """Each row with its route; without routes one row after the other, as it is read."""
        if not self._rules:
            for row in rows:
                yield row, self._named_by(row) if self._by_value else None
            return
        for batch in _batches(rows):
            yield from zip(batch, self.of(batch), strict=True)

    def _named_by(self, row: Row) -> Found:
        """The route of the model that a row names."""
        if row.problem is not None:
            return None
        try:
            named = column_text(row_of_json(row.input), self._column)
        except CellProblem as problem:
            return Unlisted(str(problem))
        found = self._by_value.get(named)
        if found is not None:
            return found
        listed = ", ".join(self._by_value)
        what = f"{named[:80]!r} in column {self._column!r}"
        return Unlisted(f"{what} is none of per_row.model_id.models: {listed}")

    def of(self, rows: Sequence[Row]) -> list[Found]:
        """The route of each of these rows."""
        found: list[Found] = [None] * len(rows)
        texts = {}
        for number, row in enumerate(rows):
            # What is set aside for itself is asked by no route.
            if row.problem is None:
                known = texts_of(row_of_json(row.input), self._columns)
                if isinstance(known, Failed):
                    found[number] = known
                else:
                    texts[number] = known
        for place, evaluator in enumerate(self._rules, 1):
            left = list(texts)
            for number, value in zip(
                left, evaluator.of_rows([texts[n] for n in left]), strict=True
            ):
                if isinstance(value, Failed):
                    found[number] = Failed(f"routes.{place - 1}.where: {value.message}")
                elif value:
                    found[number] = str(place)
                if value:
                    del texts[number]
        return found


def columns_of(declaration: Declaration) -> list[tuple[str, str]]:
    """The columns that the rules read, each with the key of the rule."""
    named = [route.equals[0] for route in declaration.routes if route.equals is not None]
    return [(column, "per_row.model_id.column") for column in named[:1]] + [
        (column, f"routes.{number}.where")
        for number, route in enumerate(declaration.routes)
        if route.equals is None
        for column in expressions.parse(route.where).columns
    ]


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row.input)
        if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
