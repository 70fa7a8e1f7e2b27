"""Planning: the open units of a night become shards that wait to be sent.

Resume, retry rounds, kept pilot answers, a night run again with new documents, a changed prompt:
all follow from the one rule of which units are open, which is in `open_units`. A plan is made for
the state of the night that it was read at, and is thrown away where the night has changed by then.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.flow import answers as night_answers
from batch_pipeline.flow import paths
from batch_pipeline.flow.answers import NightAnswers
from batch_pipeline.flow.concurrency import map_in_threads
from batch_pipeline.flow.dataset.requests import (
    BODY_END,
    BODY_START,
    Declaration,
    mark_bytes,
    wire_overhead,
)
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import manifests, variants
from batch_pipeline.flow.planning.open_units import OpenUnits, open_units
from batch_pipeline.flow.planning.variants import MoreRoom
from batch_pipeline.jobs.spec import MAX_BYTES_PER_BATCH, MAX_REQUESTS_PER_BATCH, JobSpec, RetrySpec
from batch_pipeline.ledger import nights, shards, snapshots
from batch_pipeline.ledger.admission.queue import queue_limit
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Engine, NewShard, ShardState
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.pricing.bounds import Bounds
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# The most requests of a real-time shard.
MOST_CALLS = 2_000
# Manifests that are written while the next shard is cut.
WRITTEN_AT_ONCE = 2


@dataclass(frozen=True)
class ShardLimits:
    """How many requests and bytes a shard may have: the smallest limits in force, because a shard
    above one of them would wait for ever.

    `marks` are bytes that each request may become longer by when it is sent with a cache mark.
    """

    requests: int
    bytes: int
    marks: int = 0

    @classmethod
    def of_calls(cls, spec: JobSpec) -> ShardLimits:
        """The limits of a real-time shard, which needs no room in the queue.

        A small shard shows its errors early, and little is left to another process if its own dies.
        """
        return cls(
            requests=min(MOST_CALLS, spec.limits.max_requests_per_batch),
            bytes=min(spec.limits.max_bytes_per_batch, MAX_BYTES_PER_BATCH),
        )

    @classmethod
    def of(cls, spec: JobSpec, account_queue: int) -> ShardLimits:
        queue = queue_limit(account_queue, spec.limits.max_queued_requests)
        return cls(
            requests=min(spec.limits.max_requests_per_batch, MAX_REQUESTS_PER_BATCH, queue),
            bytes=min(spec.limits.max_bytes_per_batch, MAX_BYTES_PER_BATCH),
            marks=mark_bytes(spec),
        )

    def at_most(self, requests: int | None) -> ShardLimits:
        """These limits with at most `requests` requests in a shard; None: unchanged."""
        return self if requests is None else replace(self, requests=min(self.requests, requests))


@dataclass(frozen=True)
class View:
    """What a plan follows from; `manifests` are those of shards that wait or are claimed."""

    night: Night
    snapshot: Snapshot
    answers: NightAnswers
    manifests: Sequence[str]


def current(pipeline: Pipeline, night: Night) -> tuple[Night, Snapshot]:
    """The night, which has a snapshot, as the ledger has it now, and the snapshot."""
    with pipeline.ledger.read() as connection:
        night = nights.get_night(connection, night.id)
        assert night.snapshot_id is not None
        return night, snapshots.get_snapshot(connection, night.snapshot_id)


def view(pipeline: Pipeline, night: Night) -> View:
    """The view of a night that has a snapshot, read in one transaction."""
    with pipeline.ledger.read() as connection:
        night = nights.get_night(connection, night.id)
        assert night.snapshot_id is not None
        planned = shards.list_shards(connection, night.id, ShardState.WAITING, ShardState.CLAIMED)
        snapshot = snapshots.get_snapshot(connection, night.snapshot_id)
        return View(
            night=night,
            snapshot=snapshot,
            answers=night_answers.of_night(connection, night, snapshot),
            manifests=[shard.manifest for shard in planned],
        )


def queue_limit_of(pipeline: Pipeline, spec: JobSpec) -> int:
    """The most requests that may be in the API's queue at once for a job."""
    return queue_limit(pipeline.settings.max_queued_requests, spec.limits.max_queued_requests)


def take_back_too_large(pipeline: Pipeline, spec: JobSpec, night: Night) -> Night:
    """Open the requests of waiting batches that are larger than the queue limit, as it is now.

    Returns the night as it is then; the next plan cuts them anew.
    """
    limit = queue_limit_of(pipeline, spec)
    with pipeline.ledger.read() as connection:
        waiting = shards.list_shards(connection, night.id, ShardState.WAITING)
    if any(shard.engine == "batch" and shard.requests > limit for shard in waiting):
        with pipeline.ledger.write() as connection:
            taken = shards.take_back_too_large(connection, night, limit)
        log.info(
            "%s %s: %d batches are larger than the queue limit (%s requests); they are cut anew",
            night.job, night.partition, taken, f"{limit:,}",
        )  # fmt: skip
    return pipeline.refreshed(night)


def count_open(pipeline: Pipeline, seen: View) -> int:
    """Units that neither have an answer nor are part of a shard."""
    with _open(pipeline, seen) as units:
        return units.count()


def plan_all(
    pipeline: Pipeline,
    seen: View,
    limits: ShardLimits,
    bounds: Bounds,
    retry: RetrySpec,
    engine: Engine = "batch",
    *,
    for_deadline: bool = False,
) -> int:
    """Cut all open units into waiting shards of an engine; returns how many shards were added.

    `for_deadline` marks those that go in real time only because batches would be too late.
    """
    room = MoreRoom.of(retry, Declaration.from_json(seen.snapshot.declaration))

    def write(table: pa.Table) -> NewShard:
        shard = _write_shard(pipeline, seen, table, engine, bounds, pilot=False)
        return replace(shard, for_deadline=for_deadline)

    with _open(pipeline, seen) as units:
        tables = (_as_manifest(table, room) for table in units.all())
        planned = list(map_in_threads(write, cut(tables, limits), WRITTEN_AT_ONCE))
    # Arrow keeps freed memory for allocations of the same sizes, and what comes next has others.
    pa.default_memory_pool().release_unused()
    return _add(pipeline, seen, planned, open_requests=0)


def plan_pilot(pipeline: Pipeline, seen: View, spec: JobSpec, size: int, bounds: Bounds) -> int:
    """Make a seeded sample of the open units a shard of its own; returns how many were added."""
    with _open(pipeline, seen) as units:
        table = units.sample(size, spec.pilot.seed)
    return _add_pilot(pipeline, seen, spec, bounds, table)


def plan_again(
    pipeline: Pipeline, seen: View, spec: JobSpec, wanted: Sequence[str], bounds: Bounds
) -> bool:
    """Make a shard of these units of the pilot, to ask them again; those that were cut off get more
    room. Returns False where none of them is open."""
    with _open(pipeline, seen) as units:
        table = units.of(wanted)
    if not table.num_rows:
        return False
    _add_pilot(pipeline, seen, spec, bounds, table)
    return True


def _add_pilot(
    pipeline: Pipeline, seen: View, spec: JobSpec, bounds: Bounds, units: pa.Table
) -> int:
    room = MoreRoom.of(spec.retry, Declaration.from_json(seen.snapshot.declaration))
    table = _as_manifest(units, room)
    # If batches would miss the deadline, so would a pilot in a batch, which the others wait for.
    hurried = spec.mode == "auto" and seen.night.realtime_since is not None
    engine = "realtime" if hurried else spec.pilot.via
    planned = replace(
        _write_shard(pipeline, seen, table, engine, bounds, pilot=True),
        for_deadline=engine != spec.pilot.via,
    )
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
        sizes = table.column("request_bytes").to_numpy() + overhead + limits.marks
        if limits.marks:
            # One that has no room for its mark goes alone, and without.
            sizes = np.minimum(sizes, room_bytes)
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


def _open(pipeline: Pipeline, seen: View) -> AbstractContextManager[OpenUnits]:
    return open_units(pipeline.files, seen.snapshot, seen.answers, seen.manifests)


def _as_manifest(table: pa.Table, room: MoreRoom) -> pa.Table:
    manifest = room.given_to(table).select(manifests.SCHEMA.names).cast(manifests.SCHEMA)
    return variants.with_definitions(manifest, [room.variant] if room.variant else [])


def _write_shard(
    pipeline: Pipeline,
    seen: View,
    table: pa.Table,
    engine: Engine,
    bounds: Bounds,
    *,
    pilot: bool,
) -> NewShard:
    facts = {"snapshot": seen.snapshot.folder, "engine": engine, "pilot": pilot}
    table = manifests.with_facts(table, facts)
    return new_shard(
        pipeline,
        seen.night,
        Declaration.from_json(seen.snapshot.declaration),
        table,
        engine,
        lambda size: bounds.usd(engine, **size),
        pilot=pilot,
    )


def new_shard(
    pipeline: Pipeline,
    night: Night,
    declaration: Declaration,
    table: pa.Table,
    engine: Engine,
    bound: Callable[[dict[str, int]], Decimal],
    *,
    pilot: bool,
) -> NewShard:
    """The shard of the requests in a manifest, which is written; `bound` returns the most in USD
    that they can cost, given what `sizes_of` returns."""
    folder = paths.manifests(night.job, night.partition, night.account)
    path = f"{folder}/{uuid.uuid4().hex}.parquet"
    manifests.write(pipeline.files, path, table)
    size = sizes_of(table, declaration)
    return NewShard(
        engine=engine,
        pilot=pilot,
        manifest=path,
        requests=table.num_rows,
        bytes=size["input_bytes"],
        usd_bound=bound(size),
        largest_bytes=size["largest_bytes"],
        output_tokens=size["output_tokens"],
    )


def sizes_of(manifest: pa.Table, declaration: Declaration) -> dict[str, int]:
    """What a bound in USD follows from: the number of requests, the bytes of all and of the
    largest, and the most tokens that all answers together may have, each request by the variant
    that it is asked as."""
    sizes = manifest.column("request_bytes")
    declared = variants.declarations_of(manifest, declaration)
    asked = manifest.column("variant").value_counts().to_pylist()
    return {
        "requests": manifest.num_rows,
        "input_bytes": pc.sum(sizes, min_count=0).as_py(),
        "largest_bytes": pc.max(sizes).as_py() or 0,
        "output_tokens": sum(
            declared[each["values"]].max_tokens * each["counts"] for each in asked
        ),
    }


def _add(pipeline: Pipeline, seen: View, new: Sequence[NewShard], *, open_requests: int) -> int:
    with pipeline.ledger.write() as connection:
        added = shards.add_shards(connection, seen.night, new, open_requests=open_requests)
    if added:
        return len(new)
    # Another process has changed the night since the view was read: the next plan starts from that.
    for planned in new:
        pipeline.files.remove(planned.manifest)
    return 0
