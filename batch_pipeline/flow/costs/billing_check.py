"""Compares a day of the ledger with the organisation's usage report: tokens and USD, by model.

The organisation's figures include everything else that it does with the API, and may be larger. The
ledger must never have more than the organisation, once the reports are complete.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Protocol

from sqlalchemy import Connection

from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.ledger import shards, snapshots
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.ledger.sums import of_models
from batch_pipeline.pricing.tokens import TOKENS

# Our modes by the service tiers of the organisation's reports; other tiers are not used here.
WAYS = {"batch": "batch", "standard": "realtime"}
Key = tuple[str, str]


class Usage(Protocol):
    """A row of the organisation's usage: a model, a tier, and tokens by class as `TOKENS`."""

    @property
    def model(self) -> str: ...
    @property
    def service_tier(self) -> str: ...


class Cost(Usage, Protocol):
    """A row of the organisation's costs."""

    @property
    def usd(self) -> Decimal: ...


@dataclass
class Sums:
    """Tokens by class, and USD."""

    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOKENS, 0))
    usd: Decimal = Decimal(0)

    def add(self, tokens: Mapping[str, int], usd: Decimal) -> None:
        for name in TOKENS:
            self.tokens[name] += tokens[name]
        self.usd += usd


@dataclass(frozen=True)
class Compared:
    """The sums of the ledger and of the organisation for one model and mode."""

    model: str
    mode: str
    ledger: Sums
    organisation: Sums

    @property
    def beyond(self) -> list[str]:
        """Token classes of which the ledger has more than the organisation."""
        return [
            name for name in TOKENS if self.ledger.tokens[name] > self.organisation.tokens[name]
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "mode": self.mode,
            "ledger": {**self.ledger.tokens, "cost_usd": float(self.ledger.usd)},
            "organisation": {**self.organisation.tokens, "cost_usd": float(self.organisation.usd)},
            "difference": {
                **{
                    name: self.organisation.tokens[name] - self.ledger.tokens[name]
                    for name in TOKENS
                },
                "cost_usd": float(self.organisation.usd - self.ledger.usd),
            },
            "ledger_has_more_of": self.beyond,
        }


def of_ledger(connection: Connection, accounts: Collection[str], day: date) -> dict[Key, Sums]:
    """What accounts were billed on a day (UTC), by declared model and mode.

    A batch belongs to the day in which its end was seen: within one poll of midnight that may be
    another day than the organisation's.
    """
    begin = datetime.combine(day, time(), UTC)
    since, until = begin.timestamp(), (begin + timedelta(days=1)).timestamp()
    submission = tables.submission.c
    collected = submissions.find(
        connection,
        submission.account.in_(accounts),
        submission.ended_at >= since,
        submission.ended_at < until,
        states=(State.COLLECTED,),
    )
    models: dict[int, str] = {}
    others = of_models(connection, [each.id for each in collected])
    found: defaultdict[Key, Sums] = defaultdict(Sums)
    for each in collected:
        if each.shard_id not in models:
            shard = shards.get_shard(connection, each.shard_id)
            declared = snapshots.get_snapshot(connection, shard.snapshot_id).declaration
            models[each.shard_id] = Declaration.from_json(declared).model_id
        own = models[each.shard_id]
        found[own, each.engine].add(each.tokens, each.cost_usd or Decimal(0))
        for model_id, (tokens, usd) in others.get(each.id, {}).items():
            found[model_id, each.engine].add(tokens, usd)
            found[own, each.engine].add({name: -tokens[name] for name in TOKENS}, -usd)
    return dict(found)


def of_organisation(usage: Iterable[Usage], costs: Iterable[Cost]) -> dict[Key, Sums]:
    """The organisation's rows, by model and mode; a tier without a mode of ours keeps its name."""
    found: defaultdict[Key, Sums] = defaultdict(Sums)
    for row in usage:
        sums = found[row.model, WAYS.get(row.service_tier, row.service_tier)]
        for name in TOKENS:
            sums.tokens[name] += getattr(row, name)
    for cost in costs:
        found[cost.model, WAYS.get(cost.service_tier, cost.service_tier)].usd += cost.usd
    return dict(found)


def compare(ledger: Mapping[Key, Sums], organisation: Mapping[Key, Sums]) -> list[Compared]:
    """Both sides by model and mode; a declared alias is compared under the API's full name."""
    names = {model for model, _ in organisation}
    ours: defaultdict[Key, Sums] = defaultdict(Sums)
    for (model, mode), sums in ledger.items():
        total = ours[_full_name(model, names), mode]
        total.usd += sums.usd
        for name in TOKENS:
            total.tokens[name] += sums.tokens[name]
    return [
        Compared(
            model, mode, ours.get((model, mode), Sums()), organisation.get((model, mode), Sums())
        )
        for model, mode in sorted({*ours, *organisation})
    ]


def _full_name(model: str, names: Iterable[str]) -> str:
    """`claude-haiku-4-5` is reported as `claude-haiku-4-5-20251001`."""
    known: Sequence[str] = sorted(names)
    if model in known:
        return model
    dated = [name for name in known if name.startswith(f"{model}-2")]
    return dated[0] if len(dated) == 1 else model
