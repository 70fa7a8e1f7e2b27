"""Sums over the collected submissions of a night: where it stands, what it cost, what failed.

Belongs here: the counts that collection records with a submission, in numeric columns and rows, and
the aggregate queries over them. No sum is stored, so that none can differ from what it sums up.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.amounts import PICODOLLARS, usd_of, usd_sum
from batch_pipeline.ledger.shards import Engine
from batch_pipeline.pricing.tokens import CACHE_TOKENS, TOKENS

# Examples that are kept of one type of error; the answers have all messages.
EXAMPLES = 3

# A part of a night: the snapshot that it was sent for, and whether it is that snapshot's pilot.
Part = tuple[int, bool]

_SUMMED = (
    "requests", "measured_answers", "measured_bytes", "measured_tokens", "gone_requests", *TOKENS,
)  # fmt: skip


# What is summed up of the answers of one model.
MODEL_SUMS = (*TOKENS, "measured_answers", "measured_bytes", "measured_tokens")
# The same in what collection finds, with amounts in picodollars.
MODEL_COUNTS = (*MODEL_SUMS, "picodollars", "cache_saved")
# The ids of one query: databases limit the values that one has.
_AT_ONCE = 500


class FeeKind(StrEnum):
    """What answers were billed beside tokens at the declared model's price."""

    WEB_SEARCHES = "web_searches"
    # Inference in a region that costs more, where the job did not declare it.
    REGION = "inference_geo"
    # Other models' work within an answer, whose tokens `usage` does not count at its top.
    ITERATIONS = "iterations"
    # What answers of another model than the declared one cost more; negative: less.
    OTHER_MODEL = "other_model"
    # What has no price, and is in no sum.
    UNPRICED = "unpriced"


@dataclass(frozen=True)
class Fee:
    """The sum of a night's fees of one kind and name; `usd` is None for what has no price.

    `quantity` counts searches, iterations, or else answers.
    """

    kind: FeeKind
    name: str
    quantity: int
    usd: Decimal | None


@dataclass(frozen=True)
class Counts:
    """What the collection of one submission found.

    `items` were settled, by status; `open` requests go out again, and of `undecided` ones it is
    decided later whether their answer stands. `unjudged` answers were kept because it cannot be
    told whether they are sure. `models` is what answers of other models than the declared one were
    billed, by model: see `of_models`. `tokens` were billed, by class.
    `measured_answers` have billed prompt tokens: `measured_tokens`, for requests of
    `measured_bytes`. Of the `first_attempts` that the API worked on
    `first_need_fix` need a fix, by type of error in `first_errors`, with examples (`id: message`).
    `gone_requests` have results that can never be had, and may have cost up to `gone_usd`;
    `lost_usd` may have been billed for calls whose answers were lost, `estimated_usd` for answers
    that do not say what was billed for them. The prompt cache saved `cache_saved_usd`, or cost it
    where that is negative. `fees` by kind and name have a `quantity`, and
    `picodollars` where there is a price; the submission's cost has them too.
    """

    items: Mapping[str, int] = field(default_factory=dict)
    open: int = 0
    undecided: int = 0
    unjudged: int = 0
    models: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    measured_answers: int = 0
    measured_bytes: int = 0
    measured_tokens: int = 0
    first_attempts: int = 0
    first_need_fix: int = 0
    first_errors: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    gone_requests: int = 0
    gone_usd: Decimal = Decimal(0)
    lost_usd: Decimal = Decimal(0)
    estimated_usd: Decimal = Decimal(0)
    cache_saved_usd: Decimal = Decimal(0)
    # Requests that failed for a reason that passes, and all that go again because they failed.
    passing: int = 0
    again: int = 0
    fees: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
    duplicate: bool = False

    def __add__(self, other: Counts) -> Counts:
        """The counts of two parts of one submission."""
        both = {each.name: (getattr(self, each.name), getattr(other, each.name)) for each in FIELDS}
        return Counts(**{name: _sum(*pair) for name, pair in both.items()})

    def as_json(self) -> dict[str, Any]:
        """The counts as JSON; amounts are texts."""
        values = vars(self).items()
        return {name: str(v) if isinstance(v, Decimal) else v for name, v in values}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Counts:
        usd = {name: Decimal(data[name]) for name in data if name.endswith("_usd")}
        return cls(**{**data, **usd})

    @property
    def cached_tokens(self) -> int:
        """Tokens that were written to the prompt cache or read from it."""
        return sum(self.tokens.get(name, 0) for name in CACHE_TOKENS)

    def columns(self) -> dict[str, object]:
        """What of this is kept in columns of `submission`."""
        return {
            **self.tokens,
            "measured_answers": self.measured_answers,
            "measured_bytes": self.measured_bytes,
            "measured_tokens": self.measured_tokens,
            "first_attempts": self.first_attempts,
            "first_need_fix": self.first_need_fix,
            "gone_requests": self.gone_requests,
            "gone_usd": self.gone_usd,
            "estimated_usd": self.estimated_usd,
            "cache_saved_usd": self.cache_saved_usd if self.cached_tokens else None,
            "passing": self.passing,
            "unjudged": self.unjudged,
            "unproven_usd": self.gone_usd + self.lost_usd + self.estimated_usd,
            "duplicate": self.duplicate,
        }


FIELDS = fields(Counts)


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, Mapping):
        return {**one, **other, **{key: _sum(one[key], other[key]) for key in one.keys() & other}}
    return one or other if isinstance(one, bool) else one + other


@dataclass(frozen=True)
class Sums:
    """The sum over the collected submissions of one part of a night that went one way.

    `requests` are theirs; the other counts are those of `Counts`. Amounts in USD. Times in seconds
    since the epoch.
    """

    snapshot_id: int
    pilot: bool
    engine: Engine
    submissions: int
    requests: int
    cost_usd: Decimal
    first_intent_at: float
    last_collected_at: float
    tokens: dict[str, int]
    measured_answers: int = 0
    measured_bytes: int = 0
    measured_tokens: int = 0
    gone_requests: int = 0
    gone_usd: Decimal = Decimal(0)


@dataclass
class Attempts:
    """First attempts of one part of a night, and those that need a fix; the latter by type of
    error, with up to three examples of each."""

    done: int = 0
    need_fix: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)


def record(connection: Connection, submission_id: int, counts: Counts) -> None:
    """Add the rows of what collection found; its columns are written with the submission."""
    columns = tables.submission.c
    query = sa.select(columns.night_id, columns.snapshot_id, columns.pilot)
    sent = connection.execute(query.where(columns.id == submission_id)).mappings().one()
    if counts.items:
        rows = [
            {"snapshot_id": sent["snapshot_id"], "submission_id": submission_id,
             "status": status, "items": number}
            for status, number in counts.items.items()
        ]  # fmt: skip
        connection.execute(sa.insert(tables.settled_items), rows)
    if counts.first_errors:
        rows = [
            {**sent, "submission_id": submission_id, "error_type": kind, "requests": number}
            for kind, number in counts.first_errors.items()
        ]
        connection.execute(sa.insert(tables.first_error), rows)
    rows = [
        {"night_id": sent["night_id"], "submission_id": submission_id, "kind": kind, "name": name,
         "quantity": fee["quantity"], "usd": _usd(fee.get("picodollars"))}
        for kind, fees in counts.fees.items()
        for name, fee in fees.items()
    ]  # fmt: skip
    if rows:
        connection.execute(sa.insert(tables.fee), rows)
    rows = [
        {"night_id": sent["night_id"], "submission_id": submission_id, "model_id": model_id,
         "snapshot_id": sent["snapshot_id"], "cost_usd": _usd(used["picodollars"]),
         "cache_saved_usd": _usd(used["cache_saved"]),
         **{name: used[name] for name in MODEL_SUMS}}
        for model_id, used in counts.models.items()
    ]  # fmt: skip
    if rows:
        connection.execute(sa.insert(tables.model_usage), rows)
    known = _examples(connection, sent["night_id"]) if counts.examples else {}
    of_part = known.get((sent["snapshot_id"], sent["pilot"]), {})
    rows = [
        {**sent, "error_type": kind, "example": example}
        for kind, found in counts.examples.items()
        for example in found[: EXAMPLES - len(of_part.get(kind, ()))]
    ]
    if rows:
        connection.execute(sa.insert(tables.error_example), rows)


def of_night(connection: Connection, night_id: int) -> list[Sums]:
    """All that is collected of a night, by snapshot, pilot or not, and engine."""
    submission = tables.submission.c
    key = submission.snapshot_id, submission.pilot, submission.engine
    cost, rest_of_cost = usd_sum(submission.cost_usd)
    gone, rest_of_gone = usd_sum(submission.gone_usd)
    query = (
        sa.select(
            *key,
            sa.func.count().label("submissions"),
            *(sa.func.sum(submission[name]).label(name) for name in _SUMMED),
            sa.func.min(submission.intent_at).label("first_intent_at"),
            sa.func.max(submission.collected_at).label("last_collected_at"),
            cost.label("cost"),
            rest_of_cost.label("rest_of_cost"),
            gone.label("gone"),
            rest_of_gone.label("rest_of_gone"),
        )
        .where(*_collected(night_id))
        .group_by(*key)
        .order_by(*key)
    )
    return [
        Sums(
            snapshot_id=row["snapshot_id"],
            pilot=row["pilot"],
            engine=row["engine"],
            submissions=row["submissions"],
            first_intent_at=row["first_intent_at"],
            last_collected_at=row["last_collected_at"],
            cost_usd=usd_of(row["cost"], row["rest_of_cost"]),
            gone_usd=usd_of(row["gone"], row["rest_of_gone"]),
            # PostgreSQL sums bigints to numeric.
            requests=int(row["requests"]),
            tokens={name: int(row[name]) for name in TOKENS},
            measured_answers=int(row["measured_answers"]),
            measured_bytes=int(row["measured_bytes"]),
            measured_tokens=int(row["measured_tokens"]),
            gone_requests=int(row["gone_requests"]),
        )
        for row in connection.execute(query).mappings()
    ]


def fees(connection: Connection, night_id: int) -> tuple[Fee, ...]:
    """All fees that were collected of a night, by kind and name."""
    fee = tables.fee.c
    amounts = usd_sum(fee.usd)
    query = (
        sa.select(fee.kind, fee.name, sa.func.sum(fee.quantity), sa.func.count(fee.usd), *amounts)
        .where(fee.night_id == night_id)
        .group_by(fee.kind, fee.name)
        .order_by(fee.kind, fee.name)
    )
    return tuple(
        Fee(FeeKind(kind), name, int(quantity), usd_of(whole, rest) if priced else None)
        for kind, name, quantity, priced, whole, rest in connection.execute(query)
    )


def measured_by_model(
    connection: Connection, night_id: int
) -> dict[tuple[int, str], dict[str, int]]:
    """What was measured of answers of other models than the declared one, by snapshot and model."""
    usage = tables.model_usage.c
    measured = [name for name in MODEL_SUMS if name.startswith("measured_")]
    query = (
        sa.select(usage.snapshot_id, usage.model_id, *(sa.func.sum(usage[n]) for n in measured))
        .where(usage.night_id == night_id)
        .group_by(usage.snapshot_id, usage.model_id)
    )
    return {
        (snapshot_id, model_id): dict(zip(measured, map(int, found), strict=True))
        for snapshot_id, model_id, *found in connection.execute(query)
    }


def of_models(
    connection: Connection, submission_ids: Sequence[int]
) -> dict[int, dict[str, tuple[dict[str, int], Decimal]]]:
    """Tokens by class and USD of answers of other models than the declared one, by submission and
    model."""
    usage = tables.model_usage.c
    found: dict[int, dict[str, tuple[dict[str, int], Decimal]]] = {}
    for first in range(0, len(submission_ids), _AT_ONCE):
        some = submission_ids[first : first + _AT_ONCE]
        query = sa.select(tables.model_usage).where(usage.submission_id.in_(some))
        for row in connection.execute(query).mappings():
            of_submission = found.setdefault(row["submission_id"], {})
            tokens = {name: row[name] for name in TOKENS}
            of_submission[row["model_id"]] = tokens, row["cost_usd"]
    return found


def unjudged(connection: Connection, night_id: int) -> int:
    """Answers of a night that were kept because it cannot be told whether they are sure."""
    query = sa.select(sa.func.sum(tables.submission.c.unjudged)).where(*_collected(night_id))
    return int(connection.scalar(query) or 0)


def settled_items(connection: Connection, snapshot_id: int) -> dict[str, int]:
    """Items of a snapshot that collected answers have settled, by status."""
    columns = tables.settled_items.c
    query = sa.select(columns.status, sa.func.sum(columns["items"]))
    query = query.where(columns.snapshot_id == snapshot_id).group_by(columns.status)
    return {status: int(number) for status, number in connection.execute(query)}


def first_attempts(connection: Connection, night_id: int) -> dict[Part, Attempts]:
    """The collected first attempts of a night that the API worked on."""
    submission, error = tables.submission.c, tables.first_error.c
    part = submission.snapshot_id, submission.pilot
    counts = sa.func.sum(submission.first_attempts), sa.func.sum(submission.first_need_fix)
    query = sa.select(*part, *counts).where(*_collected(night_id)).group_by(*part)
    found = {
        (snapshot_id, pilot): Attempts(int(done), int(need_fix))
        for snapshot_id, pilot, done, need_fix in connection.execute(query)
    }
    if not any(attempts.need_fix for attempts in found.values()):
        return found
    kind = error.snapshot_id, error.pilot, error.error_type
    query = sa.select(*kind, sa.func.sum(error.requests))
    query = query.where(error.night_id == night_id).group_by(*kind)
    for snapshot_id, pilot, error_type, number in connection.execute(query):
        found[snapshot_id, pilot].errors[error_type] = int(number)
    for key, examples in _examples(connection, night_id).items():
        found[key].examples = examples
    return found


def forget_first_attempts(connection: Connection, night_id: int) -> None:
    """What a night has collected so far counts for the breaker no more: a person looked at it."""
    for table in (tables.first_error, tables.error_example):
        connection.execute(sa.delete(table).where(table.c.night_id == night_id))
    connection.execute(
        sa.update(tables.submission)
        .where(*_collected(night_id))
        .values(first_attempts=0, first_need_fix=0)
    )


def _collected(night_id: int) -> tuple[sa.ColumnElement[bool], ...]:
    # `collected_at IS NOT NULL` word for word: SQLite takes the partial index for no other term.
    return tables.submission.c.night_id == night_id, tables.submission.c.collected_at.is_not(None)


def _usd(picodollars: int | None) -> Decimal | None:
    return None if picodollars is None else picodollars / PICODOLLARS


def _examples(connection: Connection, night_id: int) -> dict[Part, dict[str, list[str]]]:
    rows = connection.execute(
        sa.select(tables.error_example)
        .where(tables.error_example.c.night_id == night_id)
        .order_by(tables.error_example.c.id)
    )
    found: defaultdict[Part, dict[str, list[str]]] = defaultdict(dict)
    for row in rows:
        found[row.snapshot_id, row.pilot].setdefault(row.error_type, []).append(row.example)
    return dict(found)
