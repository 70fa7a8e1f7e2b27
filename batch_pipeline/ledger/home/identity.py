"""Which ledger this is, which home it belongs to, and how much was about to be sent from it.

A ledger that was deleted, or restored from a backup, does not know what was bought since. Its home
carries a mark (`flow.home_mark`), by which that is noticed: the mark has the ledger's name and the
last number that `count_sent` returned. The number is raised in the transaction that seals a body or
opens a shard for calls, so that no backup of the ledger that is older than a purchase has it.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.shards import Engine


@dataclass(frozen=True)
class Identity:
    """The ledger's name, that of its home (None: no home is known yet), and the last number."""

    ledger: str
    home: str | None
    home_location: str | None
    sent: int


@dataclass(frozen=True)
class Sent:
    """A submission that is about to leave: what its row can be made of again.

    `number` counts what has left this ledger; `snapshot` and `manifest` are paths in the home.
    `owner` is whose night it is, None: the account's, which bears the same name.
    """

    number: int
    token: str
    account: str
    job: str
    partition: str
    engine: Engine
    requests: int
    usd_bound: Decimal
    stated_prices: dict[str, Any] | None
    intent_at: float
    snapshot: str
    manifest: str
    pilot: bool
    bytes: int
    largest_bytes: int
    output_tokens: int
    for_deadline: bool
    prompt_size: int | None = None
    owner: str | None = None


def find(connection: Connection) -> Identity | None:
    """The ledger's identity; None: it has none yet."""
    row = connection.execute(sa.select(tables.identity)).mappings().first()
    return None if row is None else Identity(**row)


def read(connection: Connection) -> Identity:
    """The ledger's identity, given to it if it has none; in a write transaction."""
    found = find(connection)
    if found is None:
        found = Identity(uuid.uuid4().hex, None, None, 0)
        connection.execute(sa.insert(tables.identity).values(asdict(found)))
    return found


def set_home(connection: Connection, home: str, location: str) -> None:
    """Let the ledger belong to a home, in which it may also have moved."""
    read(connection)
    connection.execute(sa.update(tables.identity).values(home=home, home_location=location))


def count_sent(connection: Connection, submission_id: int) -> Sent:
    """Give the next number to a submission whose body is sealed, or whose calls begin."""
    number = read(connection).sent + 1
    raise_sent(connection, number)
    s, shard = tables.submission.c, tables.shard.c
    query = (
        sa.select(
            s.token, s.account, tables.night.c.job, tables.night.c.partition, s.engine,
            s.requests, s.usd_bound, s.stated_prices, s.intent_at,
            tables.snapshot.c.folder.label("snapshot"), shard.manifest, shard.pilot, shard.bytes,
            shard.largest_bytes, shard.output_tokens, shard.for_deadline, shard.prompt_size,
            sa.func.nullif(tables.night.c.owner, s.account).label("owner"),
        )
        .join_from(tables.submission, tables.shard, shard.id == s.shard_id)
        .join(tables.night, tables.night.c.id == s.night_id)
        .join(tables.snapshot, tables.snapshot.c.id == s.snapshot_id)
        .where(s.id == submission_id)
    )  # fmt: skip
    return Sent(number=number, **connection.execute(query).mappings().one())


def raise_sent(connection: Connection, number: int) -> None:
    """Let the number be at least this; it never falls."""
    connection.execute(
        sa.update(tables.identity).where(tables.identity.c.sent < number).values(sent=number)
    )
