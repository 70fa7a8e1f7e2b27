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

from batch_pipeline.flow import joins, manifests, paths, snapshots
from batch_pipeline.flow.answers import ANSWERS_SCHEMA, SUMMED
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.requests import BODY_END, BODY_START, Declaration, wire_overhead
from batch_pipeline.money.prices import ModelPrice
from batch_pipeline.spec import MAX_BYTES_PER_BATCH, MAX_REQUESTS_PER_BATCH, JobSpec
from batch_pipeline.state import nights, submissions
from batch_pipeline.state.nights import Engine, NewShard, Night, ShardState, Snapshot
from batch_pipeline.state.submissions import State

_SETTLED = "SELECT unit FROM answers WHERE final"
_SUMS = ", ".join(f"sum({name}) AS prior_{name}" for name in SUMMED)
_PRIORS = ", ".join(f"coalesce(p.prior_{name}, 0) AS prior_{name}" for name in SUMMED)
OPEN_UNITS = f"""
    SELECT s.unit, s.fingerprint, s.ordinal, s.id, s.request_bytes,
           coalesce(a.attempts, 0) + 1 AS attempt, {_PRIORS}
    FROM snapshot s
    ANTI JOIN duplicates d ON d.ordinal = s.ordinal
    ANTI JOIN held h ON h.unit = s.unit
    ANTI JOIN ({_SETTLED}) f ON f.unit = s.unit
    LEFT JOIN (
        SELECT unit, count(*) AS attempts FROM answers WHERE counted GROUP BY unit
    ) a ON a.unit = s.unit
    LEFT JOIN (SELECT id, {_SUMS} FROM answers GROUP BY id) p ON p.id = s.id
    WHERE s.unit IS NOT NULL
"""  # noqa: S608  # made of constants
COUNT_OPEN = f"SELECT count(*) FROM ({OPEN_UNITS})"  # noqa: S608
ALL_OPEN = f"{OPEN_UNITS} ORDER BY s.ordinal"
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
    answers: Sequence[str]
    held: Sequence[str]


def view(pipeline: Pipeline, night: Night) -> View:
    """A consistent view of a night that has a snapshot."""
    with pipeline.ledger.read() as connection:
        night = nights.get_night(connection, night.id)
        assert night.snapshot_id is not None
        shards = nights.list_shards(connection, night.id, ShardState.WAITING, ShardState.HELD)
        return View(
            night=night,
            snapshot=nights.get_snapshot(connection, night.snapshot_id),
            answers=answer_paths(
                night, submissions.of_night(connection, night.id, State.COLLECTED)
            ),
            held=[shard.manifest for shard in shards],
        )


def answer_paths(
    night: Night, collected: Sequence[submissions.Submission], *, duplicates: bool = False
) -> list[str]:
    """The answer files of collected submissions; others, left by a crash, do not count.

    Of shards that were bought twice only the first answers count; with `duplicates` these are
    left out and the others given, which were billed as well.
    """
    folder = paths.answers(night.job, night.partition, night.account)
    return [
        f"{folder}/{submission.token}.parquet"
        for submission in collected
        if submission.is_duplicate is duplicates
    ]


def count_open(pipeline: Pipeline, seen: View) -> int:
    """Units that neither have an answer nor are part of a shard."""
    with _tables(pipeline, seen) as connection:
        [(count,)] = connection.execute(COUNT_OPEN).fetchall()
    return int(count)


def plan_all(pipeline: Pipeline, seen: View, limits: ShardLimits, price: ModelPrice) -> int:
    """Cut all open units into waiting batch shards; returns how many shards were added."""
    with _tables(pipeline, seen) as connection:
        units = (_as_manifest(batch) for batch in joins.batches(connection, ALL_OPEN))
        shards = [
            _write_shard(pipeline, seen, table, "batch", price, pilot=False)
            for table in cut(units, limits)
        ]
    return _add(pipeline, seen, shards, open_requests=0)


def plan_pilot(
    pipeline: Pipeline, seen: View, size: int, seed: int, engine: Engine, price: ModelPrice
) -> int:
    """Make a seeded sample of the open units a shard of its own; returns how many were added."""
    with _tables(pipeline, seen) as connection:
        result = connection.sql(SAMPLE, params={"size": size, "seed": str(seed)})
        table = _as_manifest(result.to_arrow_table())
    planned = _write_shard(pipeline, seen, table, engine, price, pilot=True)
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
    sizes: Sequence[int], declaration: Declaration, price: ModelPrice, engine: Engine
) -> Decimal:
    """The most, in USD, that requests of these sizes can cost: a token has at least a byte."""
    bounds = (price.upper_bound(size, declaration.max_tokens, engine) for size in sizes)
    return sum(bounds, Decimal(0))


def _tables(pipeline: Pipeline, seen: View):  # type: ignore[no-untyped-def]
    return joins.tables(
        pipeline.files,
        {
            "snapshot": (snapshots.part_paths(seen.snapshot), snapshots.SCHEMA),
            "duplicates": (
                snapshots.duplicates_paths(seen.snapshot),
                snapshots.DUPLICATES_SCHEMA,
            ),
            "answers": (seen.answers, ANSWERS_SCHEMA),
            "held": (seen.held, manifests.SCHEMA),
        },
    )


def _as_manifest(data: pa.RecordBatch | pa.Table) -> pa.Table:
    table = pa.Table.from_batches([data]) if isinstance(data, pa.RecordBatch) else data
    return table.cast(manifests.SCHEMA)


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
        usd_bound=usd_bound(sizes, declaration, price, engine),
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
