"""Redriving: dead letters are sent again after a fix, and the night runs on.

The redriven items alone are read again, from the input as it is now; their rows lie on those of the
night's snapshot and take their place. One transaction makes that the night's snapshot, records
which answers were redriven, and takes the items out of results and dead letters. Before it nothing
has happened; after it the night is like any other that has requests to send, and `run` goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from batch_pipeline.errors import UsageError
from batch_pipeline.flow import paths, steps
from batch_pipeline.flow.answers.outcomes import REASONS
from batch_pipeline.flow.dataset import input_dataset
from batch_pipeline.flow.dataset.choosing.asked_before import Former
from batch_pipeline.flow.dataset.layers import Overlay
from batch_pipeline.flow.dataset.sources.find import find_input
from batch_pipeline.flow.gates.prices import price_for
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results import results_folder
from batch_pipeline.flow.results.typed import carried
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.partitions import due_times
from batch_pipeline.jobs.partitions.due_times import Start
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.admission import night_state
from batch_pipeline.ledger.nights import Night
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)


@dataclass(frozen=True)
class Redriven:
    """How many dead letters are open again, by status; and the ids that are no longer in the input,
    whose dead letters stay as they are."""

    sent: Mapping[str, int]
    missing: Sequence[str]

    def describe(self) -> str:
        counts = ", ".join(f"{count:,} {status}" for status, count in self.sent.items())
        stay = f"; {len(self.missing):,} are no longer in the input, and stay"
        return f"sent again: {counts or 'none'}{stay if self.missing else ''}"


def redrive(
    pipeline: Pipeline, spec: JobSpec, partition: str, reasons: Collection[str] = ()
) -> Redriven:
    """Make a finished night's dead letters open again, all or those of some statuses.

    Nothing is sent: `run` does that. The redriven items are asked with the data and the declaration
    as they are now; all others keep their answers, even if their rows have changed. Raises
    UsageError where the night is not at rest, and what reading the input raises: nothing has
    changed then.
    """
    check_reasons(reasons)
    night = _night(pipeline, spec, partition)
    results_folder.repair(pipeline, night)
    state = steps.progress(pipeline, night)
    refusal = why_not(state)
    if refusal is not None:
        raise UsageError(f"{spec.name} {partition}: {refusal}")
    selected = set_aside(state.statuses, reasons)
    if not selected:
        return Redriven({}, ())
    price_for(spec)
    assert state.snapshot is not None
    sources = find_input(pipeline, spec, partition)
    statuses = _statuses_by_id(pipeline, state.night, selected)
    overlay = Overlay(state.snapshot, statuses)
    former = Former(state.night, state.snapshot)
    new = input_dataset.read_snapshot(
        pipeline, spec, partition, sources, overlay=overlay, former=former
    )
    found = {
        row_id
        for part in paths.parts_in(new.folder, new.parts)
        for row_id in pipeline.files.read_columns(part, ["id"]).column("id").to_pylist()
    }
    sent = Counter(status for row_id, status in statuses.items() if row_id in found)
    missing = sorted(statuses.keys() - found)
    if not sent:
        return Redriven({}, missing)
    carried.prepare(pipeline.files, new, (state.night.output or {}).get("carry", ()), sources)
    results_folder.switch_snapshot(
        pipeline,
        state.night,
        new,
        redriven=sent,
        deadline=lambda taken_at: due_times.of_night(spec, partition, taken_at, Start.PERSON),
    )
    log.info("%s %s: %d dead letters go again", spec.name, partition, sent.total())
    return Redriven(sent, missing)


def _statuses_by_id(pipeline: Pipeline, night: Night, wanted: Collection[str]) -> dict[str, str]:
    """The statuses of the night's items, by id: of those that have a wanted one. In memory."""
    results = pipeline.files.list(paths.results(night.job, night.partition), ".parquet")
    table = pipeline.files.dataset(results).to_table(
        ["id", "status"], pc.field("status").isin(list(wanted))
    )
    return dict(zip(*(column.to_pylist() for column in table.columns), strict=True))


def check_reasons(reasons: Collection[str]) -> None:
    """Raise UsageError for what is no status of a dead letter."""
    unknown = sorted(set(reasons) - set(REASONS))
    if unknown:
        raise UsageError(
            f"{', '.join(unknown)}: no dead letter has such a reason. The reasons are: "
            f"{', '.join(REASONS)}."
        )


def set_aside(statuses: Mapping[str, int], reasons: Collection[str]) -> dict[str, int]:
    """Of items by status, the dead letters of these reasons; without any reason all of them."""
    wanted = set(reasons) or set(REASONS)
    return {s: count for s, count in statuses.items() if s in wanted and s in REASONS and count}


def why_not(state: Progress) -> str | None:
    """Why a night's dead letters cannot be redriven now, and what to do; None: they can."""
    night = f"{state.night.job} --partition {state.night.partition}"
    if state.night.pruned_at is not None:
        return "the night was pruned, and is done for good."
    if state.night.held_at is not None:
        return f"{night_state.held(state.night.job, state.night.partition)} first."
    if state.in_flight or state.to_collect:
        busy = state.in_flight + state.to_collect
        return f"{busy:,} requests are in flight; `batch-pipeline run {night}` finishes them first."
    if state.waiting or not state.complete:
        return (
            f"not complete, {state.waiting:,} requests wait (a redrive is recorded once and goes "
            f"on like any night); `batch-pipeline run {night}` goes on with it."
        )
    return None


def _night(pipeline: Pipeline, spec: JobSpec, partition: str) -> Night:
    owner = pipeline.owner(spec).name
    with pipeline.ledger.read() as connection:
        night = nights.find_night(connection, spec.name, partition, owner)
        shown = nights.shown_night(connection, spec.name, partition)
    run = f"`batch-pipeline run {spec.name} --partition {partition}`"
    if night is None or night.snapshot_id is None:
        raise UsageError(
            f"{spec.name} {partition} has not been run for owner {owner!r}; {run} does that."
        )
    if shown is not None and shown.id != night.id:
        raise UsageError(
            f"{spec.name} {partition}: the dead letters shown are of owner {shown.owner!r}, "
            f"not of {owner!r}; {run} takes the night over first."
        )
    return night
