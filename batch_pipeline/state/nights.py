"""Accounts, nights, snapshots and shards in the ledger.

A night is one partition of one job under one account. What is sent in it follows from its current
snapshot; `revision` counts the changes, so that a plan made for an older one is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.errors import LedgerError
from batch_pipeline.state import tables
from batch_pipeline.state.ledger import now

Engine = Literal["batch", "realtime"]


class ShardState(StrEnum):
    """WAITING → HELD by a submission → COLLECTED; back to WAITING where it was never made."""

    WAITING = "waiting"
    HELD = "held"
    COLLECTED = "collected"
    # Its snapshot was replaced before it was sent, or its requests go in real time.
    DROPPED = "dropped"


@dataclass(frozen=True)
class Account:
    """Queue, spend and state of one account never count for another."""

    name: str
    simulated: bool
    paused_reason: str | None = None
    wait_until: float = 0.0
    paused_at: float | None = None


@dataclass(frozen=True)
class Night:
    """One partition of one job under one account."""

    id: int
    job: str
    partition: str
    account: str
    created_at: float
    snapshot_id: int | None
    open_requests: int
    revision: int
    published: bool
    rebuilding: bool
    held_at: float | None
    refused: str | None
    wanted_room_at: float
    pilot: dict[str, Any] | None
    completed_at: float | None
    estimate: dict[str, Any] | None = None
    short_of_budget: str | None = None
    over_budget: str | None = None
    waiting_requests: int | None = None
    deadline_at: float | None = None
    realtime_since: float | None = None
    forecast: dict[str, Any] | None = None
    pruned_at: float | None = None


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


@dataclass(frozen=True)
class NewShard:
    """A set of requests that will be one batch; `manifest` is the file that lists them.

    `bytes` are those of all requests, `largest_bytes` of the largest, `output_tokens` the sum of
    their `max_tokens`. `usd_bound` is the most that they can cost, as known when they were planned.
    """

    engine: Engine
    pilot: bool
    manifest: str
    requests: int
    bytes: int
    usd_bound: Decimal
    largest_bytes: int | None = field(default=None, kw_only=True)
    output_tokens: int | None = field(default=None, kw_only=True)
    for_deadline: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class Shard(NewShard):
    """A shard in the ledger."""

    id: int
    night_id: int
    snapshot_id: int
    state: ShardState
    created_at: float


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


def find_night(connection: Connection, job: str, partition: str, account: str) -> Night | None:
    return _night(
        connection,
        tables.night.c.job == job,
        tables.night.c.partition == partition,
        tables.night.c.account == account,
    )


def shown_night(connection: Connection, job: str, partition: str) -> Night | None:
    """The night whose answers the results folder shows, whatever its account."""
    return _night(
        connection,
        tables.night.c.job == job,
        tables.night.c.partition == partition,
        tables.night.c.published.is_(True),
    )


def get_night(connection: Connection, night_id: int) -> Night:
    night = _night(connection, tables.night.c.id == night_id)
    assert night is not None
    return night


def open_night(connection: Connection, job: str, partition: str, account: str) -> Night:
    """The night, made if it is new."""
    night = find_night(connection, job, partition, account)
    if night is not None:
        return night
    connection.execute(
        sa.insert(tables.night).values(
            job=job, partition=partition, account=account, created_at=now(connection)
        )
    )
    night = find_night(connection, job, partition, account)
    assert night is not None
    return night


def list_nights(
    connection: Connection, *, job: str | None = None, account: str | None = None
) -> list[Night]:
    """Nights, oldest partition first."""
    query = sa.select(tables.night).order_by(tables.night.c.partition, tables.night.c.id)
    if job is not None:
        query = query.where(tables.night.c.job == job)
    if account is not None:
        query = query.where(tables.night.c.account == account)
    return [Night(**row) for row in connection.execute(query).mappings()]


def update_night(connection: Connection, night_id: int, **values: Any) -> None:
    connection.execute(sa.update(tables.night).where(tables.night.c.id == night_id).values(values))


def mark_pruned(connection: Connection, pruned: Sequence[Night], at: float) -> None:
    """Snapshot and raw lines of these nights are about to go; no plan or reading of them counts."""
    for night in pruned:
        update_night(connection, night.id, pruned_at=at, revision=night.revision + 1)


def show_night(connection: Connection, night: Night) -> None:
    """From now on the results folder shows this night and no other account's."""
    connection.execute(
        sa.update(tables.night)
        .where(tables.night.c.job == night.job, tables.night.c.partition == night.partition)
        .values(published=tables.night.c.id == night.id)
    )


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
    update_night(
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


def add_shards(
    connection: Connection, night: Night, shards: Sequence[NewShard], *, open_requests: int
) -> bool:
    """Add planned shards, unless the night has changed since the plan was begun (then False).

    `open_requests` are left that the plan does not hold.
    """
    if get_night(connection, night.id).revision != night.revision:
        return False
    at = now(connection)
    rows = [
        {
            "night_id": night.id,
            "snapshot_id": night.snapshot_id,
            "state": ShardState.WAITING.value,
            "created_at": at,
            **vars(planned),
        }
        for planned in shards
    ]
    if rows:
        connection.execute(sa.insert(tables.shard), rows)
    update_night(connection, night.id, revision=night.revision + 1, open_requests=open_requests)
    count_waiting(connection, night.id)
    return True


def list_shards(connection: Connection, night_id: int, *states: ShardState) -> list[Shard]:
    """Shards of a night in the given states (all without any), in the order they were planned."""
    query = (
        sa.select(tables.shard)
        .where(tables.shard.c.night_id == night_id)
        .order_by(tables.shard.c.id)
    )
    if states:
        query = query.where(tables.shard.c.state.in_([state.value for state in states]))
    return [_shard(row) for row in connection.execute(query).mappings()]


def next_to_go(connection: Connection, night_id: int, engine: Engine | None = None) -> Shard | None:
    """The first waiting shard, of one engine or of any; found at once, however many wait."""
    waiting = tables.shard.c.state == ShardState.WAITING.value
    query = (
        sa.select(tables.shard)
        .where(tables.shard.c.night_id == night_id, waiting)
        .order_by(tables.shard.c.engine, tables.shard.c.id)
        .limit(1)
    )
    if engine is not None:
        query = query.where(tables.shard.c.engine == engine)
    row = connection.execute(query).mappings().first()
    return None if row is None else _shard(row)


def cheapest_to_go(connection: Connection, night_id: int, engine: Engine) -> Shard | None:
    """The waiting shard with the least bound as it was planned; looked for at a ceiling alone."""
    query = (
        sa.select(tables.shard)
        .where(
            tables.shard.c.night_id == night_id,
            tables.shard.c.state == ShardState.WAITING.value,
            tables.shard.c.engine == engine,
        )
        .order_by(tables.shard.c.usd_bound, tables.shard.c.requests, tables.shard.c.id)
        .limit(1)
    )
    row = connection.execute(query).mappings().first()
    return None if row is None else _shard(row)


def requests_waiting(connection: Connection, night: Night) -> int:
    """Requests in shards that wait. The count is kept, and never 0 where one waits, nor otherwise.

    A process of an older release does not keep it: it is taken anew with every plan.
    """
    first = next_to_go(connection, night.id)
    if first is None:
        return 0
    kept = night.waiting_requests
    return _sum_waiting(connection, night.id) if kept is None else max(kept, first.requests)


def count_waiting(connection: Connection, night_id: int) -> None:
    """Take the count of waiting requests anew."""
    update_night(connection, night_id, waiting_requests=_sum_waiting(connection, night_id))


def waiting_by_engine(connection: Connection, night_id: int) -> dict[Engine, int]:
    """Requests in shards that wait, by the way that they are to go."""
    query = (
        sa.select(tables.shard.c.engine, sa.func.sum(tables.shard.c.requests))
        .where(
            tables.shard.c.night_id == night_id, tables.shard.c.state == ShardState.WAITING.value
        )
        .group_by(tables.shard.c.engine)
    )
    return {engine: int(requests) for engine, requests in connection.execute(query)}


def shards_for_deadline(connection: Connection, night_id: int) -> set[int]:
    """Ids of the shards that went in real time because batches would have been too late."""
    query = sa.select(tables.shard.c.id).where(
        tables.shard.c.night_id == night_id, tables.shard.c.for_deadline.is_(True)
    )
    return set(connection.scalars(query))


def move_to_realtime(connection: Connection, night: Night, shards: Sequence[Shard]) -> bool:
    """Waiting batch shards are dropped, their requests open again to be planned for real time.

    False, and nothing has changed, where the night has changed since it was looked at. With no
    shards it is noted that what is open goes in real time.
    """
    current = get_night(connection, night.id)
    if current.revision != night.revision:
        return False
    states = {get_shard(connection, shard.id).state for shard in shards}
    if states - {ShardState.WAITING}:
        return False
    for shard in shards:
        set_shard_state(connection, shard.id, ShardState.DROPPED)
    update_night(
        connection,
        night.id,
        open_requests=current.open_requests + sum(shard.requests for shard in shards),
        realtime_since=current.realtime_since or now(connection),
        revision=current.revision + 1,
    )
    return True


def telling_shards(connection: Connection, night: Night) -> list[Shard]:
    """The few shards of the night's snapshot that tell how it stands, in the order of planning.

    Those of the pilot, the next batch to go, and the first of the others.
    """
    mine = sa.and_(
        tables.shard.c.snapshot_id == night.snapshot_id,
        tables.shard.c.state != ShardState.DROPPED.value,
    )
    query = sa.select(tables.shard).where(mine).order_by(tables.shard.c.id)
    pilots = connection.execute(query.where(tables.shard.c.pilot.is_(True))).mappings().all()
    others = connection.execute(query.where(tables.shard.c.pilot.is_(False)).limit(1)).mappings()
    found = {row["id"]: _shard(row) for row in (*pilots, *others)}
    first = next_to_go(connection, night.id, "batch")
    if first is not None and first.snapshot_id == night.snapshot_id:
        found[first.id] = first
    return [found[shard_id] for shard_id in sorted(found)]


def pilot_shards(connection: Connection, snapshot_id: int, *states: ShardState) -> list[Shard]:
    """The pilot's shards of a snapshot in the given states, in the order they were planned."""
    query = (
        sa.select(tables.shard)
        .where(
            tables.shard.c.snapshot_id == snapshot_id,
            tables.shard.c.pilot.is_(True),
            tables.shard.c.state.in_([state.value for state in states]),
        )
        .order_by(tables.shard.c.id)
    )
    return [_shard(row) for row in connection.execute(query).mappings()]


def waiting_size(connection: Connection, night_id: int, engine: Engine) -> tuple[int, int]:
    """How many shards of a night wait, and the bytes of their requests."""
    query = sa.select(
        sa.func.count(), sa.func.coalesce(sa.func.sum(tables.shard.c.bytes), 0)
    ).where(
        tables.shard.c.night_id == night_id,
        tables.shard.c.state == ShardState.WAITING.value,
        tables.shard.c.engine == engine,
    )
    count, size = connection.execute(query).one()
    return int(count), int(size)


def get_shard(connection: Connection, shard_id: int) -> Shard:
    query = sa.select(tables.shard).where(tables.shard.c.id == shard_id)
    return _shard(connection.execute(query).mappings().one())


def set_shard_state(connection: Connection, shard_id: int, state: ShardState) -> None:
    former = get_shard(connection, shard_id)
    if former.state is state:
        return
    connection.execute(
        sa.update(tables.shard).where(tables.shard.c.id == shard_id).values(state=state.value)
    )
    if ShardState.WAITING in (former.state, state):
        change = former.requests if state is ShardState.WAITING else -former.requests
        # NULL, where it was never counted, stays NULL.
        kept = tables.night.c.waiting_requests + change
        update_night(connection, former.night_id, waiting_requests=kept)


def _sum_waiting(connection: Connection, night_id: int) -> int:
    query = sa.select(sa.func.coalesce(sa.func.sum(tables.shard.c.requests), 0)).where(
        tables.shard.c.night_id == night_id, tables.shard.c.state == ShardState.WAITING.value
    )
    return int(connection.scalar(query) or 0)


def _night(connection: Connection, *conditions: sa.ColumnElement[bool]) -> Night | None:
    row = connection.execute(sa.select(tables.night).where(*conditions)).mappings().first()
    return None if row is None else Night(**row)


def _shard(row: sa.RowMapping) -> Shard:
    return Shard(**{**row, "state": ShardState(row["state"])})
