"""Room at the API's queue: what limits, other nights and the API itself leave to a night.

A queue is that of an organisation: all accounts of it share it. The one rule for admission, which
claims, for the sensor, which asks for runs, and for the forecast of a deadline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import waits
from batch_pipeline.ledger.accounts import organisations
from batch_pipeline.ledger.accounts.accounts import Account
from batch_pipeline.ledger.accounts.organisations import Organisation
from batch_pipeline.ledger.admission.senders import Sender
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions.submissions import IN_QUEUE
from batch_pipeline.wording import moment

# An older night that wanted room this long ago and did not come back no longer goes first.
ROOM_WANTED_SECONDS = 600.0
REFUSED_BY_API = "the API's queue is full"


def refused_until(
    queue: Account | Organisation, at: float, organisation: str | None = None
) -> str | None:
    """That the API said lately that its queue is full, and when it is asked again; None: it is
    asked now."""
    if not waits.lasts(queue.wait_until, at):
        return None
    whose = "" if organisation is None else f" for organisation {organisation}"
    return f"{REFUSED_BY_API}{whose}, it is asked again at {moment(queue.wait_until)}"


@dataclass(frozen=True)
class Queue:
    """An organisation's queue as one night finds it, in requests; `job_limit` None: the job has no
    share of it.

    `name` is the organisation's, None: it has one account, and the name tells nothing more.
    `refused` says that the API found it full lately. `older_night` wants room in it too, and goes
    first.
    """

    most: int
    used: int = 0
    job_limit: int | None = None
    job_used: int = 0
    refused: str | None = None
    older_night: str | None = None
    name: str | None = None

    @property
    def limit(self) -> int:
        """The most requests that a batch of this night can ever have."""
        return queue_limit(self.most, self.job_limit)

    @property
    def room(self) -> int:
        """Requests that may join the queue now, by the limits alone."""
        left = self.most - self.used
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
        if self.most - self.used < requests:
            whose = "the account's" if self.name is None else f"organisation {self.name}'s"
            return f"{whose} queue limit ({self.most:,} requests) is in use"
        return None

    def may_join(self, requests: int) -> bool:
        """Whether a batch of this many requests may join now."""
        return self.older_night is None and self.full(requests) is None


@dataclass(frozen=True)
class Queues:
    """The queues that a night may join, by account; `of` has each account's organisation.

    `sent` are the requests that each account itself has in the queue.
    """

    of: Mapping[str, str]
    by_organisation: Mapping[str, Queue]
    sent: Mapping[str, int] = field(default_factory=dict)

    def __getitem__(self, account: str) -> Queue:
        return self.by_organisation[self.of[account]]

    @property
    def limit(self) -> int:
        """The most requests of a batch that may go through each of the accounts."""
        return min(queue.limit for queue in self.by_organisation.values())

    @property
    def at_once(self) -> int:
        """The most requests of this night that the API can have at once."""
        queues = list(self.by_organisation.values())
        return queue_limit(sum(queue.most for queue in queues), queues[0].job_limit)

    @property
    def room(self) -> int:
        """Requests that may join the queues now, by the limits alone."""
        queues = list(self.by_organisation.values())
        room = sum(max(0, queue.most - queue.used) for queue in queues)
        first = queues[0]
        return room if first.job_limit is None else min(room, first.job_limit - first.job_used)

    def in_order(self) -> list[str]:
        """The accounts, the one with most free room first: of one organisation the one that has
        sent least."""
        return sorted(self.of, key=lambda name: (-self[name].room, self.sent.get(name, 0), name))

    def best(self, requests: int) -> str | None:
        """The account through which a batch may join now; None: there is none."""
        return next((name for name in self.in_order() if self[name].may_join(requests)), None)

    def for_batch(self, requests: int) -> Queue:
        """The queue that a batch may join now; else the one that it may join soonest."""
        name = self.best(requests)
        if name is not None:
            return self[name]
        ranked = sorted(
            map(self.__getitem__, self.in_order()),
            key=lambda q: (q.too_large(requests) is not None, q.older_night is not None),
        )
        return ranked[0]

    def joined_by(self, requests: int) -> Queues:
        """The queues after these requests of the job have joined them, where most room is first."""
        found, left = dict(self.by_organisation), requests
        for name in dict.fromkeys(self.of[account] for account in self.in_order()):
            joins = min(left, max(0, found[name].most - found[name].used))
            found[name] = replace(
                found[name],
                used=found[name].used + joins,
                job_used=found[name].job_used + requests,
            )
            left -= joins
        return replace(self, by_organisation=found)

    def behind(self, older_night: str | None) -> Queues:
        """The queues where this night wants room in each of them, and goes first."""
        if older_night is None:
            return self
        found = {
            name: replace(queue, older_night=older_night)
            for name, queue in self.by_organisation.items()
        }
        return replace(self, by_organisation=found)


def queue_limit(account_limit: int, job_limit: int | None) -> int:
    """The most requests that may be in the queue at once for a job."""
    return account_limit if job_limit is None else min(account_limit, job_limit)


def read_queues(
    connection: Connection, night: Night, senders: Iterable[Sender], job_limit: int | None
) -> Queues:
    """The queues as a night finds them now."""
    at = now(connection)
    senders = list(senders)
    limits = {each.organisation: each.queue_limit for each in senders}
    members = organisations.accounts_of(connection, limits)
    sent = _in_queue(connection, tables.submission.c.account.in_(members))
    of_job = tables.night.c.job == night.job, tables.night.c.owner == night.owner
    job_used = 0 if job_limit is None else sum(_in_queue(connection, *of_job).values())
    named = any(each.organisation != each.account for each in senders)
    queues = {
        name: Queue(
            most=limit,
            used=sum(sent.get(account, 0) for account, of in members.items() if of == name),
            job_limit=job_limit,
            job_used=job_used,
            refused=refused_until(organisations.get(connection, name), at, name if named else None),
            name=name if named else None,
        )
        for name, limit in limits.items()
    }
    for name, older in _older_nights(connection, night, at, members):
        if name in queues and queues[name].older_night is None:
            queues[name] = replace(queues[name], older_night=older)
    return Queues({each.account: each.organisation for each in senders}, queues, sent)


def _in_queue(connection: Connection, *conditions: sa.ColumnElement[bool]) -> dict[str, int]:
    """Requests that are in the queue, or may be, by account."""
    query = (
        sa.select(tables.submission.c.account, sa.func.sum(tables.submission.c.requests))
        .join(tables.night, tables.night.c.id == tables.submission.c.night_id)
        .where(
            tables.submission.c.state.in_([state.value for state in IN_QUEUE]),
            *conditions,
        )
        .group_by(tables.submission.c.account)
    )
    return {account: int(requests) for account, requests in connection.execute(query)}


def _older_nights(
    connection: Connection, night: Night, at: float, members: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Nights that want room and go before a night, oldest first: the organisation, and which."""
    rows = connection.execute(
        sa.select(
            tables.night.c.job, tables.night.c.partition, tables.night.c.owner,
            tables.night.c.accounts,
        )
        .where(
            tables.night.c.wanted_room_at > at - ROOM_WANTED_SECONDS,
            tables.night.c.held_at.is_(None),
            sa.tuple_(tables.night.c.partition, tables.night.c.id)
            < sa.tuple_(sa.literal(night.partition), sa.literal(night.id)),
        )
        .order_by(tables.night.c.partition, tables.night.c.id)
    )  # fmt: skip
    for row in rows:
        for account in row.accounts or [row.owner]:
            if account in members:
                yield members[account], f"{row.job} {row.partition}"
