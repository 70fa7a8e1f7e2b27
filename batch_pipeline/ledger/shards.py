"""Shards in the ledger: sets of requests of a night that will be one batch each.

Belongs here: the rows that planning adds, and the queries. What happens to a shard that is sent
stands in `transitions`; whether it may go, in `admission`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import nights
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.nights import Night

Engine = Literal["batch", "realtime"]


class ShardState(StrEnum):
    """WAITING → CLAIMED by a submission → COLLECTED; back to WAITING where no batch was made."""

    WAITING = "waiting"
    CLAIMED = "claimed"
    COLLECTED = "collected"
    # Its snapshot was replaced before it was sent, or its requests were planned anew.
    DROPPED = "dropped"


@dataclass(frozen=True)
class NewShard:
    """A set of requests that will be one batch; `manifest` is the file that lists them.

    `bytes` are those of all requests, `output_tokens` the sum of their `max_tokens`. `prompt_size`
    is what the tokens of requests with documents follow from, `largest_bytes` that of the largest
    request; `parts` are the same by what the requests are priced at, where that is not the declared
    model alone. `usd_bound` is the most that they can cost, as known when they were planned.
    `optional` requests have an answer that stands without them. `warms` is the key of the prefix
    for which it warms up the prompt cache.
    """

    engine: Engine
    pilot: bool
    manifest: str
    requests: int
    bytes: int
    usd_bound: Decimal
    largest_bytes: int = field(kw_only=True)
    output_tokens: int = field(kw_only=True)
    for_deadline: bool = field(default=False, kw_only=True)
    parts: list[dict[str, Any]] | None = field(default=None, kw_only=True)
    optional: bool = field(default=False, kw_only=True)
    warms: str | None = field(default=None, kw_only=True)
    prompt_size: int | None = field(default=None, kw_only=True)

    @property
    def size_of_prompts(self) -> int:
        """What the tokens of all requests follow from."""
        return self.bytes if self.prompt_size is None else self.prompt_size


@dataclass(frozen=True)
class Shard(NewShard):
    """A shard in the ledger."""

    id: int
    night_id: int
    snapshot_id: int
    state: ShardState
    created_at: float
    refused_by: int | None = None
    origin: int | None = None


def add_shards(
    connection: Connection,
    night: Night,
    shards: Sequence[NewShard],
    *,
    open_requests: int,
    undecided: int = 0,
) -> bool:
    """Add planned shards, unless the night has changed since the plan was begun (then False).

    `open_requests` are the requests that are in no shard after this plan; `undecided` have an
    answer, of which it is decided later whether it stands.
    """
    if nights.get_night(connection, night.id).revision != night.revision:
        return False
    assert night.snapshot_id is not None
    insert(connection, night.id, night.snapshot_id, shards)
    current = nights.get_night(connection, night.id)
    if shards and current.retry_at is not None:
        rounds = current.retry_rounds + 1
        nights.update_night(connection, night.id, retry_at=None, retry_rounds=rounds)
    nights.update_night(
        connection,
        night.id,
        revision=night.revision + 1,
        open_requests=open_requests,
        undecided=undecided,
        waits_for=None,
    )
    return True


def insert(
    connection: Connection,
    night_id: int,
    snapshot_id: int,
    shards: Sequence[NewShard],
    *,
    origin: int | None = None,
) -> None:
    """Add waiting shards; `origin` is the first shard that these parts were split from."""
    common = {
        "night_id": night_id,
        "snapshot_id": snapshot_id,
        "state": ShardState.WAITING.value,
        "created_at": now(connection),
        "origin": origin,
    }
    if shards:
        rows = [{**common, **vars(planned)} for planned in shards]
        connection.execute(sa.insert(tables.shard), rows)


def by_manifest(connection: Connection, night_id: int, manifest: str) -> Shard:
    """The latest shard with this manifest."""
    columns = tables.shard.c
    query = (
        sa.select(tables.shard)
        .where(columns.night_id == night_id, columns.manifest == manifest)
        .order_by(columns.id.desc())
        .limit(1)
    )
    return _shard(connection.execute(query).mappings().one())


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


def _waiting(night_id: int) -> tuple[sa.ColumnElement[bool], ...]:
    """What is asked of a night's shards that wait."""
    columns = tables.shard.c
    return columns.night_id == night_id, columns.state == ShardState.WAITING.value


def drop_waiting(connection: Connection, night_id: int) -> None:
    """Drop the shards of a night that wait: what of their requests is open is planned anew."""
    change = sa.update(tables.shard).where(*_waiting(night_id))
    connection.execute(change.values(state=ShardState.DROPPED.value))


def next_to_go(
    connection: Connection,
    night_id: int,
    engine: Engine | None = None,
    *,
    but: Collection[int] = (),
) -> Shard | None:
    """The first waiting shard, of one engine or of any, one that is to be split first left out, and
    those of `but`: look-ups in indexes.

    What warms up the prompt cache goes before all that is to read it. Parts of a refused shard go
    before other shards, so that a fault of all documents is found out before every shard is
    uploaded for it.
    """
    columns = tables.shard.c
    query = (
        sa.select(tables.shard)
        .where(*_waiting(night_id), columns.refused_by.is_(None))
        .order_by(columns.engine, columns.id)
        .limit(1)
    )
    if engine is not None:
        query = query.where(columns.engine == engine)
    if but:
        query = query.where(columns.id.not_in(but))
    # Not `IS NOT NULL`: SQLite would not look into the index of parts for it.
    for found in (query.where(columns.warms > ""), query.where(columns.origin > 0), query):
        row = connection.execute(found).mappings().first()
        if row is not None:
            return _shard(row)
    return None


def shards_to_split(connection: Connection, night_id: int) -> list[Shard]:
    """Waiting shards whose body was refused, in the order they were planned."""
    columns = tables.shard.c
    query = (
        sa.select(tables.shard)
        .where(*_waiting(night_id), columns.refused_by > 0)
        .order_by(columns.id)
    )
    return [_shard(row) for row in connection.execute(query).mappings()]


def cheapest_to_go(
    connection: Connection, night_id: int, engine: Engine, *, but: Collection[int] = ()
) -> Shard | None:
    """The waiting shard with the least bound as planned, those of `but` left out; reads all waiting
    shards of the night."""
    query = (
        sa.select(tables.shard)
        .where(
            *_waiting(night_id),
            tables.shard.c.engine == engine,
            tables.shard.c.refused_by.is_(None),
            tables.shard.c.id.not_in(but),
        )
        .order_by(tables.shard.c.usd_bound, tables.shard.c.requests, tables.shard.c.id)
        .limit(1)
    )
    row = connection.execute(query).mappings().first()
    return None if row is None else _shard(row)


def requests_waiting(connection: Connection, night: Night) -> int:
    """Requests in shards of a night that wait."""
    return sum(waiting_by_engine(connection, night.id).values())


def waiting_by_engine(connection: Connection, night_id: int) -> dict[Engine, int]:
    """Requests in shards that wait, by engine."""
    query = (
        sa.select(tables.shard.c.engine, sa.func.sum(tables.shard.c.requests))
        .where(*_waiting(night_id))
        .group_by(tables.shard.c.engine)
    )
    return {engine: int(requests) for engine, requests in connection.execute(query)}


def shards_for_deadline(connection: Connection, night_id: int) -> set[int]:
    """Ids of the shards that went in real time because batches would have been too late."""
    query = sa.select(tables.shard.c.id).where(
        tables.shard.c.night_id == night_id, tables.shard.c.for_deadline.is_(True)
    )
    return set(connection.scalars(query))


def take_back_too_large(connection: Connection, night: Night, limit: int) -> int:
    """Drop waiting batch shards with more requests than the queue limit; returns how many.

    A limit may be lowered after they were planned: they would never have room. Their requests are
    open again, to be cut anew. A shard that waits has no live submission.
    """
    too_large = [
        shard
        for shard in list_shards(connection, night.id, ShardState.WAITING)
        if shard.engine == "batch" and shard.requests > limit
    ]
    if too_large:
        _reopen(connection, nights.get_night(connection, night.id), too_large)
    return len(too_large)


def move_to_realtime(connection: Connection, night: Night, shards: Sequence[Shard]) -> bool:
    """Drop waiting batch shards, and open their requests again to be planned for real time.

    Without shards, it is noted that open requests go in real time. Returns False and changes
    nothing where the night is no longer in the state that `night` describes.
    """
    current = nights.get_night(connection, night.id)
    if current.revision != night.revision:
        return False
    states = {get_shard(connection, shard.id).state for shard in shards}
    if states - {ShardState.WAITING}:
        return False
    _reopen(connection, current, shards)
    since = current.realtime_since or now(connection)
    nights.update_night(connection, night.id, realtime_since=since)
    return True


def optional_shards(connection: Connection, night_id: int) -> set[int]:
    """Ids of the shards that the night can do without."""
    query = sa.select(tables.shard.c.id).where(
        tables.shard.c.night_id == night_id, tables.shard.c.optional.is_(True)
    )
    return set(connection.scalars(query))


def drop_optional(connection: Connection, night_id: int) -> int:
    """Drop the waiting shards that a night can do without; returns how many.

    It is not decided then what becomes of their requests.
    """
    night = nights.get_night(connection, night_id)
    waiting = list_shards(connection, night_id, ShardState.WAITING)
    dropped = [shard for shard in waiting if shard.optional]
    for shard in dropped:
        set_shard_state(connection, shard.id, ShardState.DROPPED)
    if dropped:
        undecided = night.undecided + sum(shard.requests for shard in dropped)
        revision = night.revision + 1
        nights.update_night(connection, night_id, undecided=undecided, revision=revision)
    return len(dropped)


def _reopen(connection: Connection, night: Night, shards: Sequence[Shard]) -> None:
    """Drop shards that wait: their requests are open again, and a plan under way is void."""
    for shard in shards:
        set_shard_state(connection, shard.id, ShardState.DROPPED)
    nights.update_night(
        connection,
        night.id,
        open_requests=night.open_requests + sum(shard.requests for shard in shards),
        revision=night.revision + 1,
    )


def telling_shards(connection: Connection, night: Night) -> list[Shard]:
    """The shards of the pilot, the next batch to go and the first of the others, in the order of
    planning: what a look at the night needs, where it may have 100,000 shards."""
    mine = sa.and_(
        tables.shard.c.snapshot_id == night.snapshot_id,
        tables.shard.c.state != ShardState.DROPPED.value,
    )
    query = sa.select(tables.shard).where(mine).order_by(tables.shard.c.id)
    pilots = connection.execute(query.where(tables.shard.c.pilot.is_(True))).mappings().all()
    others = connection.execute(query.where(tables.shard.c.pilot.is_(False)).limit(1)).mappings()
    found = {row["id"]: _shard(row) for row in (*pilots, *others)}
    first = next_to_go(connection, night.id, "batch")
    for shard in [*shards_to_split(connection, night.id), *filter(None, [first])]:
        if shard.snapshot_id == night.snapshot_id:
            found[shard.id] = shard
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
    """The number of shards of a night that wait, and the bytes of their requests."""
    query = sa.select(
        sa.func.count(), sa.func.coalesce(sa.func.sum(tables.shard.c.bytes), 0)
    ).where(
        *_waiting(night_id),
        tables.shard.c.engine == engine,
    )
    count, size = connection.execute(query).one()
    return int(count), int(size)


def get_shard(connection: Connection, shard_id: int) -> Shard:
    query = sa.select(tables.shard).where(tables.shard.c.id == shard_id)
    return _shard(connection.execute(query).mappings().one())


def set_shard_state(connection: Connection, shard_id: int, state: ShardState) -> None:
    connection.execute(
        sa.update(tables.shard).where(tables.shard.c.id == shard_id).values(state=state.value)
    )


def _shard(row: sa.RowMapping) -> Shard:
    return Shard(**{**row, "state": ShardState(row["state"])})
