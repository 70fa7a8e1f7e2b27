"""What is still to be published in a remote home: files that a transaction has given their names.

An object store knows no transaction, and an upload takes longer than one may last. So the files lie
in the home already when a transaction records here which name each of them gets; they are moved
after its commit. The publications of a partition are carried out one after the other, in the order
in which they were recorded: files of a folder that was built anew never meet those of before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now

# A file and its name; without a file: a folder from which all other files are removed.
Step = tuple[str | None, str]


@dataclass(frozen=True)
class Publication:
    """Steps of one transaction that are still to be done, in this order."""

    id: int
    job: str
    partition: str
    steps: Sequence[Step]
    holder: str | None
    lease_until: float | None


def record(connection: Connection, job: str, partition: str, steps: Sequence[Step]) -> None:
    values = {"job": job, "partition": partition, "steps": list(steps)}
    connection.execute(sa.insert(tables.publication).values(values))


def first(connection: Connection, job: str, partition: str) -> Publication | None:
    """The publication of a partition that is to be carried out next."""
    columns = tables.publication.c
    query = (
        sa.select(tables.publication)
        .where(columns.job == job, columns.partition == partition)
        .order_by(columns.id)
        .limit(1)
    )
    row = connection.execute(query).mappings().first()
    return None if row is None else Publication(**tables.by_key(tables.publication, row))


def claim(
    connection: Connection,
    job: str,
    partition: str,
    holder: str,
    lease_seconds: float,
    is_gone: Callable[[str], bool],
) -> Publication | None:
    """Claim the next publication of a partition; None: there is none, or another process has it."""
    found = first(connection, job, partition)
    if found is None:
        return None
    at = now(connection)
    held = (
        found.holder is not None and (found.lease_until or 0.0) > at and not is_gone(found.holder)
    )
    if held:
        return None
    columns = tables.publication.c
    mine = sa.update(tables.publication).where(columns.id == found.id)
    connection.execute(mine.values(holder=holder, lease_until=at + lease_seconds))
    return found


def keep(connection: Connection, publication_id: int, holder: str, lease_seconds: float) -> bool:
    """Extend a claim; False: another process has taken over, or has carried it out."""
    columns = tables.publication.c
    mine = sa.update(tables.publication).where(
        columns.id == publication_id, columns.holder == holder
    )
    until = now(connection) + lease_seconds
    return bool(connection.execute(mine.values(lease_until=until)).rowcount)


def done(connection: Connection, publication_id: int, holder: str) -> bool:
    """Forget a publication that was carried out; False: it is another process's by now."""
    columns = tables.publication.c
    mine = sa.delete(tables.publication).where(
        columns.id == publication_id, columns.holder == holder
    )
    return bool(connection.execute(mine).rowcount)


def waiting_files(connection: Connection) -> set[str]:
    """The files of all publications that are still to be carried out."""
    steps = connection.scalars(sa.select(tables.publication.c.steps))
    return {file for some in steps for file, _ in some if file is not None}
