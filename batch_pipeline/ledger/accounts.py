"""Accounts in the ledger: whose key it is, and whether sending rests for all of its jobs."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.errors import LedgerError
from batch_pipeline.ledger import tables
from batch_pipeline.ledger.ledger import now


@dataclass(frozen=True)
class Account:
    """Queue, spend and state of one account never count for another."""

    name: str
    simulated: bool
    paused_reason: str | None = None
    wait_until: float = 0.0
    paused_at: float | None = None


def register_account(connection: Connection, name: str, *, simulated: bool) -> None:
    """Make the account known; a name once used for a simulator is not used for a real account."""
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
    """Let submission rest (or go on, with None) for a whole account."""
    paused_at = None
    if reason is not None:
        # A pause that goes on is the same one, whatever is said of it now.
        paused_at = get_account(connection, name).paused_at or now(connection)
    connection.execute(
        sa.update(tables.account)
        .where(tables.account.c.name == name)
        .values(paused_reason=reason, paused_at=paused_at)
    )


def wait_for_queue(connection: Connection, name: str, seconds: float) -> None:
    """No create of this account for some seconds: the API said that its queue is full."""
    connection.execute(
        sa.update(tables.account)
        .where(tables.account.c.name == name)
        .values(wait_until=now(connection) + seconds)
    )
