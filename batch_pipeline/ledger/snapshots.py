"""Snapshots in the ledger: a night's input as it was read, and which one is current.

Belongs here: the rows. The files that hold the items themselves are `flow.snapshots`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import nights, tables
from batch_pipeline.ledger.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import ShardState


@dataclass(frozen=True)
class NewSnapshot:
    """A night's input as it was read, and the declaration that turned it into requests.

    `items` rows, of which `invalid_input` and `too_large` are set aside and `duplicates` are
    answered by the request of an earlier row; `request_bytes` is the size of all requests. `kept`
    requests are those of a former declaration, which are answered.
    """

    folder: str
    signature: str
    content_hash: str
    declaration_hash: str
    declaration: dict[str, Any]
    parts: int
    items: int
    invalid_input: int
    too_large: int
    duplicates: int
    request_bytes: int
    kept: int = field(default=0, kw_only=True)

    @property
    def units(self) -> int:
        """Distinct requests that its own declaration makes."""
        unsent = self.invalid_input + self.too_large + self.duplicates
        return self.items - unsent - self.kept


@dataclass(frozen=True)
class Snapshot(NewSnapshot):
    """A snapshot in the ledger."""

    id: int
    night_id: int
    settled: dict[str, int]
    taken_at: float


def get_snapshot(connection: Connection, snapshot_id: int) -> Snapshot:
    kept = sa.func.coalesce(tables.kept.c.units, 0).label("kept")
    query = (
        sa.select(tables.snapshot, kept)
        .outerjoin(tables.kept, tables.kept.c.snapshot_id == tables.snapshot.c.id)
        .where(tables.snapshot.c.id == snapshot_id)
    )
    return Snapshot(**connection.execute(query).mappings().one())


def declarations(connection: Connection, night_id: int) -> dict[str, dict[str, Any]]:
    """All declarations that snapshots of a night were taken with, by hash."""
    query = sa.select(tables.snapshot.c.declaration_hash, tables.snapshot.c.declaration)
    rows = connection.execute(query.where(tables.snapshot.c.night_id == night_id))
    return {row.declaration_hash: row.declaration for row in rows}


def snapshots_of(connection: Connection, night_id: int) -> dict[int, Snapshot]:
    """All snapshots that a night has had, by id."""
    query = sa.select(tables.snapshot).where(tables.snapshot.c.night_id == night_id)
    return {row["id"]: Snapshot(**row) for row in connection.execute(query).mappings()}


def replace_snapshot(
    connection: Connection, night: Night, new: NewSnapshot, settled: dict[str, int]
) -> Snapshot:
    """Make a snapshot the night's current one; shards of the former that wait are dropped.

    `settled` is the number of its items that are settled already, by status. The caller has seen to
    it that nothing of the night is in flight.
    """
    taken_at = now(connection)
    columns = {name: value for name, value in vars(new).items() if name != "kept"}
    result = connection.execute(
        sa.insert(tables.snapshot).values(
            night_id=night.id, taken_at=taken_at, settled=settled, **columns
        )
    )
    snapshot_id = int(result.inserted_primary_key[0])  # type: ignore[index]
    if new.kept:
        connection.execute(sa.insert(tables.kept).values(snapshot_id=snapshot_id, units=new.kept))
    connection.execute(
        sa.update(tables.shard)
        .where(
            tables.shard.c.night_id == night.id,
            tables.shard.c.state == ShardState.WAITING.value,
        )
        .values(state=ShardState.DROPPED.value)
    )
    nights.update_night(
        connection,
        night.id,
        snapshot_id=snapshot_id,
        open_requests=new.units,
        waiting_requests=0,
        revision=night.revision + 1,
        realtime_since=None,
        forecast=None,
        refused=None,
        pruned_at=None,
        completed_at=None,
    )
    return get_snapshot(connection, snapshot_id)
