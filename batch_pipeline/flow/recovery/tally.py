"""What the ledger keeps of a collected submission, counted again from its answers.

Where a home has lost its answers, they are made again from the rows of its results: a row has the
sum of all that its item was billed for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.errors import UsageError
from batch_pipeline.flow import paths
from batch_pipeline.flow.answers.outcomes import Action, Outcome, Status
from batch_pipeline.flow.answers.schemas import (
    ANSWERS_SCHEMA,
    RESULTS_SCHEMA,
    REUSED,
    parquet_writer,
)
from batch_pipeline.flow.dataset.requests.declaration import Declaration, parse_custom_id, unit_of
from batch_pipeline.flow.dataset.requests.sizes import prompt_sizes
from batch_pipeline.flow.gates.first_attempts import FirstAttempts
from batch_pipeline.flow.gates.prices import price_at
from batch_pipeline.flow.planning import manifests, new_shards, variants
from batch_pipeline.flow.recovery.found import Found
from batch_pipeline.flow.results.judging.asked import Asked, asked_of
from batch_pipeline.ledger.home.identity import Sent
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.ledger.sums import MODEL_COUNTS, Counts
from batch_pipeline.pricing.bounds import Part
from batch_pipeline.pricing.tokens import CACHE_TOKENS, PROMPT_TOKENS, TOKENS
from batch_pipeline.storage.files import Files

_READ = [
    "custom_id", "id", "final", "counted", "status", "error_type", "error_message", "attempt",
    "collected_at", *TOKENS, "cost_usd", "variant",
]  # fmt: skip
# Columns of answers that the results do not have.
_UNKNOWN = ("variant", "escalate", "turn", "container")
_MEASURED = ("measured_answers", "measured_bytes", "measured_tokens")


@dataclass(frozen=True)
class Tally:
    """Number, counts and cost of a file of answers, and when they were collected."""

    answers: int
    counts: Counts
    cost_usd: Decimal
    collected_at: datetime


@dataclass(frozen=True)
class Requests:
    """What a submission asked: its manifest, and by variant how; empty where that is not known."""

    manifest: pa.Table
    asked: Mapping[str | None, Asked]
    parts: Sequence[Part] | None


def requests_of(files: Files, sent: Sent | None, snapshot: NewSnapshot | None) -> Requests | None:
    """What a submission asked, as far as its manifest and its snapshot are there."""
    if sent is None or not files.glob(sent.manifest):
        return None
    manifest = manifests.read(files, sent.manifest)
    if snapshot is None:
        return Requests(manifest, {}, None)
    declaration = Declaration.from_json(snapshot.declaration)
    parts = new_shards.parts_of(manifest, declaration)
    try:
        at = datetime.fromtimestamp(sent.intent_at, UTC)
        price = price_at(declaration, at, sent.stated_prices)
        return Requests(manifest, asked_of(manifest, declaration, sent, price), parts)
    except UsageError:  # no price is known any more
        return Requests(manifest, {}, parts)


def of_answers(files: Files, path: str, requests: Requests | None) -> Tally | None:
    """The tally of a file of answers; None where it has no row."""
    rows = files.read_columns(path, _READ).to_pylist()
    if not rows:
        return None
    sizes: list[int] = []
    before: list[int] = []
    if requests is not None:
        sizes = prompt_sizes(requests.manifest).to_pylist()
        before = requests.manifest.column("attempts_before").to_pylist()
    first = FirstAttempts()
    measured = dict.fromkeys(_MEASURED, 0)
    models: dict[str, dict[str, int]] = {}
    cache_saved = 0
    for row in rows:
        parsed = parse_custom_id(row["custom_id"])
        number = parsed[1] if parsed is not None else 0
        known = number < len(sizes)
        tried = row["attempt"] - ((before[number] or 0) if known else 0)
        tried = variants.first_attempt(row["variant"], tried)
        first.count(row["id"], tried, _outcome(row))
        prompt = sum(row[name] for name in PROMPT_TOKENS)
        found = (1, sizes[number], prompt) if prompt and known else (0, 0, 0)
        _add(measured, dict(zip(_MEASURED, found, strict=True)))
        asked = requests.asked.get(row["variant"]) if requests is not None else None
        if asked is None:
            continue
        prices = dict(zip(TOKENS, asked.tier_of(prompt), strict=True))
        saved = sum((prices["input_tokens"] - prices[n]) * row[n] for n in CACHE_TOKENS)
        cache_saved += saved
        if not asked.own:
            used = models.setdefault(asked.declaration.model_id, dict.fromkeys(MODEL_COUNTS, 0))
            _add(used, {name: row[name] for name in TOKENS})
            _add(used, dict(zip(_MEASURED, found, strict=True)))
            used["picodollars"] += int(row["cost_usd"].scaleb(12))
            used["cache_saved"] += saved
    first = first.most_frequent()
    counts = Counts(
        tokens={name: sum(row[name] for row in rows) for name in TOKENS},
        models=models,
        cache_saved_usd=Decimal(cache_saved).scaleb(-12),
        first_attempts=first.done,
        first_need_fix=first.needs_fix,
        first_errors=first.errors,
        examples=first.examples,
        measured_answers=measured["measured_answers"],
        measured_bytes=measured["measured_bytes"],
        measured_tokens=measured["measured_tokens"],
    )
    cost = sum((row["cost_usd"] for row in rows), Decimal(0))
    return Tally(len(rows), counts, cost, max(row["collected_at"] for row in rows))


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, number in more.items():
        total[name] += number


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
    assert one.owner is not None
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
        **{name: pa.nulls(len(first), pa.string()) for name in _UNKNOWN},
    }  # fmt: skip
    answers = pa.table([columns[name] for name in ANSWERS_SCHEMA.names], schema=ANSWERS_SCHEMA)
    path = f"{paths.answers(one.job, one.partition, one.owner)}/{one.token}.parquet"
    with files.staged() as staged:
        with parquet_writer(staged, ANSWERS_SCHEMA) as writer:
            writer.write_table(answers)
        files.make_durable(staged)
        files.publish(staged, path)
    return path
