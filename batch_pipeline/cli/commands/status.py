"""`status`: where nights stand, from the ledger, and whether a local home knows more than it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from batch_pipeline.cli import opening
from batch_pipeline.cli.options import Json, Partition
from batch_pipeline.errors import DeclarationError, UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from batch_pipeline.flow.pipeline import Pipeline
    from batch_pipeline.flow.status.account_state import AccountState
    from batch_pipeline.jobs.spec import AlertsSpec, JobSpec
    from batch_pipeline.settings import Settings


def status(
    context: typer.Context,
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="Name of a job.")] = None,
    partition: Partition = None,
    as_json: Json = False,
) -> None:
    """Show progress, batches and cost so far."""
    from batch_pipeline.cli.status_view import show_status
    from batch_pipeline.flow.status import never_begun, progress
    from batch_pipeline.jobs.partitions.partitions import check_key
    from batch_pipeline.jobs.yaml_files.loading import find_job
    from batch_pipeline.ledger import alerts, nights

    pipeline = opening.open_pipeline(context)
    settings = pipeline.settings
    spec = None
    if job is not None:
        spec = find_job(settings.jobs_dir, job)
        if partition is not None:
            check_key(spec.partitions, partition, datetime.now(UTC))
    with pipeline.ledger.read() as connection:
        every = nights.list_nights(connection, job=job)
        found = [
            progress.with_all(connection, state) if job is not None else state
            for night in nights.worth_showing(every)
            if partition in (None, night.partition)
            for state in [progress.of_night(connection, night.id)]
        ]
        recorded = {state.night.id: alerts.of_night(connection, state.night.id) for state in found}
        accounts = _accounts(context, pipeline, connection, {each.night.owner for each in found})
    limits = alert_limits(settings) if found else {}
    problem = None
    # A remote home may not be reachable; `status` works all the same.
    if not settings.home_is_remote:
        problem = pipeline.mark.problem(simulated=True)
    if problem is not None:
        context.obj.say(f"Warning: {problem}")
    unbegun = None
    if not found and spec is not None and partition is not None:
        unbegun = never_begun.of(spec, partition, every, _due_at(spec, partition))
    show_status(
        context.obj,
        settings,
        found,
        limits,
        recorded,
        problem,
        details=job is not None,
        never_begun=unbegun,
        accounts=accounts,
    )


def _accounts(
    context: typer.Context, pipeline: Pipeline, connection: Connection, owners: set[str]
) -> list[AccountState]:
    """Where the owners' accounts stand; none, with a word, where accounts.yaml cannot be read:
    `status` works all the same."""
    from batch_pipeline.flow.status import account_state

    try:
        return account_state.of_owners(connection, pipeline, owners)
    except (DeclarationError, UsageError) as error:
        context.obj.say(f"Warning: the accounts are not shown: {error}")
        return []


def _due_at(spec: JobSpec, partition: str) -> float | None:
    """When a partition is due; Dagster, which decides that, takes a second to import."""
    if spec.schedule is None:
        return None
    from batch_pipeline.orchestration.checks import due_nights

    return due_nights.due_at(spec, partition)


def alert_limits(settings: Settings) -> dict[str, AlertsSpec]:
    """The alert limits of the declared jobs, by name.

    A job whose declaration is wrong is left out: `status` of its nights works all the same.
    """
    from batch_pipeline.jobs.yaml_files.loading import scan_jobs

    try:
        specs = scan_jobs(settings.jobs_dir).specs
    except UsageError:  # there is no such folder
        return {}
    return {name: spec.alerts for name, spec in specs.items()}
