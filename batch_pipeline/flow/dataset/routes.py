"""The route of each row: the first whose expression is true for it.

Belongs here: finding it, for batches of rows. Which request follows from a route is in `requests`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from batch_pipeline.flow.dataset.expressions import (
    BATCH_BYTES,
    BATCH_ROWS,
    Evaluator,
    Failed,
    texts_of,
)
from batch_pipeline.flow.dataset.reading.row_json import row_of_json
from batch_pipeline.flow.dataset.reading.rows import Row
from batch_pipeline.flow.dataset.requests import Declaration
from batch_pipeline.jobs import expressions

# The name of a route, None for the job's own way, or why a rule cannot be evaluated for the row.
Found = str | None | Failed


class Router:
    """Finds routes by the expressions of a declaration."""

    def __init__(self, declaration: Declaration) -> None:
        parsed = [expressions.parse(route.where) for route in declaration.routes]
        self._rules = [Evaluator(expression) for expression in parsed]
        columns = (column for each in self._rules for column in each.expression.columns)
        self._columns = list(dict.fromkeys(columns))

    def routed(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Found]]:
        """Each row with its route; without routes one row after the other, as it is read."""
        if not self._rules:
            for row in rows:
                yield row, None
            return
        for batch in _batches(rows):
            yield from zip(batch, self.of(batch), strict=True)

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
    return [
        (column, f"routes.{number}.where")
        for number, route in enumerate(declaration.routes)
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
