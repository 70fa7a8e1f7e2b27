"""Planning: the open units of a night become shards that wait to be sent.

Resume, retry rounds, kept pilot answers, a night run again with new documents, a changed prompt:
all follow from the one rule of which units are open, which is in `open_units`. A plan is made for
the state of the night that it was read at, and is thrown away where the night has changed by then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.flow.answers import answers as night_answers
from batch_pipeline.flow.answers.answers import NightAnswers
from batch_pipeline.flow.concurrency import map_in_threads
from batch_pipeline.flow.dataset.requests.declaration import (
    Declaration,
)
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import held_twins, manifests, variants
from batch_pipeline.flow.planning.escalations import Escalations
from batch_pipeline.flow.planning.new_shards import ShardLimits, cut, new_shard
from batch_pipeline.flow.planning.open_units import OpenUnits, open_units
from batch_pipeline.flow.planning.variants import Ways
from batch_pipeline.jobs.spec import JobSpec, RetrySpec
from batch_pipeline.ledger import nights, shards, snapshots
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Engine, NewShard, ShardState
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.pricing.bounds import ModelBounds
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# Manifests that are written while the next shard is cut.
WRITTEN_AT_ONCE = 2


@dataclass(frozen=True)
class View:
    """What a plan follows from; `manifests` are those of shards that wait or are claimed."""

    night: Night
    snapshot: Snapshot
    answers: NightAnswers
    manifests: Sequence[str]
    hold_twins: bool = False


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
            hold_twins=held_twins.may_be_led(night.pilot, snapshot),
        )


def queue_limit_of(pipeline: Pipeline, spec: JobSpec) -> int:
    """The most requests that a batch of a job may have, so that any of its accounts can send it."""
    with pipeline.ledger.read() as connection:
        return pipeline.queue_limit(connection, spec)


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
    with open_of(pipeline, seen) as units:
        return units.count()


def count_unsettled(pipeline: Pipeline, seen: View) -> int:
    """As `count_open`, with the twins that wait for their leaders."""
    with open_of(pipeline, seen) as units:
        return units.count() + (units.count_held() if seen.hold_twins else 0)


def open_by_route(pipeline: Pipeline, seen: View, *, twins: bool) -> dict[str | None, int]:
    """Units that neither have an answer nor are part of a shard, by route; held `twins` too or
    not."""
    with open_of(pipeline, seen) as units:
        if twins and seen.hold_twins:
            units.release_twins()
        return units.count_by_route()


def plan_all(
    pipeline: Pipeline,
    seen: View,
    limits: ShardLimits,
    bounds: ModelBounds,
    retry: RetrySpec,
    engine: Engine = "batch",
    *,
    for_deadline: bool = False,
    unsure: bool = True,
) -> int:
    """Cut all open units into waiting shards of an engine; returns how many shards were added.

    `for_deadline` marks those that go in real time only because batches would be too late. Units
    whose first answer is unsure are escalated only if `unsure` ones may be; they are in shards of
    their own, which the night can do without.
    """
    ways = Ways(retry, Declaration.from_json(seen.snapshot.declaration))

    def write(table: pa.Table) -> NewShard:
        shard = _write_shard(pipeline, seen, table, engine, bounds, pilot=False)
        return replace(shard, for_deadline=for_deadline)

    planned: list[NewShard] = []
    with open_of(pipeline, seen) as units:
        undecided, several = choose(units, retry, unsure=unsure)
        for optional in (False, True) if several else (None,):
            tables = (_as_manifest(table, ways) for table in _only(units.all(), optional))
            planned += map_in_threads(write, cut(tables, limits), WRITTEN_AT_ONCE)
        held = units.count_held() if seen.hold_twins else 0
    # Arrow keeps freed memory for allocations of the same sizes, and what comes next has others.
    pa.default_memory_pool().release_unused()
    return _add(pipeline, seen, planned, open_requests=0, undecided=undecided, held=held)


def choose(units: OpenUnits, retry: RetrySpec, *, unsure: bool) -> tuple[int, bool]:
    """Choose which units the stronger model is asked for, as far as the job's share of the night's
    bought units allows; the others are left out.

    Units with a failed answer are chosen as they come. Those with an unsure one wait until no first
    answer is missing, so that failures of the whole night come before them; with `unsure` False
    none is chosen. Returns how many are left out, and whether any unit has been escalated, or
    waits for it.
    """
    found = units.escalations()
    if found == Escalations():
        return 0, False
    allowed = 0 if retry.escalate is None else found.allowed(retry.escalate.max_share)
    unsure = unsure and found.all_answered
    units.leave_out(allowed, unsure=unsure)
    chosen = min(allowed, found.failed + (found.unsure if unsure else 0))
    again = 0 if unsure else found.again
    return found.waiting - chosen + found.stands + again, True


def _only(tables: Iterator[pa.Table], optional: bool | None) -> Iterator[pa.Table]:
    """The units with this value in the column `optional`; None: all of them."""
    for table in tables:
        if optional is None:
            yield table
            continue
        wanted = table.filter(pc.equal(table.column("optional"), optional))
        if wanted.num_rows:
            yield wanted


def sample_pairs(pipeline: Pipeline, seen: View, spec: JobSpec, most: int) -> list[tuple[str, str]]:
    """At most `most` held twins with their leaders, by unit, for the pilot to ask both."""
    if not seen.hold_twins or not most:
        return []
    with open_of(pipeline, seen) as units:
        return units.pairs(most, spec.pilot.seed)


def asked_pairs(
    pipeline: Pipeline, seen: View, asked: Collection[str]
) -> tuple[list[tuple[str, str]], int]:
    """The pairs of twin and leader among units that were asked, and how many twins are held."""
    if not seen.hold_twins:
        return [], 0
    with open_of(pipeline, seen) as units:
        return units.pairs_of(asked), units.count_held()


def plan_pilot(
    pipeline: Pipeline,
    seen: View,
    spec: JobSpec,
    size: int,
    bounds: ModelBounds,
    pairs: Sequence[tuple[str, str]] = (),
) -> int:
    """Make a seeded sample of the open units, and pairs of twins, a shard of its own; returns how
    many were added."""
    with open_of(pipeline, seen) as units:
        table = units.sample(size, spec.pilot.seed)
        if pairs:
            units.release_twins()
            wanted = {unit for pair in pairs for unit in pair} - set(table["unit"].to_pylist())
            # A shard's inputs are read in the order of the snapshot.
            table = pa.concat_tables([table, units.of(sorted(wanted))]).sort_by("ordinal")
    return _add_pilot(pipeline, seen, spec, bounds, table)


def plan_again(
    pipeline: Pipeline, seen: View, spec: JobSpec, wanted: Sequence[str], bounds: ModelBounds
) -> bool:
    """Make a shard of these units of the pilot, to ask them again; those that were cut off get more
    room. Returns False where none of them is open."""
    with open_of(pipeline, seen) as units:
        table = units.of(wanted)
    if not table.num_rows:
        return False
    _add_pilot(pipeline, seen, spec, bounds, table)
    return True


def _add_pilot(
    pipeline: Pipeline, seen: View, spec: JobSpec, bounds: ModelBounds, units: pa.Table
) -> int:
    ways = Ways(spec.retry, Declaration.from_json(seen.snapshot.declaration))
    table = _as_manifest(units, ways)
    # If batches would miss the deadline, so would a pilot in a batch, which the others wait for.
    hurried = spec.mode == "auto" and seen.night.realtime_since is not None
    engine = "realtime" if hurried else spec.pilot.via
    planned = replace(
        _write_shard(pipeline, seen, table, engine, bounds, pilot=True),
        for_deadline=engine != spec.pilot.via,
    )
    left = max(0, seen.night.open_requests + seen.night.undecided - planned.requests)
    return _add(pipeline, seen, [planned], open_requests=left)


def open_of(pipeline: Pipeline, seen: View) -> AbstractContextManager[OpenUnits]:
    """The open units of a night as it was seen."""
    return open_units(
        pipeline.files,
        seen.snapshot,
        seen.answers,
        seen.manifests,
        hold_twins=seen.hold_twins,
    )


def _as_manifest(table: pa.Table, ways: Ways) -> pa.Table:
    manifest = ways.given_to(table).select(manifests.SCHEMA.names).cast(manifests.SCHEMA)
    named = manifest.column("variant").unique().to_pylist()
    return variants.with_definitions(manifest, ways.definitions(named))


def _write_shard(
    pipeline: Pipeline,
    seen: View,
    table: pa.Table,
    engine: Engine,
    bounds: ModelBounds,
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
        lambda size: bounds.of_size(engine, size),
        pilot=pilot,
    )


def _add(
    pipeline: Pipeline,
    seen: View,
    new: Sequence[NewShard],
    *,
    open_requests: int,
    undecided: int = 0,
    held: int | None = None,
) -> int:
    """Add planned shards; `held` twins wait for their leaders (None: that is not known)."""
    with pipeline.ledger.write() as connection:
        added = shards.add_shards(
            connection, seen.night, new, open_requests=open_requests, undecided=undecided
        )
        if added and held is not None and held != seen.night.held_twins:
            nights.update_night(connection, seen.night.id, held_twins=held)
    if added:
        return len(new)
    # Another process has changed the night since the view was read: the next plan starts from that.
    for planned in new:
        pipeline.files.remove(planned.manifest)
    return 0
