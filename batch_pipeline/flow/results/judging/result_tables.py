"""Columns of answers and results, made of what the judge read from result lines.

Belongs here: which column of the two tables comes from where, and the rows of items that asked the
same. What a line means is decided in `judge`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.flow.answers.schemas import ANSWERS_SCHEMA, RESULTS_SCHEMA, SUMMED, USD
from batch_pipeline.flow.dataset.requests.declaration import custom_id
from batch_pipeline.ledger.database.amounts import PICODOLLARS
from batch_pipeline.ledger.submissions.submissions import Submission
from batch_pipeline.pricing.tokens import TOKENS

# What is read from a line, in this order; other columns come from the manifest or are the same in
# all rows.
JUDGED = (
    "number", "final", "counted", "status", "content", "parsed", "stop_reason", "error_type",
    "error_message", "model", *TOKENS, "picodollars", "escalate",
    "details", "turn", "container",
)  # fmt: skip
_OF_THE_MANIFEST = ("unit", "id", "attempt", "fingerprint", "route", "variant")
Judged = tuple[Any, ...]
_PICODOLLAR = pa.scalar(1 / PICODOLLARS, pa.decimal128(12, 12))


@dataclass(frozen=True)
class Chunk:
    """Rows of `ANSWERS_SCHEMA` and `RESULTS_SCHEMA` that some lines come to."""

    answers: pa.Table
    results: pa.Table


class ResultTables:
    """Makes the rows of one submission's answers.

    `manifest` has a row for each request; `followers` are the items that asked the same, by the
    request's number: (ordinal, id).
    """

    def __init__(
        self,
        submission: Submission,
        manifest: pa.Table,
        followers: Mapping[int, Sequence[tuple[int, str]]],
        simulated: bool,
    ) -> None:
        self._token = submission.token
        # Without the further turns, which may be long.
        self._manifest = manifest.select([*_OF_THE_MANIFEST, *(f"prior_{n}" for n in SUMMED)])
        self._followers = followers
        constants = {
            "mode": submission.engine,
            "batch_id": submission.batch_id,
            "simulated": simulated,
            "collected_at": datetime.now(UTC),
            "answered_by": None,
        }
        self._constants = {
            name: pa.scalar(value, ANSWERS_SCHEMA.field(name).type)
            for name, value in constants.items()
        }

    def chunk(self, judged: Mapping[str, Sequence[Any]], other_way: Sequence[int | None]) -> Chunk:
        """The rows of answers, given as columns by the names of `JUDGED`.

        `other_way` is what each would have cost by the other engine, in picodollars; None where it
        is what the price of its tokens says.
        """
        numbers = judged["number"]
        asked = self._manifest.take(pa.array(numbers))
        columns: dict[str, Any] = {
            **judged,
            **{name: asked.column(name).chunk(0) for name in _OF_THE_MANIFEST},
            **{name: pa.repeat(value, len(numbers)) for name, value in self._constants.items()},
            "custom_id": [custom_id(self._token, number) for number in numbers],
            "cost_usd": _usd(judged["picodollars"]),
            "other_way_usd": _usd(other_way),
        }
        table = pa.table([columns[name] for name in ANSWERS_SCHEMA.names], schema=ANSWERS_SCHEMA)
        return Chunk(table, self._results(table, asked, numbers))

    def _results(self, answers: pa.Table, asked: pa.Table, numbers: Sequence[int]) -> pa.Table:
        """The results of requests that are settled: rows of the items that bear the costs, then
        rows of the items that asked the same, which cost nothing."""
        columns = {name: answers.column(name) for name in RESULTS_SCHEMA.names}
        for name in SUMMED:
            total = pc.add(columns[name], asked.column(f"prior_{name}"))
            columns[name] = total.cast(RESULTS_SCHEMA.field(name).type)
        final = answers.column("final")
        bearers = pa.table(columns, schema=RESULTS_SCHEMA).filter(final)
        if not self._followers:
            return bearers
        others = [
            (row, item_id)
            for row, (number, is_final) in enumerate(zip(numbers, final.to_pylist(), strict=True))
            for _, item_id in (self._followers.get(number, ()) if is_final else ())
        ]
        same = answers.take(pa.array([row for row, _ in others], pa.int64()))
        columns = {name: same.column(name) for name in RESULTS_SCHEMA.names}
        columns["id"] = [item_id for _, item_id in others]
        columns |= dict.fromkeys(SUMMED, [0] * len(others))
        return pa.concat_tables([bearers, pa.table(columns, schema=RESULTS_SCHEMA)])


def _usd(picodollars: Sequence[int | None]) -> pa.Array:
    """Whole picodollars as amounts in USD, exact: the scale of `USD` is 12."""
    whole = pa.array(picodollars, pa.int64()).cast(pa.decimal128(19))
    return pc.multiply(whole, _PICODOLLAR).cast(USD)
