"""`prune`: remove what old, finished nights no longer need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from batch_pipeline.cli import opening
from batch_pipeline.cli.options import Job, Json
from batch_pipeline.cli.output import Output
from batch_pipeline.errors import UsageError
from batch_pipeline.safe_text import one_line

if TYPE_CHECKING:
    from batch_pipeline.flow.control.prune import Pruned


def prune(
    context: typer.Context,
    job: Job,
    before: Annotated[
        str | None,
        typer.Option("--before", metavar="P", help="Nights before this partition, or this day."),
    ] = None,
    partition: Annotated[
        str | None,
        typer.Option("--partition", metavar="P", help="This night alone."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, remove nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove snapshots and raw lines of old, finished nights; results and reports stay."""
    from batch_pipeline.flow.control import actions as control
    from batch_pipeline.flow.control import prune as pruning
    from batch_pipeline.flow.control.approval import user_at_host
    from batch_pipeline.jobs.partitions.partitions import check_boundary
    from batch_pipeline.jobs.yaml_files.loading import find_job
    from batch_pipeline.ledger.control.actions import ActionKind

    pipeline = opening.open_pipeline(context)
    spec = find_job(pipeline.settings.jobs_dir, job)
    if before is None and partition is None:
        raise UsageError("Missing option '--before' (or '--partition', for one night).")
    if before is not None and partition is not None:
        raise UsageError("Give either --before or --partition, not both.")
    if before is not None:
        check_boundary(spec.partitions, before)
    pruned = pruning.prune(pipeline, spec, before, partition=partition, dry_run=dry_run)
    if pruned.freed and not dry_run:
        outcome = "; ".join(pruning.describe(pruned, dry_run=False))
        night = partition or before or ""
        control.record(pipeline, spec.name, night, ActionKind.PRUNE, user_at_host(), outcome)
    show_pruned(context.obj, spec.name, before, pruned, dry_run=dry_run)


def show_pruned(
    output: Output, job: str, before: str | None, pruned: Pruned, *, dry_run: bool
) -> None:
    """What went of which nights, and which stay."""
    from batch_pipeline.flow.control import prune

    document = {"job": job, "before": before, "dry_run": dry_run, **pruned.as_json()}

    def show() -> None:
        for line in prune.describe(pruned, dry_run=dry_run):
            print(one_line(f"{job} {line}" if pruned.freed or pruned.kept else line))

    output.answer(document, show)
