"""What the prompt cache did for a night: sums over its collected submissions.

Belongs here: the sums and how they are said. What is known of the prefixes that are cached stands
in `cache_prefixes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.tables import usd_of, usd_sum
from batch_pipeline.pricing.tokens import CACHE_TOKENS
from batch_pipeline.wording import percent, usd


@dataclass(frozen=True)
class CacheSums:
    """What the prompt cache did for the submissions that were sent with marks, or used it.

    `requests` are theirs, tokens are billed ones. `saved_usd` is what reads saved, less what writes
    cost above plain input; negative: the cache cost that.
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
        gain = "saved" if self.saved_usd >= 0 else "cost"
        return (
            f"{percent(self.hit_rate)} of {marked:,} marked tokens were read from the prompt "
            f"cache, which {gain} {usd(abs(self.saved_usd))}"
        )

    def as_json(self) -> dict[str, Any]:
        """The sums as JSON; the amount is a Decimal."""
        return {**vars(self), "hit_rate": self.hit_rate}


NOTHING_CACHED = CacheSums()


def of_night(
    connection: Connection, night_id: int, *conditions: sa.ColumnElement[bool]
) -> CacheSums:
    """The sums over a night's collected submissions that used the prompt cache."""
    submission = tables.submission.c
    query = sa.select(
        sa.func.coalesce(sa.func.sum(submission.requests), 0),
        *(sa.func.coalesce(sa.func.sum(submission[name]), 0) for name in CACHE_TOKENS),
        *usd_sum(submission.cache_saved_usd),
    ).where(submission.night_id == night_id, submission.cache_saved_usd.is_not(None), *conditions)
    found = connection.execute(query).one()
    requests, written_5m, written_1h, read = map(int, found[:4])
    return CacheSums(requests, read, written_5m, written_1h, usd_of(found[4], found[5]))
