"""A night's input: taken, read again, or kept as it was.

Belongs here: whether the files are read for a night, and what is recorded of the snapshot that they
make. How files become a snapshot is in `dataset`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow import paths
from batch_pipeline.flow.costs import estimate, estimate_json
from batch_pipeline.flow.dataset import input_dataset, kept_units
from batch_pipeline.flow.dataset.choosing.asked_before import Former
from batch_pipeline.flow.dataset.reading.files import Sources
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.sources.find import find_input, refuse_another_shape
from batch_pipeline.flow.gates import models
from batch_pipeline.flow.gates.prices import price_for
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results import results_folder
from batch_pipeline.flow.results.typed import carried, rows
from batch_pipeline.jobs.partitions import due_times
from batch_pipeline.jobs.partitions.due_times import Start
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import (
    nights,
    snapshots,
    submissions,
)
from batch_pipeline.ledger.accounts import Account
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import NewSnapshot, Snapshot
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)


@dataclass(frozen=True)
class InputTaken:
    """A night and its snapshot; `note` tells a person why it was kept or what has changed."""

    night: Night
    snapshot: Snapshot
    note: str


def take_input(
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    *,
    again: bool = False,
    start: Start = Start.PERSON,
) -> InputTaken:
    """Take the night's snapshot, or keep it where neither files nor declaration have changed.

    `again` reads the files even if they look unchanged. While batches of the night are in flight
    the snapshot stays: what changed is taken up by the next run after their end. `start` says who
    began the night: its deadline is fixed with the snapshot.
    """
    price_for(spec)
    night = rows.declare(pipeline, spec, night)
    results_folder.repair(pipeline, night)
    former = results_folder.former_account(pipeline, night)
    night, current, busy = _as_it_is(pipeline, night)
    sources = _find(pipeline, spec, night, current, busy=busy, again=again)
    if isinstance(sources, InputTaken):
        return sources
    if busy and not night.published:
        # The results folder shows another account's night, but this one's batches are in flight.
        results_folder.show(pipeline, night)
        night = pipeline.refreshed(night)
    if current is not None and night.published:
        reason = _why_kept(spec, night, current, sources, busy=busy, again=again)
        if reason is not None:
            return InputTaken(night, current, reason)
    new = _read(pipeline, spec, night, sources, current)
    if (
        current is not None
        and night.published
        and (new.folder, new.signature) == (current.folder, current.signature)
    ):
        return InputTaken(night, current, "input unchanged")
    carried.prepare(pipeline.files, new, spec.output.carry, sources)
    try:
        snapshot = results_folder.switch_snapshot(
            pipeline,
            night,
            new,
            deadline=lambda taken_at: due_times.of_night(spec, night.partition, taken_at, start),
        )
    except results_folder.NightChangedError:
        log.info("%s %s was changed by another process meanwhile", night.job, night.partition)
        return take_input(pipeline, spec, night, start=start)
    log.info(
        "%s %s: %s items, %s not sent, %s answered by another's request",
        night.job,
        night.partition,
        f"{new.items:,}",
        new.describe_set_aside(),
        f"{new.duplicates:,}",
    )
    note = _note(pipeline, night, former, current, new)
    keep_estimate(pipeline, spec, night, snapshot)
    return InputTaken(pipeline.refreshed(night), snapshot, note)


def _find(
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    current: Snapshot | None,
    *,
    busy: bool,
    again: bool,
) -> Sources | InputTaken:
    """The night's input as it is now, or the snapshot that it keeps without a look at it."""
    kept = None if current is None else _why_not_looked_at(spec, night, busy=busy)
    if current is not None and kept is not None:
        return InputTaken(night, current, kept)
    try:
        return find_input(pipeline, spec, night.partition)
    except InputDataError as error:
        if again or current is None or night.completed_at is None or not night.published:
            raise
        # Users move the input away once a night is complete; its results stay.
        return InputTaken(night, current, f"input kept as it was: {error}")


def _why_not_looked_at(spec: JobSpec, night: Night, *, busy: bool) -> str | None:
    """Why it is not even looked whether the input has changed, or None."""
    if night.pruned_at is not None:
        return "the night was pruned; its input is not read again"
    if busy and night.published and spec.input.sql is not None:
        # Only the whole query would tell.
        return "the query is asked again once what is in flight has ended"
    return None


def _note(
    pipeline: Pipeline,
    night: Night,
    former: Account | None,
    current: Snapshot | None,
    new: NewSnapshot,
) -> str:
    if former is not None:
        return _start_over(pipeline, night, former)
    if current is not None:
        return f"input read again: {input_dataset.compare(pipeline.files, current, new)}"
    return "input read"


def _as_it_is(pipeline: Pipeline, night: Night) -> tuple[Night, Snapshot | None, bool]:
    """The night as it is now, its snapshot, and whether anything of it is in flight.

    A pruned night that the results folder does not show has no snapshot: its files are gone, and
    its answers tell what was bought.
    """
    with pipeline.ledger.read() as connection:
        night = nights.get_night(connection, night.id)
        gone = night.pruned_at is not None and not night.published
        current = (
            None
            if night.snapshot_id is None or gone
            else snapshots.get_snapshot(connection, night.snapshot_id)
        )
        busy = submissions.of_night(connection, night.id, *submissions.LIVE)
    return night, current, bool(busy)


def keep_estimate(pipeline: Pipeline, spec: JobSpec, night: Night, snapshot: Snapshot) -> None:
    """Record what the night is expected to cost, for the report to compare it with the bill."""
    expected = estimate_json.as_json(estimate.expectation(pipeline, spec, night, snapshot))
    with pipeline.ledger.write() as connection:
        if nights.get_night(connection, night.id).snapshot_id == snapshot.id:
            nights.update_night(connection, night.id, estimate=expected)


def is_redriven(night: Night, current: Snapshot | None) -> bool:
    """Whether a redrive of the night is recorded whose items are not all settled yet."""
    return current is not None and bool(current.below) and night.completed_at is None


def _why_kept(
    spec: JobSpec,
    night: Night,
    current: Snapshot,
    sources: Sources,
    *,
    busy: bool,
    again: bool,
) -> str | None:
    """Why a snapshot stays the night's own without the files being read, or None."""
    declared = Declaration.of(spec).has_made(current)
    unchanged = declared and current.signature == sources.signature
    if is_redriven(night, current) and declared and not again:
        return "a redrive is under way; changed input is taken up by the next run after it"
    if busy and not unchanged:
        return "input or declaration changed; that is taken up once what is in flight has ended"
    return "input unchanged" if unchanged and (busy or not again) else None


def _read(
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    sources: Sources,
    current: Snapshot | None,
) -> NewSnapshot:
    """The snapshot of the input as it is now; what a redrive kept is kept on."""
    models.check(spec, pipeline.api)
    declaration = Declaration.of(spec)
    _refuse_simulated(pipeline, spec, night, sources)
    refuse_another_shape(pipeline, spec, night.partition, sources.copied)
    former = None if current is None else Former(night, current)
    read = partial(
        input_dataset.read_snapshot, pipeline, spec, night.partition, sources, former=former
    )
    if current is None or not kept_units.is_kept_on(night, current, declaration):
        return read()
    with kept_units.settled_otherwise(pipeline, night, current, declaration) as kept:
        return read(kept=kept)


def _refuse_simulated(pipeline: Pipeline, spec: JobSpec, night: Night, sources: Sources) -> None:
    copied = sources.copied
    if copied is not None and copied.simulated and not pipeline.api.simulated:
        raise InputDataError(
            f"{spec.name} {night.partition}: the answers of {copied.origin} are a simulator's, and "
            f"this night would be bought of the API; nothing was sent. Run {spec.input.job} under "
            f"account {night.account!r} first."
        )


def _start_over(pipeline: Pipeline, night: Night, former: Account) -> str:
    what = "simulated" if former.simulated else f"run under account {former.name!r}"
    if former.simulated:
        # Raw lines of the API are kept for ever; a simulator's must not lie among them.
        pipeline.files.remove(paths.raw(night.job, night.partition))
        pipeline.files.remove(paths.raw_realtime(night.job, night.partition))
    note = f"this night was {what} before; it starts over under account {night.account!r}"
    log.warning("%s %s: %s", night.job, night.partition, note)
    return note
