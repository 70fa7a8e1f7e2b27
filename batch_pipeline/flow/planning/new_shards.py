"""Shards in the making: where the open units are cut, and what is known of each shard.

Belongs here: limits, sizes and bounds of a shard. Which units are put into shards is in `plan`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.flow import paths
from batch_pipeline.flow.dataset.requests.declaration import (
    BODY_END,
    BODY_START,
    Declaration,
    wire_overhead,
)
from batch_pipeline.flow.dataset.requests.priced import part_of
from batch_pipeline.flow.dataset.requests.request_builder import mark_bytes
from batch_pipeline.flow.dataset.requests.sizes import prompt_sizes, sum_sizes
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import manifests, variants
from batch_pipeline.jobs.spec import MAX_BYTES_PER_BATCH, MAX_REQUESTS_PER_BATCH, JobSpec
from batch_pipeline.ledger.admission.queue import queue_limit
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Engine, NewShard
from batch_pipeline.pricing.bounds import Part, ShardSize

# The most requests of a real-time shard.
MOST_CALLS = 2_000


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
    def of(cls, spec: JobSpec, queue: int) -> ShardLimits:
        """`queue`: the smallest queue limit of the organisations that may be sent a shard."""
        queue = queue_limit(queue, spec.limits.max_queued_requests)
        return cls(
            requests=min(spec.limits.max_requests_per_batch, MAX_REQUESTS_PER_BATCH, queue),
            bytes=min(spec.limits.max_bytes_per_batch, MAX_BYTES_PER_BATCH),
            marks=mark_bytes(spec),
        )

    def at_most(self, requests: int | None) -> ShardLimits:
        """These limits with at most `requests` requests in a shard; None: unchanged."""
        return self if requests is None else replace(self, requests=min(self.requests, requests))


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


def new_shard(
    pipeline: Pipeline,
    night: Night,
    declaration: Declaration,
    table: pa.Table,
    engine: Engine,
    bound: Callable[[ShardSize], Decimal],
    *,
    pilot: bool,
) -> NewShard:
    """The shard of the requests in a manifest, which is written; `bound` returns the most in USD
    that they can cost, given what `sizes_of` returns."""
    folder = paths.manifests(night.job, night.partition, night.owner)
    path = f"{folder}/{uuid.uuid4().hex}.parquet"
    manifests.write(pipeline.files, path, table)
    size, parts = sizes_of(table, declaration), parts_of(table, declaration)
    sums = sum_sizes(table)
    optional = table.column("optional")
    return NewShard(
        engine=engine,
        pilot=pilot,
        manifest=path,
        requests=table.num_rows,
        bytes=sums.request_bytes,
        prompt_size=sums.of_prompts[0],
        usd_bound=bound(ShardSize(size, parts)),
        largest_bytes=size["largest_bytes"],
        output_tokens=size["output_tokens"],
        parts=None if parts is None else [asdict(part) for part in parts],
        optional=table.num_rows > 0 and pc.sum(optional).as_py() == table.num_rows,
    )


def sizes_of(manifest: pa.Table, declaration: Declaration) -> dict[str, int]:
    """What a bound in USD follows from: the number of requests, the sizes of all prompts and of the
    largest, and the most tokens that all answers together may have, each request by the variant
    that it is asked as."""
    sizes = prompt_sizes(manifest)
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


def parts_of(manifest: pa.Table, declaration: Declaration) -> list[Part] | None:
    """The requests of a manifest by what they are priced at; None: all at the declared model."""
    declared = variants.declarations_of(manifest, declaration)
    names = manifest.column("variant")
    others = [
        name
        for name in names.unique().to_pylist()
        if (declared[name].model_id, declared[name].params)
        != (declaration.model_id, declaration.params)
    ]
    if not others:
        return None
    found = []
    for name in names.unique().to_pylist():
        is_of = pc.is_null(names) if name is None else pc.equal(names, name)
        sizes = prompt_sizes(manifest).filter(pc.fill_null(is_of, False))
        asked, count = declared[name], len(sizes)
        size, largest = pc.sum(sizes).as_py(), pc.max(sizes).as_py()
        found.append(part_of(asked, count, size, largest, count * asked.max_tokens))
    return found
