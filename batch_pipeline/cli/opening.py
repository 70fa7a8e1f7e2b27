"""What commands open before they do anything: settings, a declared job, its night, the pipeline."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from batch_pipeline.cli.output import Output, as_typed
from batch_pipeline.errors import UsageError

if TYPE_CHECKING:
    from batch_pipeline.flow.pipeline import Pipeline
    from batch_pipeline.flow.status.progress import Progress
    from batch_pipeline.jobs.spec import AlertsSpec, JobSpec
    from batch_pipeline.ledger.nights import Night
    from batch_pipeline.reporting.report import Report
    from batch_pipeline.settings import Settings


def load_settings(output: Output) -> Settings:
    """The settings in force; says where the home is."""
    from batch_pipeline.settings import Settings

    settings = Settings.from_environment()
    output.say(f"Home: {settings.home}")
    return settings


def open_pipeline(context: typer.Context, settings: Settings | None = None) -> Pipeline:
    """The pipeline over the home; closed when the command ends, by an error or interrupt too."""
    from batch_pipeline.flow.pipeline import Pipeline

    return context.with_resource(Pipeline(settings or load_settings(context.obj)))


def find_spec(settings: Settings, job: str) -> JobSpec:
    """A declared job; UsageError names the others."""
    from batch_pipeline.jobs.loading import find_job

    return find_job(settings.jobs_dir, job)


def alert_limits(settings: Settings) -> dict[str, AlertsSpec]:
    """The alert limits of the declared jobs, by name.

    A job whose declaration is wrong is left out: `status` of its nights works all the same.
    """
    from batch_pipeline.jobs.loading import scan_jobs

    try:
        specs = scan_jobs(settings.jobs_dir).specs
    except UsageError:  # there is no such folder
        return {}
    return {name: spec.alerts for name, spec in specs.items()}


def find_partition(settings: Settings, job: str, partition: str | None) -> tuple[JobSpec, str]:
    """A job and the night that is meant: the one given, or the one that is due."""
    from batch_pipeline.jobs.partitions import check_key, default_key

    spec = find_spec(settings, job)
    now = datetime.now(UTC)
    if partition is None:
        return spec, default_key(spec.partitions, now)
    check_key(spec.partitions, partition, now)
    return spec, partition


def shown_night(pipeline: Pipeline, spec: JobSpec, partition: str) -> Night:
    """The night whose answers the results folder shows; UsageError where there is none."""
    from batch_pipeline.ledger import nights

    with pipeline.ledger.read() as connection:
        night = nights.shown_night(connection, spec.name, partition)
    if night is None:
        raise UsageError(
            f"{spec.name} {partition} has not been run under {pipeline.settings.home}; run it with "
            f"`{as_typed()} run {spec.name} --partition {partition}`."
        )
    return night


def write_night_report(pipeline: Pipeline, spec: JobSpec, state: Progress) -> Report:
    """The report as the night stands, written for the world."""
    from batch_pipeline.flow.costs.cost_report import write_report

    return write_report(pipeline, spec, state.night)
