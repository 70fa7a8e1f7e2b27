"""Dead letters sent again after a fix: what was set aside is open once more, and the night runs on.

Everything is decided in one transaction, which puts the answers behind, reads the input anew and
takes the redriven items out of results and dead letters. Before it nothing has happened; after it
the night is like any other that has requests to send, and `run` takes it to its end.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from batch_pipeline.errors import UsageError
from batch_pipeline.flow import steps as stations
from batch_pipeline.flow.dataset import input_dataset, kept_units
from batch_pipeline.flow.dataset.requests import Declaration
from batch_pipeline.flow.gates.prices import price_for
from batch_pipeline.flow.outcomes import NOT_DEAD, Status
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results import results_folder
from batch_pipeline.flow.status import due
from batch_pipeline.flow.status.due import Start
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.nights import Night

log = logging.getLogger(__name__)

REASONS = tuple(str(status) for status in Status if status not in NOT_DEAD)


def redrive(
    pipeline: Pipeline, spec: JobSpec, partition: str, reasons: Collection[str] = ()
) -> dict[str, int]:
    """Set a finished night's dead letters free, all or of some statuses; returns how many of each.

    Nothing is sent: `run` does that. The redriven items are asked with the data and the declaration
    as they are now, all others keep their answers. Raises UsageError where the night is not at
    rest, and what reading the input raises; nothing has changed then.
    """
    check_reasons(reasons)
    night = _night(pipeline, spec, partition)
    results_folder.repair(pipeline, night)
    state = stations.progress(pipeline, night)
    refusal = why_not(state)
    if refusal is not None:
        raise UsageError(f"{spec.name} {partition}: {refusal}")
    selected = set_aside(state.statuses, reasons)
    if not selected:
        return {}
    price_for(spec)
    assert state.snapshot is not None
    sources = input_dataset.find_input(pipeline, spec, partition)
    with kept_units.settled_otherwise(
        pipeline, state.night, state.snapshot, Declaration.of(spec), set_free=selected
    ) as kept:
        new = input_dataset.read_snapshot(pipeline, spec, partition, sources, kept=kept)
    results_folder.switch_snapshot(
        pipeline,
        state.night,
        new,
        redriven=selected,
        deadline=lambda taken_at: due.of_night(spec, partition, taken_at, Start.PERSON),
    )
    total = sum(selected.values())
    log.info("%s %s: %d dead letters go again", spec.name, partition, total)
    return selected


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
        return f"held after a cancel; `batch-pipeline run {night} --resume` lifts it first."
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
    account = pipeline.account.name
    with pipeline.ledger.read() as connection:
        night = nights.find_night(connection, spec.name, partition, account)
        shown = nights.shown_night(connection, spec.name, partition)
    run = f"`batch-pipeline run {spec.name} --partition {partition}`"
    if night is None or night.snapshot_id is None:
        raise UsageError(
            f"{spec.name} {partition} has not been run under account {account!r}; {run} does that."
        )
    if shown is not None and shown.id != night.id:
        raise UsageError(
            f"{spec.name} {partition}: the dead letters shown are of account {shown.account!r}, "
            f"not of {account!r}; {run} takes the night over first."
        )
    return night
