"""What the prompt cache did for a night: sums over its collected submissions.

Belongs here: the sums and how they are said. What is known of the prefixes that are cached stands
in `cache_prefixes`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import snapshots
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.amounts import usd_of, usd_sum
from batch_pipeline.pricing.tokens import CACHE_TOKENS
from batch_pipeline.wording import percent, usd


@dataclass(frozen=True)
class CacheSums:
    """What the prompt cache did for the submissions that were sent with marks, or used it.

    `requests` are theirs (of one model: its billed answers), tokens are billed ones. `saved_usd` is
    what reads saved, less what writes cost above plain input; negative: the cache cost that.
    """

    requests: int = 0
    read_tokens: int = 0
    written_5m_tokens: int = 0
    written_1h_tokens: int = 0
    saved_usd: Decimal = Decimal(0)

    @property
    def written_tokens(self) -> int:
        return self.written_5m_tokens + self.written_1h_tokens

    @property
    def hit_rate(self) -> float | None:
        """Of the tokens that could be read, the share that was; None: there were none."""
        marked = self.read_tokens + self.written_tokens
        return self.read_tokens / marked if marked else None

    def describe(self) -> str:
        """What the cache did, in a clause; empty where it was not used."""
        if self.hit_rate is None:
            return ""
        marked = self.read_tokens + self.written_tokens
        return (
            f"{percent(self.hit_rate)} of {marked:,} marked tokens were read from the prompt "
            f"cache, which {self._gain}"
        )

    def brief(self) -> str:
        """The same in a few words."""
        return f"{percent(self.hit_rate or 0.0)} read, {self._gain}"

    @property
    def _gain(self) -> str:
        return f"{'saved' if self.saved_usd >= 0 else 'cost'} {usd(abs(self.saved_usd))}"

    def __add__(self, other: CacheSums) -> CacheSums:
        return self._with(other, 1)

    def __sub__(self, other: CacheSums) -> CacheSums:
        return self._with(other, -1)

    def _with(self, other: CacheSums, sign: int) -> CacheSums:
        return CacheSums(*(mine + sign * vars(other)[name] for name, mine in vars(self).items()))

    def as_json(self) -> dict[str, Any]:
        """The sums as JSON; the amount is a Decimal."""
        return {**vars(self), "hit_rate": self.hit_rate}


NOTHING_CACHED = CacheSums()


def of_night(
    connection: Connection, night_id: int, *conditions: sa.ColumnElement[bool]
) -> CacheSums:
    """The sums over a night's collected submissions that used the prompt cache."""
    submission = tables.submission.c
    query = sa.select(*_summed(tables.submission, submission.requests))
    used = (submission.night_id == night_id, submission.cache_saved_usd.is_not(None))
    return _sums(connection.execute(query.where(*used, *conditions)).one())


def by_model(
    connection: Connection, night_id: int, *conditions: sa.ColumnElement[bool]
) -> dict[str, CacheSums]:
    """The same by model, of those whose prompts were written to the cache or read from it."""
    submission, usage = tables.submission.c, tables.model_usage.c
    used = (submission.night_id == night_id, submission.cache_saved_usd.is_not(None), *conditions)
    query = sa.select(
        submission.snapshot_id, *_summed(tables.submission, submission.measured_answers)
    )
    # What no other model was billed, the declared one was.
    own = {
        snapshot_id: _sums(found)
        for snapshot_id, *found in connection.execute(
            query.where(*used).group_by(submission.snapshot_id)
        )
    }
    query = (
        sa.select(
            usage.snapshot_id, usage.model_id,
            *_summed(tables.model_usage, usage.measured_answers),
        )
        .join(tables.submission, submission.id == usage.submission_id)
        .where(*used)
        .group_by(usage.snapshot_id, usage.model_id)
    )  # fmt: skip
    models: defaultdict[str, CacheSums] = defaultdict(CacheSums)
    for snapshot_id, model_id, *found in connection.execute(query):
        others = _sums(found)
        models[model_id] += others
        own[snapshot_id] -= others
    for snapshot_id, rest in own.items():
        declaration = snapshots.get_snapshot(connection, snapshot_id).declaration
        models[declaration["model_id"]] += rest
    return {name: sums for name, sums in models.items() if sums.hit_rate is not None}


def _summed(table: sa.Table, requests: sa.ColumnElement[int]) -> list[sa.ColumnElement[Any]]:
    tokens = (table.c[name] for name in CACHE_TOKENS)
    whole = (sa.func.coalesce(sa.func.sum(column), 0) for column in (requests, *tokens))
    return [*whole, *usd_sum(table.c.cache_saved_usd)]


def _sums(found: Sequence[Any]) -> CacheSums:
    requests, written_5m, written_1h, read = map(int, found[:4])
    return CacheSums(requests, read, written_5m, written_1h, usd_of(found[4], found[5]))
