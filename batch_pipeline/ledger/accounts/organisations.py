"""Organisations in the ledger: their accounts, and the queue and rate limits that these share.

An account without a declared organisation is one of its own, under its own name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import waits
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.settings import USUAL_QUEUE_LIMIT

# The name of an account's organisation, as an expression over the account's row.
NAME = sa.func.coalesce(tables.account.c.organisation, tables.account.c.name)


@dataclass(frozen=True)
class Organisation:
    """An organisation by the name that the user gave it.

    `api_id` is its id by the API's headers. Nothing joins its queue before `wait_until`, because
    the API said that it is full. `limit_read` is its queue limit in requests, as an admin key read
    it.
    """

    name: str
    api_id: str | None = None
    wait_until: float = 0.0
    limit_read: int | None = None
    limit_read_at: float | None = None

    def queue_limit(self, declared: int | None) -> int:
        """The queue limit in force: the smaller one of what is declared and what the API says."""
        known = [limit for limit in (declared, self.limit_read) if limit is not None]
        return min(known, default=USUAL_QUEUE_LIMIT)


def get(connection: Connection, name: str) -> Organisation:
    query = sa.select(tables.organisation).where(tables.organisation.c.name == name)
    row = connection.execute(query).mappings().first()
    return Organisation(name) if row is None else Organisation(**row)


def of_account(connection: Connection, account: str) -> Organisation:
    """The organisation of an account."""
    name = connection.scalar(sa.select(NAME).where(tables.account.c.name == account))
    return get(connection, account if name is None else name)


def accounts_of(connection: Connection, names: Collection[str]) -> dict[str, str]:
    """All accounts of organisations, each with its organisation's name.

    An account that the API has told to be of the same organisation counts as one of it, under
    whichever name it was declared: their queue is one.
    """
    columns = tables.account.c
    rows = connection.execute(sa.select(columns.name, NAME.label("of"), columns.organisation_id))
    every = rows.all()
    ids = {row.organisation_id: row.of for row in every if row.organisation_id and row.of in names}
    found = {row.name: row.of if row.of in names else ids.get(row.organisation_id) for row in every}
    return {name: of for name, of in found.items() if of is not None}


def wait_for_queue(connection: Connection, account: str, seconds: float) -> None:
    """Let nothing join the queue of an account's organisation for `seconds`: the API said that it
    is full."""
    name = of_account(connection, account).name
    _update(connection, name, wait_until=waits.until(connection, seconds))


def note_limit(connection: Connection, name: str, limit: int | None) -> None:
    """Note the queue limit that an admin key has read from the API; None: the API names none."""
    _update(connection, name, limit_read=limit, limit_read_at=now(connection))


def note_id(connection: Connection, name: str, api_id: str | None) -> None:
    """Note the id of an organisation by the API's headers; None: that of the next answer counts."""
    _update(connection, name, api_id=api_id)


def list_organisations(connection: Connection) -> Mapping[str, Organisation]:
    """What is known of organisations, by name."""
    rows = connection.execute(sa.select(tables.organisation)).mappings()
    return {row["name"]: Organisation(**row) for row in rows}


def _update(connection: Connection, name: str, **values: Any) -> None:
    of_name = tables.organisation.c.name == name
    if connection.execute(sa.update(tables.organisation).where(of_name).values(values)).rowcount:
        return
    connection.execute(sa.insert(tables.organisation).values(name=name, **values))
