"""Which shards are sent with cache marks, as far as the declaration tells.

`caching: 5m` and `1h` do as told. `auto` marks calls in real time where their prefix is long enough
to be cached and the calls are many enough to read it; what it does with batches stands in
`flow.caching`, which goes by what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from sqlalchemy import Connection

from batch_pipeline.flow.dataset.requests import cache_marks
from batch_pipeline.flow.dataset.requests.declaration import (
    BODY_END,
    BODY_START,
    Declaration,
    wire_overhead,
)
from batch_pipeline.flow.dataset.requests.request_builder import mark_bytes
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import cache_prefixes
from batch_pipeline.ledger.admission.admission import NO_MARKS, Marks, ReadMarks
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard
from batch_pipeline.pricing.tokens import Lifetime

# `auto` marks calls that are this many times those that are made at once: those that begin together
# all write, and more than a fifth of the others has to read.
CALLS_FOR_A_WRITE = 2


def asked(spec: JobSpec) -> tuple[Declaration, ...]:
    """What the job's models are asked with, its own first: each has a shared prefix of its own at
    the API."""
    declared = [Declaration.of(each) for _, each in spec.asked_all_ways()]
    return tuple({cache_marks.prefix_key(each): each for each in declared}.values())


def warmed_as(spec: JobSpec) -> str:
    """The key by which a job's prefixes are warmed up together."""
    return cache_marks.prefix_key(asked(spec)[0])


def cached_models(
    connection: Connection, spec: JobSpec, account: str, shard: Shard
) -> frozenset[str]:
    """The models that a shard asks and that may cache a prefix of the job's, by its length."""
    found = (
        cache_prefixes.find(connection, account, cache_marks.prefix_key(declared))
        for declared in asked(spec)
    )
    long_enough = {prefix.model_id for prefix in found if prefix is not None and prefix.can_pay}
    return frozenset(long_enough & models_of(shard, spec))


def models_of(shard: Shard, spec: JobSpec) -> set[str]:
    """The models that a shard's requests are asked of."""
    return {spec.model_id} if shard.parts is None else {p["model_id"] for p in shard.parts}


def marked(lifetime: Lifetime, models: Collection[str]) -> Marks:
    """Marks for the requests of these models."""
    return Marks(lifetime, models=tuple(sorted(models))) if models else NO_MARKS


def told(spec: JobSpec) -> Lifetime | None:
    """The lifetime of marks that a job declares; None: none, or `auto`."""
    return spec.caching if spec.caching in ("5m", "1h") else None


def written_at_most(spec: JobSpec) -> tuple[int, Lifetime] | None:
    """What marks may have the API write of each request: the bytes of the shared prefix, and the
    lifetime; None: the job declares no caching."""
    if spec.caching == "off":
        return None
    size = max(len(cache_marks.prefix_params(declared)) for declared in asked(spec))
    return size, told(spec) or "1h"


def read_marks(spec: JobSpec) -> ReadMarks:
    """The function with which admission decides on the marks of a shard of this job."""
    if spec.caching == "off":
        return lambda _connection, _night, _shard, _account: NO_MARKS
    fits, lifetime = fitting(spec), told(spec)

    def read(connection: Connection, night: Night, shard: Shard, _account: str) -> Marks:
        if not fits(shard):
            return NO_MARKS
        if lifetime is not None:
            return Marks(lifetime)
        many = shard.requests >= CALLS_FOR_A_WRITE * spec.realtime.concurrency
        if shard.engine == "batch" or not many:
            return NO_MARKS
        return marked("5m", cached_models(connection, spec, night.owner, shard))

    return read


def fitting(spec: JobSpec) -> Callable[[Shard], bool]:
    """Whether a shard of a job fits into a batch with its marks.

    Planning leaves room for them, unless the shard was planned before caching was declared, or has
    one request that is nearly as large as a batch.
    """
    each = mark_bytes(spec)
    most = spec.limits.max_bytes_per_batch - len(BODY_START) - len(BODY_END)

    def fits(shard: Shard) -> bool:
        overhead = each + wire_overhead(shard.requests)
        return shard.engine != "batch" or shard.bytes + overhead * shard.requests <= most

    return fits
