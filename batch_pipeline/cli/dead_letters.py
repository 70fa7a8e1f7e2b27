"""`dead-letter`: what was set aside, and sending it again."""

from __future__ import annotations

from typing import Annotated

import typer

from batch_pipeline.cli import opening
from batch_pipeline.cli.exits import exit_code
from batch_pipeline.cli.options import Job, Json, NoWait, Partition
from batch_pipeline.cli.output import as_typed

dead_letters = typer.Typer(help="Items that were set aside.", no_args_is_help=True)


@dead_letters.command("list")
def list_dead_letters(
    context: typer.Context,
    job: Job,
    partition: Partition = None,
    as_json: Json = False,
) -> None:
    """Group what was set aside by reason, and name what is systematic."""
    from batch_pipeline.cli import views
    from batch_pipeline.flow import paths
    from batch_pipeline.flow.results import dead_letters

    settings = opening.load_settings(context.obj)
    spec, key = opening.find_partition(settings, job, partition)
    pipeline = opening.open_pipeline(context, settings)
    night = opening.shown_night(pipeline, spec, key)
    groups = dead_letters.summarize(pipeline, spec.name, key)
    folder = pipeline.files.uri(paths.dead_letter(spec.name, key))
    views.show_dead_letters(context.obj, night, groups, folder)


@dead_letters.command("redrive")
def redrive_dead_letters(
    context: typer.Context,
    job: Job,
    partition: Partition = None,
    reason: Annotated[
        list[str] | None,
        typer.Option("--reason", metavar="STATUS", help="Only those of this status; repeatable."),
    ] = None,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> int:
    """Send dead letters again after a fix of prompt or data, and run the night to its end."""
    from batch_pipeline.cli import live, views
    from batch_pipeline.flow import run as runner
    from batch_pipeline.flow import steps as stations
    from batch_pipeline.flow.redrive import check_reasons, redrive

    check_reasons(reason or ())
    pipeline = opening.open_pipeline(context)
    pipeline.files.sweep()
    spec, key = opening.find_partition(pipeline.settings, job, partition)
    live.announce_account(context.obj, pipeline)
    redriven = redrive(pipeline, spec, key, reason or ())
    views.say_redriven(context.obj, redriven)
    if redriven.sent:
        with live.live_progress() as watch:
            state = runner.run(pipeline, spec, key, wait=not no_wait, watch=watch)
    else:
        # Not a run: that would take up whatever else has changed.
        state = stations.progress(pipeline, stations.open_night(pipeline, spec, key))
    views.show_report(context.obj, opening.write_night_report(pipeline, spec, state))
    return exit_code(context.obj, state, again=f"`{as_typed()} run {job} --partition {key}`")
