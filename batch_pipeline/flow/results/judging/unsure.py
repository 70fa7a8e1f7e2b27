"""Which answers that succeeded are unsure, by the rule of the job (`retry.escalate.where`).

Belongs here: the rule, evaluated over answers. What is done about an unsure answer is decided when
the night is planned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batch_pipeline.flow.dataset.choosing.expressions import Evaluator, Failed
from batch_pipeline.jobs import expressions
from batch_pipeline.jobs.expressions import NUMBER
from batch_pipeline.jobs.routes import ANSWER_COLUMNS
from batch_pipeline.jobs.spec import RetrySpec


@dataclass(frozen=True)
class Found:
    """Positions of the unsure answers, and the number of answers for which the rule is NULL or
    fails: those are kept like sure ones."""

    unsure: Sequence[int]
    unjudged: int


class Unsure:
    """The rule of a job, evaluated; `columns` are those of an answer that it reads."""

    def __init__(self, where: str) -> None:
        self._rule = Evaluator(expressions.parse(where, ANSWER_COLUMNS))
        self.columns = self._rule.expression.columns

    def of(self, answers: Sequence[Mapping[str, Any]]) -> Found:
        """What the rule says of answers, given by its columns."""
        if not answers:
            return Found((), 0)
        columns = {
            name: pa.array([answer[name] for answer in answers], _TYPES[ANSWER_COLUMNS[name]])
            for name in self.columns
        }
        # A table without columns would have no rows.
        table = pa.table(columns or {"nothing": pa.nulls(len(answers))})
        values = self._rule.values(table)
        return Found(
            [place for place, value in enumerate(values) if value is True],
            sum(value is None or isinstance(value, Failed) for value in values),
        )


_TYPES = {kind: pa.int64() if kind == NUMBER else pa.string() for kind in ANSWER_COLUMNS.values()}


def unsure_by(retry: RetrySpec) -> Unsure | None:
    """The rule of a job; None: it declares none."""
    where = None if retry.escalate is None else retry.escalate.where
    return None if where is None else Unsure(where)
