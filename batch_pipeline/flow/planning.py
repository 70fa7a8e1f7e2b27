"""The one rule of what is sent, and the cutting of shards.

Within one account, job and partition, every unit without an accepted answer that is not in flight
and not set aside goes out. Resume, retry rounds, kept pilot answers, a night run again with new
documents, a changed prompt: all follow from it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pyarrow as pa

from batch_pipeline.flow import joins, manifests, paths, snapshots, standing_answers
from batch_pipeline.flow.answers import SUMMED
from batch_pipeline.flow.more_room import MoreRoom
from batch_pipeline.flow.outcomes import MAX_TOKENS, Status
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.requests import BODY_END, BODY_START, Declaration, wire_overhead
from batch_pipeline.flow.standing_answers import StandingAnswers
from batch_pipeline.money.prices import ModelPrice
from batch_pipeline.spec import MAX_BYTES_PER_BATCH, MAX_REQUESTS_PER_BATCH, JobSpec, RetrySpec
from batch_pipeline.state import nights
from batch_pipeline.state.nights import Engine, NewShard, Night, ShardState, Snapshot

_SETTLED = "SELECT unit FROM answers WHERE final"
# Attempts that a redrive has put behind; its own, and under another declaration the item's.
_BEFORE = """
    SELECT {key}, max(attempt) AS attempts FROM answers WHERE redriven GROUP BY {key}
"""
_BEFORE_OF_UNIT, _BEFORE_OF_ITEM = _BEFORE.format(key="unit"), _BEFORE.format(key="id")
_CUT_OFF = f"status = '{Status.TRUNCATED}' AND error_type = '{MAX_TOKENS}' AND NOT final"
_SUMS = ", ".join(f"sum({name}) AS prior_{name}" for name in SUMMED)
_PRIORS = ", ".join(f"coalesce(p.prior_{name}, 0) AS prior_{name}" for name in SUMMED)
OPEN_UNITS = f"""
    SELECT s.unit, s.fingerprint, s.ordinal, s.id, s.request_bytes,
           greatest(coalesce(b.attempts, 0), coalesce(i.attempts, 0)) AS attempts_before,
           attempts_before + coalesce(a.attempts, 0) + 1 AS attempt, {_PRIORS},
           coalesce(a.cut_off, false) AS cut_off
    FROM snapshot s
    ANTI JOIN duplicates d ON d.ordinal = s.ordinal
    ANTI JOIN held h ON h.unit = s.unit
    ANTI JOIN ({_SETTLED}) f ON f.unit = s.unit
    LEFT JOIN (
        SELECT unit, count(*) FILTER (attempt > coalesce(attempts, 0)) AS attempts,
               bool_or({_CUT_OFF}) AS cut_off
        FROM answers LEFT JOIN ({_BEFORE_OF_UNIT}) USING (unit) WHERE counted GROUP BY unit
    ) a ON a.unit = s.unit
    LEFT JOIN ({_BEFORE_OF_UNIT}) b ON b.unit = s.unit
    LEFT JOIN ({_BEFORE_OF_ITEM}) i ON i.id = s.id
    LEFT JOIN (SELECT id, {_SUMS} FROM answers GROUP BY id) p ON p.id = s.id
    WHERE s.unit IS NOT NULL
"""  # noqa: S608  # made of constants
COUNT_OPEN = f"SELECT count(*) FROM ({OPEN_UNITS})"  # noqa: S608
ALL_OPEN = f"{OPEN_UNITS} ORDER BY s.ordinal"
CUT_OFF = f"SELECT * FROM ({OPEN_UNITS}) WHERE cut_off ORDER BY ordinal LIMIT $size"  # noqa: S608
# One unit of each of `size` strata of equal count by length, so that the long tail is in it.
SAMPLE = f"""
    SELECT * EXCLUDE (stratum) FROM (
        SELECT *, ntile($size) OVER (ORDER BY request_bytes, ordinal) AS stratum
        FROM ({OPEN_UNITS})
    )
    QUALIFY row_number() OVER (PARTITION BY stratum ORDER BY md5(unit || $seed), ordinal) = 1
    ORDER BY ordinal
"""  # noqa: S608


@dataclass(frozen=True)
class ShardLimits:
    """The smallest limits in force, so that no shard waits for ever."""

    requests: int
    bytes: int

    @classmethod
    def of(cls, spec: JobSpec, account_queue: int) -> ShardLimits:
        queues = [account_queue, spec.limits.max_queued_requests or account_queue]
        return cls(
            requests=min(spec.limits.max_requests_per_batch, MAX_REQUESTS_PER_BATCH, *queues),
            bytes=min(spec.limits.max_bytes_per_batch, MAX_BYTES_PER_BATCH),
        )


@dataclass(frozen=True)
class View:
    """What the one rule looks at: a night, its snapshot, the answers there are, what is held."""

    night: Night
    snapshot: Snapshot
    answers: StandingAnswers
    held: Sequence[str]


def current(pipeline: Pipeline, night: Night) -> tuple[Night, Snapshot]:
    """A night that has a snapshot as it is now, and that snapshot."""
    with pipeline.ledger.read() as connection:
        night = nights.get_night(connection, night.id)
        assert night.snapshot_id is not None
        return night, nights.get_snapshot(connection, night.snapshot_id)


def view(pipeline: Pipeline, night: Night) -> View:
    """A consistent view of a night that has a snapshot."""
    with pipeline.ledger.read() as connection:
        night = nights.get_night(connection, night.id)
        assert night.snapshot_id is not None
        shards = nights.list_shards(connection, night.id, ShardState.WAITING, ShardState.HELD)
        return View(
            night=night,
            snapshot=nights.get_snapshot(connection, night.snapshot_id),
            answers=standing_answers.of_night(connection, night),
            held=[shard.manifest for shard in shards],
        )


def count_open(pipeline: Pipeline, seen: View) -> int:
    """Units that neither have an answer nor are part of a shard."""
    with _tables(pipeline, seen) as connection:
        [(count,)] = connection.execute(COUNT_OPEN).fetchall()
    return int(count)


def plan_all(
    pipeline: Pipeline, seen: View, limits: ShardLimits, price: ModelPrice, retry: RetrySpec
) -> int:
    """Cut all open units into waiting batch shards; returns how many shards were added."""
    room = MoreRoom.of(retry, Declaration.from_json(seen.snapshot.declaration))
    with _tables(pipeline, seen) as connection:
        units = (_as_manifest(batch, room) for batch in joins.batches(connection, ALL_OPEN))
        shards = [
            _write_shard(pipeline, seen, table, "batch", price, pilot=False)
            for table in cut(units, limits)
        ]
    return _add(pipeline, seen, shards, open_requests=0)


def plan_pilot(pipeline: Pipeline, seen: View, spec: JobSpec, size: int, price: ModelPrice) -> int:
    """Make a seeded sample of the open units a shard of its own; returns how many were added."""
    params = {"size": size, "seed": str(spec.pilot.seed)}
    return _add_pilot(pipeline, seen, spec, price, _select(pipeline, seen, spec, SAMPLE, params))


def plan_more_room(
    pipeline: Pipeline, seen: View, spec: JobSpec, size: int, price: ModelPrice
) -> bool:
    """Make what was cut off in the pilot a shard that asks with more room; False: there is none."""
    table = _select(pipeline, seen, spec, CUT_OFF, {"size": size})
    if not table.num_rows:
        return False
    _add_pilot(pipeline, seen, spec, price, table)
    return True


def _select(
    pipeline: Pipeline, seen: View, spec: JobSpec, query: str, params: dict[str, object]
) -> pa.Table:
    room = MoreRoom.of(spec.retry, Declaration.from_json(seen.snapshot.declaration))
    with _tables(pipeline, seen) as connection:
        return _as_manifest(connection.sql(query, params=params).to_arrow_table(), room)


def _add_pilot(
    pipeline: Pipeline, seen: View, spec: JobSpec, price: ModelPrice, table: pa.Table
) -> int:
    planned = _write_shard(pipeline, seen, table, spec.pilot.via, price, pilot=True)
    left = max(0, seen.night.open_requests - planned.requests)
    return _add(pipeline, seen, [planned], open_requests=left)


def cut(batches: Iterator[pa.Table], limits: ShardLimits) -> Iterator[pa.Table]:
    """Cut a stream of units into tables that respect both limits of a batch, in actual bytes."""
    overhead = wire_overhead(limits.requests)
    room_bytes = limits.bytes - len(BODY_START) - len(BODY_END)
    current: list[pa.Table] = []
    requests = size = 0
    for table in batches:
        start = 0
        sizes = table.column("request_bytes").to_numpy() + overhead
        while start < table.num_rows:
            fits = int(np.searchsorted(np.cumsum(sizes[start:]), room_bytes - size, side="right"))
            take = min(fits, limits.requests - requests, table.num_rows - start)
            if take:
                current.append(table.slice(start, take))
                requests += take
                size += int(sizes[start : start + take].sum())
                start += take
            if start < table.num_rows:
                # A request is at most as large as an empty shard, so that this goes on.
                yield pa.concat_tables(current)
                current, requests, size = [], 0, 0
    if current:
        yield pa.concat_tables(current)


def usd_bound(
    sizes: Sequence[int],
    declaration: Declaration,
    price: ModelPrice,
    engine: Engine,
    larger: Sequence[int | None] | None = None,
) -> Decimal:
    """The most, in USD, that requests of these sizes can cost: a token has at least a byte.

    `larger` is the `max_tokens` of each where it is not the declared one.
    """
    outputs = (more or declaration.max_tokens for more in larger or [None] * len(sizes))
    bounds = (
        price.upper_bound(size, output, engine) for size, output in zip(sizes, outputs, strict=True)
    )
    return sum(bounds, Decimal(0))


def _tables(pipeline: Pipeline, seen: View):  # type: ignore[no-untyped-def]
    return standing_answers.tables(
        pipeline.files,
        seen.answers,
        {
            "snapshot": (snapshots.part_paths(seen.snapshot), snapshots.SCHEMA),
            "duplicates": (
                snapshots.duplicates_paths(seen.snapshot),
                snapshots.DUPLICATES_SCHEMA,
            ),
            "held": (seen.held, manifests.SCHEMA),
        },
    )


def _as_manifest(data: pa.RecordBatch | pa.Table, room: MoreRoom) -> pa.Table:
    table = pa.Table.from_batches([data]) if isinstance(data, pa.RecordBatch) else data
    return room.given_to(table).select(manifests.SCHEMA.names).cast(manifests.SCHEMA)


def _write_shard(
    pipeline: Pipeline,
    seen: View,
    table: pa.Table,
    engine: Engine,
    price: ModelPrice,
    *,
    pilot: bool,
) -> NewShard:
    night = seen.night
    folder = paths.manifests(night.job, night.partition, night.account)
    path = f"{folder}/{uuid.uuid4().hex}.parquet"
    manifests.write(pipeline.files, path, table)
    sizes = table.column("request_bytes").to_pylist()
    declaration = Declaration.from_json(seen.snapshot.declaration)
    return NewShard(
        engine=engine,
        pilot=pilot,
        manifest=path,
        requests=table.num_rows,
        bytes=sum(sizes),
        usd_bound=usd_bound(
            sizes, declaration, price, engine, table.column("max_tokens").to_pylist()
        ),
    )


def _add(pipeline: Pipeline, seen: View, shards: Sequence[NewShard], *, open_requests: int) -> int:
    with pipeline.ledger.write() as connection:
        added = nights.add_shards(connection, seen.night, shards, open_requests=open_requests)
    if added:
        return len(shards)
    # Another process changed the night meanwhile: what it knows now decides, not this plan.
    for planned in shards:
        pipeline.files.remove(planned.manifest)
    return 0
