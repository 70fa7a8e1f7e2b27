"""Batches of the API's list: what was listed before a submission was sent, whose a listed batch is,
and which submissions may still appear there.

Belongs here: the rows, and for how long a submission is watched. How a batch of the list is
attributed stands in `flow.batches.reconciliation`.

A list is that of a workspace, and so are these rows: they are found by any name that an account of
the workspace has had.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import State, Submission

# Parameters of one query: both databases take at least 999.
IDS_AT_ONCE = 500
# A batch ends within 24 hours of its creation; the rest is for a list that lags.
LATE_WATCH_SECONDS = 48 * 3600.0
# An older mark is as true, but batches of other tenants that were made since have to be told apart.
MARK_SECONDS = 10.0


def mark(connection: Connection, account: str, batch_id: str, submission_id: int | None) -> None:
    """Record whose a listed batch is, once and for all; None: not of this ledger."""
    found = connection.execute(
        sa.select(tables.seen).where(
            tables.seen.c.account.in_(accounts.same_workspace(connection, account)),
            tables.seen.c.batch_id == batch_id,
        )
    ).first()
    if found is None:
        connection.execute(
            sa.insert(tables.seen).values(
                account=account, batch_id=batch_id, submission_id=submission_id
            )
        )


def known(connection: Connection, account: str, among: Iterable[str] | None = None) -> set[str]:
    """Ids of listed batches that were attributed; with `among`, only those of them."""
    names = accounts.same_workspace(connection, account)
    query = sa.select(tables.seen.c.batch_id).where(tables.seen.c.account.in_(names))
    if among is None:
        return set(connection.scalars(query))
    found: set[str] = set()
    left = iter(among)
    while some := list(itertools.islice(left, IDS_AT_ONCE)):
        found.update(connection.scalars(query.where(tables.seen.c.batch_id.in_(some))))
    return found


@dataclass(frozen=True)
class Mark:
    """The newest batches of the API's list at one time, newest first.

    What was listed by then is no batch that was sent later. `odd` entries among them had no
    readable id. `whole`: the list had no more.
    """

    id: int
    ids: Sequence[str]
    odd: int
    whole: bool


def fresh_mark(connection: Connection, account: str, seconds: float = MARK_SECONDS) -> int | None:
    """The latest mark of the account's list, if it is not older than this."""
    columns = tables.list_mark.c
    names = accounts.same_workspace(connection, account)
    query = sa.select(columns.id, columns.read_at).where(columns.account.in_(names))
    found = connection.execute(query.order_by(columns.id.desc()).limit(1)).first()
    if found is None or abs(now(connection) - found.read_at) > seconds:
        return None
    return int(found.id)


def add_mark(
    connection: Connection,
    account: str,
    read_at: float,
    ids: Sequence[str],
    odd: int,
    *,
    whole: bool,
) -> int:
    """Record what the list shows; marks that no submission needs any more are removed."""
    columns = tables.list_mark.c
    submission = tables.submission.c
    names = accounts.same_workspace(connection, account)
    needed = sa.select(submission.mark_id).where(
        submission.account.in_(names),
        submission.mark_id.is_not(None),
        sa.or_(
            submission.state.in_([s.value for s in (State.INTENT, State.SEALED, State.UNKNOWN)]),
            sa.and_(
                submission.state == State.ABSENT.value,
                submission.window_from > now(connection) - LATE_WATCH_SECONDS,
            ),
        ),
    )
    connection.execute(
        sa.delete(tables.list_mark).where(columns.account.in_(names), columns.id.not_in(needed))
    )
    added = connection.execute(
        sa.insert(tables.list_mark).values(
            account=account, read_at=read_at, ids=list(ids), odd=odd, whole=whole
        )
    )
    [mark_id] = added.inserted_primary_key or (None,)
    assert mark_id is not None
    return int(mark_id)


def marks(connection: Connection, ids: Iterable[int | None]) -> dict[int, Mark]:
    """Marks by id."""
    wanted = {mark_id for mark_id in ids if mark_id is not None}
    query = sa.select(tables.list_mark).where(tables.list_mark.c.id.in_(wanted))
    return {row.id: Mark(row.id, row.ids, row.odd, row.whole) for row in connection.execute(query)}


def watched(connection: Connection, account: str | None = None) -> list[Submission]:
    """Submissions that were given up less than 48 hours ago and may have become a batch after all.

    Of one account's workspace, or of all. A submission whose body was never sealed has no
    `window_from` and is not among them: its body cannot have been completed.
    """
    names = () if account is None else accounts.same_workspace(connection, account)
    of_account = (tables.submission.c.account.in_(names),) if names else ()
    since = now(connection) - LATE_WATCH_SECONDS
    return submissions.find(
        connection,
        tables.submission.c.window_from > since,
        *of_account,
        states=(State.ABSENT,),
    )


def accounts_unsettled(connection: Connection, owner: str) -> set[str]:
    """The accounts that have sent for an owner's nights what is not collected, or may still appear
    in their lists."""
    submission = tables.submission.c
    mine = sa.select(tables.night.c.id).where(tables.night.c.owner == owner)
    late = submission.window_from > now(connection) - LATE_WATCH_SECONDS
    query = sa.select(submission.account).where(
        submission.night_id.in_(mine),
        sa.or_(
            submission.state.in_([state.value for state in submissions.LIVE]),
            sa.and_(submission.state == State.ABSENT.value, late),
        ),
    )
    return set(connection.scalars(query.distinct()))
