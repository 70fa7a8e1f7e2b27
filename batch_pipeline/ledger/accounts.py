"""Accounts in the ledger: organisation and workspace of a key, and whether sending is paused."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.errors import LedgerError
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now


@dataclass(frozen=True)
class Account:
    """An account, by the name that the user gave it.

    Queue, spending and state of one account never count for another. Times are in seconds since the
    epoch.
    """

    name: str
    simulated: bool
    paused_reason: str | None = None
    wait_until: float = 0.0
    paused_at: float | None = None


def register_account(connection: Connection, name: str, *, simulated: bool) -> None:
    """Add the account, if it is new.

    Raises LedgerError where the name was used for a simulator and is now used for a real account,
    or the other way round: their answers and their money must not mix.
    """
    known = connection.execute(
        sa.select(tables.account.c.simulated).where(tables.account.c.name == name)
    ).first()
    if known is None:
        connection.execute(
            sa.insert(tables.account).values(name=name, simulated=simulated, wait_until=0.0)
        )
    elif known.simulated != simulated:
        raise LedgerError(
            f"Account {name!r} of this ledger is {'simulated' if known.simulated else 'real'}, the "
            "server that answered is not. Set another BATCH_PIPELINE_ACCOUNT or another home."
        )


def get_account(connection: Connection, name: str) -> Account:
    query = sa.select(tables.account).where(tables.account.c.name == name)
    return Account(**connection.execute(query).mappings().one())


def pause_account(connection: Connection, name: str, reason: str | None) -> None:
    """Pause sending for a whole account, or go on (`reason` None)."""
    paused_at = None
    if reason is not None:
        # A pause with a new reason is still the same pause, and causes no second alert.
        paused_at = get_account(connection, name).paused_at or now(connection)
    connection.execute(
        sa.update(tables.account)
        .where(tables.account.c.name == name)
        .values(paused_reason=reason, paused_at=paused_at)
    )


def wait_for_queue(connection: Connection, name: str, seconds: float) -> None:
    """Create no batch of this account for `seconds`: the API said that its queue is full."""
    connection.execute(
        sa.update(tables.account)
        .where(tables.account.c.name == name)
        .values(wait_until=now(connection) + seconds)
    )
