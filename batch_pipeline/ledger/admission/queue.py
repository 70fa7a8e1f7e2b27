"""Room at the API's queue: what limits, other nights and the API itself leave to a night.

The one rule for admission, which claims, for the sensor, which asks for runs, and for the forecast
of a deadline.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import accounts, waits
from batch_pipeline.ledger.accounts import Account
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import IN_QUEUE
from batch_pipeline.wording import moment

# An older night that wanted room this long ago and did not come back no longer goes first.
ROOM_WANTED_SECONDS = 600.0
REFUSED_BY_API = "the API's queue is full"


def refused_until(account: Account, at: float) -> str | None:
    """That the API said lately that its queue is full, and when it is asked again; None: it is
    asked now."""
    if not waits.lasts(account.wait_until, at):
        return None
    return f"{REFUSED_BY_API}, it is asked again at {moment(account.wait_until)}"


@dataclass(frozen=True)
class Queue:
    """The queue as one night finds it, in requests; `job_limit` None: the job has no share of it.

    `refused` says that the API found it full lately. `older_night` wants room too, and goes first.
    """

    account_limit: int
    account_used: int = 0
    job_limit: int | None = None
    job_used: int = 0
    refused: str | None = None
    older_night: str | None = None

    @property
    def limit(self) -> int:
        """The most requests that a batch of this night can ever have."""
        return queue_limit(self.account_limit, self.job_limit)

    @property
    def room(self) -> int:
        """Requests that may join the queue now, by the limits alone."""
        left = self.account_limit - self.account_used
        return left if self.job_limit is None else min(left, self.job_limit - self.job_used)

    def share_in_use(self, requests: int) -> bool:
        """Whether the job's own share of the queue has no room for these requests."""
        return self.job_limit is not None and self.job_limit - self.job_used < requests

    def too_large(self, requests: int) -> tuple[int, int] | None:
        """The size of a batch that can never have room, and the limit that it exceeds; or None."""
        return (requests, self.limit) if requests > self.limit else None

    def full(self, requests: int) -> str | None:
        """Why a batch of this many requests has no room now; None: it has room."""
        if self.share_in_use(requests):
            return f"the job's share of the queue ({self.job_limit:,} requests) is in use"
        if self.refused:
            return self.refused
        if self.account_limit - self.account_used < requests:
            return f"the account's queue limit ({self.account_limit:,} requests) is in use"
        return None

    def joined_by(self, requests: int) -> Queue:
        """The queue after these requests of the job have joined it."""
        return replace(
            self, account_used=self.account_used + requests, job_used=self.job_used + requests
        )


def queue_limit(account_limit: int, job_limit: int | None) -> int:
    """The most requests that may be in the queue at once for a job."""
    return account_limit if job_limit is None else min(account_limit, job_limit)


def read_queue(
    connection: Connection, night: Night, account_limit: int, job_limit: int | None
) -> Queue:
    """The queue as a night finds it now."""
    at = now(connection)
    of_job = tables.night.c.job == night.job
    return Queue(
        account_limit=account_limit,
        account_used=_requests(connection, night),
        job_limit=job_limit,
        job_used=0 if job_limit is None else _requests(connection, night, of_job),
        refused=refused_until(accounts.get_account(connection, night.owner), at),
        older_night=_older_night_that_wants_room(connection, night, at),
    )


def _requests(connection: Connection, night: Night, *narrowed: sa.ColumnElement[bool]) -> int:
    """Requests of the night's account that are in the queue, or may be."""
    query = (
        sa.select(sa.func.coalesce(sa.func.sum(tables.submission.c.requests), 0))
        .join(tables.night, tables.night.c.id == tables.submission.c.night_id)
        .where(
            tables.submission.c.account == night.owner,
            tables.submission.c.state.in_([state.value for state in IN_QUEUE]),
            *narrowed,
        )
    )
    return int(connection.scalar(query) or 0)


def _older_night_that_wants_room(connection: Connection, night: Night, at: float) -> str | None:
    row = connection.execute(
        sa.select(tables.night.c.job, tables.night.c.partition)
        .where(
            tables.night.c.owner == night.owner,
            tables.night.c.wanted_room_at > at - ROOM_WANTED_SECONDS,
            tables.night.c.held_at.is_(None),
            sa.tuple_(tables.night.c.partition, tables.night.c.id)
            < sa.tuple_(sa.literal(night.partition), sa.literal(night.id)),
        )
        .order_by(tables.night.c.partition, tables.night.c.id)
    ).first()
    return None if row is None else f"{row.job} {row.partition}"
