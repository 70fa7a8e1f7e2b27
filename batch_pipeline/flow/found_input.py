"""A night's input as it is now, and whether it is read, or the night keeps the snapshot it has."""

from __future__ import annotations

from dataclasses import dataclass, replace

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset import kept_units
from batch_pipeline.flow.dataset.choosing.asked_before import Former
from batch_pipeline.flow.dataset.reading.files import Sources
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.sources.find import find_input
from batch_pipeline.flow.gates.prices import price_for
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results import results_folder
from batch_pipeline.flow.results.typed import rows
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights, snapshots
from batch_pipeline.ledger.accounts.accounts import Account
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.ledger.submissions import submissions


@dataclass(frozen=True)
class Found:
    """A night as it is, with the account whose answers its results folder shows in its place, and
    its input as it is now.

    `current` is the night's snapshot, and `busy` says that batches or calls of it are in flight.
    `kept` says why the night keeps its snapshot; None: its input is to be read. `sources` is None
    where the night keeps its snapshot without a look at the input.
    """

    night: Night
    current: Snapshot | None
    busy: bool
    former_account: Account | None
    sources: Sources | None = None
    kept: str | None = None

    @property
    def former(self) -> Former | None:
        return None if self.current is None else Former(self.night, self.current)

    @property
    def to_read(self) -> Sources:
        assert self.sources is not None
        return self.sources

    def is_kept_on(self, declaration: Declaration) -> bool:
        """Whether items keep the requests that a former declaration made."""
        current = self.current
        return current is not None and kept_units.is_kept_on(self.night, current, declaration)


def look(pipeline: Pipeline, spec: JobSpec, night: Night, *, again: bool) -> Found:
    """The night and its input as they are now, and whether the night keeps its snapshot."""
    price_for(spec)
    night = rows.declare(pipeline, spec, night)
    found = of_night(pipeline, night)
    night, current, busy = found.night, found.current, found.busy
    if current is not None:
        kept = _why_not_looked_at(spec, night, busy=busy)
        if kept is not None:
            return replace(found, kept=kept)
    try:
        sources = find_input(pipeline, spec, night.partition)
    except InputDataError as error:
        if again or current is None or night.completed_at is None or not night.published:
            raise
        # Users move the input away once a night is complete; its results stay.
        return replace(found, kept=f"input kept as it was: {error}")
    if busy and not night.published:
        # The results folder shows another account's night, but this one's batches are in flight.
        results_folder.show(pipeline, night)
        night = pipeline.refreshed(night)
    found = replace(found, night=night, sources=sources)
    if current is not None and night.published:
        return replace(found, kept=_why_kept(spec, night, current, sources, busy=busy, again=again))
    return found


def of_night(pipeline: Pipeline, night: Night) -> Found:
    """The night as it is now, without a look at its input.

    A pruned night that the results folder does not show has no snapshot: its files are gone, and
    its answers tell what was bought.
    """
    results_folder.repair(pipeline, night)
    former = results_folder.former_account(pipeline, night)
    with pipeline.ledger.read() as connection:
        night = nights.get_night(connection, night.id)
        gone = night.pruned_at is not None and not night.published
        current = (
            None
            if night.snapshot_id is None or gone
            else snapshots.get_snapshot(connection, night.snapshot_id)
        )
        busy = submissions.of_night(connection, night.id, *submissions.LIVE)
    return Found(night, current, bool(busy), former)


def _why_not_looked_at(spec: JobSpec, night: Night, *, busy: bool) -> str | None:
    """Why it is not even looked whether the input has changed, or None."""
    if night.pruned_at is not None:
        return "the night was pruned; its input is not read again"
    if busy and night.published and spec.input.sql is not None:
        # Only the whole query would tell.
        return "the query is asked again once what is in flight has ended"
    return None


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
