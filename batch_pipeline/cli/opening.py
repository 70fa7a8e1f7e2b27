"""What commands open: settings, the pipeline over the home, a declared job and its night."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from batch_pipeline.cli.output import Output, as_typed
from batch_pipeline.errors import AccountError, ApiError, NoCredentialsError, UsageError

if TYPE_CHECKING:
    from batch_pipeline.api.protocol import Api
    from batch_pipeline.flow.pipeline import Pipeline
    from batch_pipeline.jobs.spec import JobSpec
    from batch_pipeline.ledger.nights import Night
    from batch_pipeline.settings import Settings


def load_settings(output: Output) -> Settings:
    """The settings of the environment; says where the home is."""
    from batch_pipeline.settings import Settings

    settings = Settings.from_environment()
    output.say(f"Home: {settings.home}")
    return settings


def open_pipeline(context: typer.Context) -> Pipeline:
    """The pipeline over the home.

    It belongs to the command's context, which closes it when the command ends, also by an error or
    an interrupt: no command has to close its ledger itself.
    """
    from batch_pipeline.flow.pipeline import Pipeline

    return context.with_resource(Pipeline(load_settings(context.obj)))


def open_night(
    context: typer.Context, job: str, partition: str | None
) -> tuple[Pipeline, JobSpec, str]:
    """The pipeline, a declared job and its partition: the given one, or the one that is due."""
    from batch_pipeline.jobs.partitions.partitions import check_key, default_key
    from batch_pipeline.jobs.yaml_files.loading import find_job

    pipeline = open_pipeline(context)
    spec = find_job(pipeline.settings.jobs_dir, job)
    now = datetime.now(UTC)
    if partition is None:
        return pipeline, spec, default_key(spec.partitions, now)
    check_key(spec.partitions, partition, now)
    return pipeline, spec, partition


def api_if_any(pipeline: Pipeline, spec: JobSpec) -> tuple[Api | None, str | None]:
    """The API for a command that can do without, and why it cannot be asked despite a key."""
    try:
        return pipeline.api_for(spec), None
    except NoCredentialsError:
        return None, None
    except (UsageError, ApiError, AccountError) as error:
        return None, f"the API was not asked about the model: {error}"


def shown_night(pipeline: Pipeline, spec: JobSpec, partition: str) -> Night:
    """The night whose answers the results folder shows; UsageError if there is none."""
    from batch_pipeline.ledger import nights

    with pipeline.ledger.read() as connection:
        night = nights.shown_night(connection, spec.name, partition)
    if night is None:
        raise UsageError(
            f"{spec.name} {partition} has not been run under {pipeline.settings.home}; run it with "
            f"`{as_typed()} run {spec.name} --partition {partition}`."
        )
    return night
