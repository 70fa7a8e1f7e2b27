"""The filters of a job: which rows are not sent, and why.

Belongs here: the order of the filters and what each says of a row. They are evaluated over batches
of rows in the processes that prepare (`prepare`); what a row is that a filter sets aside is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from batch_pipeline.flow.answers.outcomes import Status
from batch_pipeline.flow.dataset.choosing.expressions import Evaluator, Failed, texts_of
from batch_pipeline.flow.dataset.reading.row_json import JsonRow
from batch_pipeline.flow.dataset.reading.rows import Row
from batch_pipeline.flow.dataset.texts import language
from batch_pipeline.flow.dataset.texts.words import count_words
from batch_pipeline.jobs.expressions import parse

WHERE, WHERE_NULL = "where", "where:null"
MIN_WORDS, MAX_WORDS, LANGUAGE = "min_words", "max_words", "language"
WHERE_FAILED = "filters.where cannot be evaluated"
# Beyond this share of rows that `where` fails on, the expression is at fault and not the rows.
MOST_FAILED = 0.05


class SetAside(NamedTuple):
    """Why a row is not sent: status and reason, by which rows are counted, and the row's value."""

    status: Status
    reason: str
    value: str


class Filters:
    """The declared filters, ready to be asked."""

    def __init__(self, declared: Mapping[str, Any], where: Evaluator | None) -> None:
        self._where = where
        self._least, self._most = declared["min_words"], declared["max_words"]
        self._languages = frozenset(declared["languages"])

    def verdicts(self, rows: Sequence[Row], names: Sequence[str]) -> list[SetAside | None]:
        """Why each of these rows, which have no problem, is not sent; None: it is.

        Each is told by the first filter that it does not pass. `names` are the placeholders of the
        prompt, whose texts are those of a row.
        """
        found = self._by_where(rows)
        return [
            of_where or self._by_texts(row.texts(names))
            for row, of_where in zip(rows, found, strict=True)
        ]

    def _by_where(self, rows: Sequence[Row]) -> list[SetAside | None]:
        if self._where is None:
            return [None] * len(rows)
        columns = self._where.expression.columns
        texts = [texts_of(JsonRow(row.input, row.cells), columns) for row in rows]
        values = iter(self._where.of_rows([each for each in texts if isinstance(each, dict)]))
        return [_of_value(next(values) if isinstance(each, dict) else each) for each in texts]

    def _by_texts(self, texts: list[str] | None) -> SetAside | None:
        """None for a row with a document that is sent as it is: its words are not known."""
        return None if texts is None else self._by_text("\n".join(texts))

    def _by_text(self, text: str) -> SetAside | None:
        if self._least is not None or self._most is not None:
            words = count_words(text)
            if self._least is not None and words < self._least:
                return SetAside(Status.FILTERED, MIN_WORDS, str(words))
            if self._most is not None and words > self._most:
                return SetAside(Status.FILTERED, MAX_WORDS, str(words))
        if self._languages:
            other = language.other_language(text, self._languages)
            if other is not None:
                name, sure = other
                return SetAside(Status.FILTERED, f"{LANGUAGE}:{name}", f"{sure:.2f}")
        return None


def of(declared: Mapping[str, Any] | None) -> Filters | None:
    """The filters of a declaration; None without any."""
    if declared is None:
        return None
    where = declared["where"]
    return Filters(declared, None if where is None else Evaluator(parse(where)))


def columns_of(declared: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The columns that the filters read beside those of the template."""
    if declared is None or declared["where"] is None:
        return ()
    return parse(declared["where"]).columns


def _of_value(value: bool | Failed | None) -> SetAside | None:
    match value:
        case True:
            return None
        case False:
            return SetAside(Status.FILTERED, WHERE, "false")
        case None:
            return SetAside(Status.FILTERED, WHERE_NULL, "NULL")
        case _:
            return SetAside(Status.INVALID_INPUT, WHERE_FAILED, value.message)
