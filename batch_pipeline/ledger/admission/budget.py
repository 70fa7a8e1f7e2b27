"""Spending against the ceilings of a job and an account: what is billed, and what is reserved.

Spending is what was billed, plus the upper bound of every submission that is neither collected nor
proven absent, since it may still be billed. Months are calendar months in UTC by the database's
clock, and an amount belongs to the month in which it was reserved. How a bound is calculated stands
in `pricing.bounds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger.admission.night_state import ShortOfBudget
from batch_pipeline.ledger.admission.senders import Sender
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.amounts import usd_of, usd_sum
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard
from batch_pipeline.ledger.submissions.submissions import LIVE, State
from batch_pipeline.settings import MOST_USD_PER_MONTH
from batch_pipeline.wording import usd

PARTITION = "budget.max_usd_per_partition"
JOB_MONTH = "budget.max_usd_per_month"


@dataclass(frozen=True)
class Ceilings:
    """USD that may be spent on a night, on its job in a month, through an account in a month.

    `account` None: that of the night's owner. `account_setting` is the name of its ceiling.
    """

    partition: Decimal | None = None
    job_month: Decimal | None = None
    account_month: Decimal | None = None
    account: str | None = None
    account_setting: str = MOST_USD_PER_MONTH

    def of(self, account: str, sender: Sender | None) -> Ceilings:
        """These ceilings for what an account sends; `sender` None: it is not declared now."""
        if sender is None:
            return replace(self, account=account, account_month=None)
        return replace(
            self,
            account=account,
            account_month=sender.max_usd_per_month,
            account_setting=sender.ceiling,
        )

    @property
    def any(self) -> bool:
        return (self.partition, self.job_month, self.account_month) != (None, None, None)


@dataclass(frozen=True)
class Money:
    """What admission has to know of money: the ceilings, and the most USD that a shard can cost.

    `stated_prices` are those that the job states, to be recorded with what is sent; None: the
    published prices.
    """

    ceilings: Ceilings = Ceilings()
    bound: Callable[[Shard], Decimal] = lambda shard: shard.usd_bound
    stated_prices: dict[str, Any] | None = None

    def of(self, account: str, sender: Sender | None) -> Money:
        """The same for what an account sends."""
        return replace(self, ceilings=self.ceilings.of(account, sender))


NO_CEILING = Money()


@dataclass(frozen=True)
class Spending:
    """USD under one ceiling.

    `billed`, `reserved` for what may still be billed, and `unproven`, which may have been billed
    for answers that were lost. `for_calls` is the part of `reserved` that real-time calls of the
    night itself are to use up.
    """

    billed: Decimal
    reserved: Decimal
    unproven: Decimal = Decimal(0)
    for_calls: Decimal = field(default=Decimal(0), compare=False)

    @property
    def total(self) -> Decimal:
        return self.billed + self.reserved + self.unproven


@dataclass(frozen=True)
class Shortfall:
    """A ceiling that a shard does not fit under: `needed` USD at most, more than is left."""

    ceiling: str
    limit: Decimal
    spent: Spending
    needed: Decimal
    requests: int

    @property
    def missing(self) -> Decimal:
        return self.spent.total + self.needed - self.limit

    def __str__(self) -> str:
        spent = [f"{usd(self.spent.billed)} billed"]
        if self.spent.reserved:
            spent.append(f"{usd(self.spent.reserved)} reserved for what is not collected yet")
        if self.spent.unproven:
            spent.append(f"up to {usd(self.spent.unproven)} for answers that were lost for good")
        return (
            f"{self.ceiling} ({usd(self.limit)}) has no room: {', '.join(spent)}; the next "
            f"{self.requests:,} requests need up to {usd(self.needed)}, {usd(self.missing)} more "
            "than is left"
        )

    def as_fact(self) -> ShortOfBudget:
        return ShortOfBudget(self.ceiling, str(self))


def shortfall(
    spent: Iterable[tuple[str, Decimal, Spending]], requests: int, needed: Decimal
) -> Shortfall | None:
    """The ceiling under which the most USD are missing for these requests; None: they fit."""
    found = [
        Shortfall(name, limit, spending, needed, requests)
        for name, limit, spending in spent
        if spending.total + needed > limit
    ]
    return max(found, key=lambda short: short.missing, default=None)


def spendings(
    connection: Connection, night: Night, ceilings: Ceilings
) -> Iterator[tuple[str, Decimal, Spending]]:
    """Name, limit and spending of each ceiling that is declared."""
    submission, takeover = tables.submission.c, tables.takeover.c
    if ceilings.partition is not None:
        spent = _spending(connection, submission.night_id == night.id)
        kept = _for_takeovers(connection, night.id, takeover.night_id == night.id)
        yield PARTITION, ceilings.partition, _with(spent, *kept)
    if ceilings.job_month is not None:
        month = _month(connection)
        owned = (tables.night.c.job == night.job, tables.night.c.owner == night.owner)
        of_job = submission.night_id.in_(sa.select(tables.night.c.id).where(*owned))
        spent = _spending(connection, submission.intent_at >= month, of_job)
        kept = _for_takeovers(connection, night.id, takeover.reserved_at >= month, *owned)
        yield JOB_MONTH, ceilings.job_month, _with(spent, *kept)
    if ceilings.account_month is not None:
        spent = account_month(connection, ceilings.account or night.owner, night)
        yield ceilings.account_setting, ceilings.account_month, spent


def account_month(connection: Connection, account: str, night: Night | None = None) -> Spending:
    """What an account has spent in the present month, whichever nights it was for."""
    month, through = _month(connection), tables.submission.c.account == account
    spent = _spending(connection, tables.submission.c.intent_at >= month, through)
    own = None if night is None else night.id
    kept = _for_takeovers(connection, own, tables.takeover.c.reserved_at >= month, through)
    return _with(spent, *kept)


def billed_by_job(connection: Connection) -> list[tuple[str, str, Decimal]]:
    """Job, way and USD billed for what was sent this calendar month (UTC)."""
    submission, job = tables.submission.c, tables.night.c.job
    query = (
        sa.select(job, submission.engine, *usd_sum(submission.cost_usd))
        .join(tables.night, tables.night.c.id == submission.night_id)
        .where(
            submission.state == State.COLLECTED.value, submission.intent_at >= _month(connection)
        )
        .group_by(job, submission.engine)
        .order_by(job, submission.engine)
    )
    return [(name, way, usd_of(*usd)) for name, way, *usd in connection.execute(query)]


def for_calls(
    spent: Iterable[tuple[str, Decimal, Spending]], usd: Decimal
) -> list[tuple[str, Decimal, Spending]]:
    """The same for real-time calls of the night: what was reserved for them, `usd` at most, is not
    in their way."""
    return [
        (name, limit, replace(found, reserved=found.reserved - min(usd, found.for_calls)))
        for name, limit, found in spent
    ]


def _with(spent: Spending, kept: Decimal, for_calls: Decimal) -> Spending:
    return replace(spent, reserved=spent.reserved + kept, for_calls=for_calls)


def _spending(connection: Connection, *conditions: sa.ColumnElement[bool]) -> Spending:
    submission = tables.submission.c
    query = sa.select(
        *usd_sum(submission.cost_usd, submission.state == State.COLLECTED.value),
        *usd_sum(submission.usd_bound, submission.state.in_([state.value for state in LIVE])),
        *usd_sum(submission.unproven_usd),
    ).where(*conditions)
    billed, more_billed, held, more_held, lost, more_lost = connection.execute(query).one()
    return Spending(usd_of(billed, more_billed), usd_of(held, more_held), usd_of(lost, more_lost))


def _for_takeovers(
    connection: Connection, night_id: int | None, *conditions: sa.ColumnElement[bool]
) -> tuple[Decimal, Decimal]:
    """USD reserved for real-time calls that are to answer the requests of cancelled batches: of all
    nights, and of this one."""
    takeover = tables.takeover.c
    query = (
        sa.select(
            *usd_sum(takeover.left_usd), *usd_sum(takeover.left_usd, takeover.night_id == night_id)
        )
        .join(tables.night, tables.night.c.id == takeover.night_id)
        .join(tables.submission, tables.submission.c.id == takeover.submission_id)
        .where(*conditions)
    )
    every, more, own, more_own = connection.execute(query).one()
    return usd_of(every, more), usd_of(own, more_own)


def _month(connection: Connection) -> float:
    """When the present calendar month began in UTC, in seconds since the epoch."""
    at = datetime.fromtimestamp(now(connection), UTC)
    return at.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()
