"""Senders: the accounts that may send a night, each with its organisation's queue and its ceiling.

Belongs here: what is declared of them, as the ledger names it. Which of them gets a shard is
decided in `decision`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Connection

from batch_pipeline.jobs.accounts.accounts_file import Accounts
from batch_pipeline.ledger.accounts import organisations
from batch_pipeline.ledger.nights import Night
from batch_pipeline.settings import MOST_USD_PER_MONTH, is_simulated


@dataclass(frozen=True)
class Sender:
    """An account that may send, by the name that the ledger has.

    `queue_limit` is the queue limit in requests of its `organisation`, which all accounts of it
    share. `max_usd_per_month` is its ceiling in USD, in a calendar month (UTC), and `ceiling` the
    name of the setting that says so.
    """

    account: str
    organisation: str
    queue_limit: int
    max_usd_per_month: Decimal | None = None
    ceiling: str = MOST_USD_PER_MONTH


def declared(
    connection: Connection, accounts: Accounts, names: Iterable[str], *, simulated: bool
) -> tuple[Sender, ...]:
    """The senders that accounts.yaml, or the environment, declares under these names of its own."""
    return tuple(_sender(connection, accounts, name, simulated=simulated) for name in names)


def of_night(connection: Connection, accounts: Accounts, night: Night) -> tuple[Sender, ...]:
    """The senders of a night as of its last opening, those left out that are not declared now."""
    known = {name: accounts.declared_as(name) for name in night.accounts or [night.owner]}
    found = tuple(
        _sender(connection, accounts, name, simulated=is_simulated(account))
        for account, name in known.items()
        if name is not None
    )
    if found:
        return found
    # The environment's account has another name now.
    organisation = organisations.of_account(connection, night.owner)
    limit = organisation.queue_limit(accounts.queue_limit_set)
    return (Sender(night.owner, organisation.name, limit, accounts.max_usd_per_month),)


def _sender(connection: Connection, accounts: Accounts, name: str, *, simulated: bool) -> Sender:
    names = accounts.names(name, simulated=simulated)
    limit = accounts.queue_limit(accounts.organisation_of(name))
    usd, setting = accounts.ceiling(name)
    organisation = organisations.get(connection, names.organisation)
    return Sender(names.name, names.organisation, organisation.queue_limit(limit), usd, setting)
