"""What the ledger keeps of a collected submission, counted again from its answers.

Where a home has lost its answers, they are made again from the rows of its results: a row has the
sum of all that its item was billed for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.flow import paths
from batch_pipeline.flow.dataset.requests import parse_custom_id, unit_of
from batch_pipeline.flow.gates.first_attempts import FirstAttempts
from batch_pipeline.flow.outcomes import Action, Outcome, Status
from batch_pipeline.flow.planning import manifests
from batch_pipeline.flow.recovery.found import Found
from batch_pipeline.flow.schemas import ANSWERS_SCHEMA, RESULTS_SCHEMA, REUSED, parquet_writer
from batch_pipeline.ledger.sums import Counts
from batch_pipeline.pricing.tokens import TOKENS
from batch_pipeline.storage.files import Files

_READ = [
    "custom_id", "id", "final", "counted", "status", "error_type", "error_message", "attempt",
    "collected_at", *TOKENS, "cost_usd",
]  # fmt: skip


@dataclass(frozen=True)
class Tally:
    """Number, counts and cost of a file of answers, and when they were collected."""

    answers: int
    counts: Counts
    cost_usd: Decimal
    collected_at: datetime


def of_answers(files: Files, path: str, manifest: str | None) -> Tally | None:
    """The tally of a file of answers; None where it has no row."""
    rows = files.read_columns(path, _READ).to_pylist()
    if not rows:
        return None
    sizes: list[int] = []
    before: list[int] = []
    if manifest is not None and files.glob(manifest):
        asked = manifests.read(files, manifest, ["request_bytes", "attempts_before"])
        sizes, before = (column.to_pylist() for column in asked.columns)
    first = FirstAttempts()
    measured_answers = measured_bytes = measured_tokens = 0
    for row in rows:
        parsed = parse_custom_id(row["custom_id"])
        number = parsed[1] if parsed is not None else 0
        known = number < len(sizes)
        tried = row["attempt"] - (before[number] if known else 0)
        first.count(row["id"], tried, _outcome(row))
        prompt = sum(row[name] for name in TOKENS if name != "output_tokens")
        if prompt and known:
            measured_answers += 1
            measured_bytes += sizes[number]
            measured_tokens += prompt
    first = first.most_frequent()
    counts = Counts(
        tokens={name: sum(row[name] for row in rows) for name in TOKENS},
        measured_answers=measured_answers,
        measured_bytes=measured_bytes,
        measured_tokens=measured_tokens,
        first_attempts=first.done,
        first_need_fix=first.needs_fix,
        first_errors=first.errors,
        examples=first.examples,
    )
    cost = sum((row["cost_usd"] for row in rows), Decimal(0))
    return Tally(len(rows), counts, cost, max(row["collected_at"] for row in rows))


def _outcome(row: dict[str, Any]) -> Outcome:
    """What an answer meant when it was judged, as far as the breaker asks for it."""
    status = Status(row["status"])
    if status is Status.SUCCEEDED:
        action = Action.KEEP
    elif row["final"]:
        action = Action.SET_ASIDE
    else:
        action = Action.RETRY if row["counted"] else Action.REOPEN
    return Outcome(status, action, row["error_type"], row["error_message"])


def answers_from_results(files: Files, one: Found, *, deduplicate: bool) -> str:
    """Write a submission's answers from its rows of results; returns the path."""
    assert one.account is not None
    shown = files.list(paths.results(one.job, one.partition), ".parquet")
    mine = pc.starts_with(pc.field("custom_id"), f"{one.token}_")
    # What was reused names the answer's own submission.
    wanted = mine & (pc.field("mode") != REUSED)
    rows = files.dataset(shown, RESULTS_SCHEMA).to_table(filter=wanted)
    # Of items with the same request one bears the costs; the others show the same answer.
    order = rows.sort_by([("custom_id", "ascending"), ("cost_usd", "descending")])
    seen: set[str] = set()
    first = []
    for at, name in enumerate(order.column("custom_id").to_pylist()):
        if name not in seen:
            seen.add(name)
            first.append(at)
    table = order.take(pa.array(first, pa.int64()))
    asked = zip(
        table.column("fingerprint").to_pylist(), table.column("id").to_pylist(), strict=True
    )
    units = [unit_of(mark, item, deduplicate=deduplicate) for mark, item in asked]
    ours = pa.array([True] * len(first))
    columns = {
        **{name: table.column(name) for name in table.column_names},
        "unit": pa.array(units, pa.string()), "final": ours, "counted": ours,
        # Not among the results: it is then taken from the tokens.
        "other_way_usd": pa.nulls(len(first), ANSWERS_SCHEMA.field("other_way_usd").type),
        **{name: pa.nulls(len(first), pa.string()) for name in ("variant", "escalate")},
    }  # fmt: skip
    answers = pa.table([columns[name] for name in ANSWERS_SCHEMA.names], schema=ANSWERS_SCHEMA)
    path = f"{paths.answers(one.job, one.partition, one.account)}/{one.token}.parquet"
    with files.staged() as staged:
        with parquet_writer(staged, ANSWERS_SCHEMA) as writer:
            writer.write_table(answers)
        files.make_durable(staged)
        files.publish(staged, path)
    return path
