"""`run` and `cancel`: a night to its end, and a night that is stopped."""

from __future__ import annotations

from typing import Annotated

import typer

from batch_pipeline.cli import opening
from batch_pipeline.cli.commands.report import show_report
from batch_pipeline.cli.options import Job, Json, NoWait, Partition
from batch_pipeline.cli.output import COMPLETE, Output, exit_code


def run(
    context: typer.Context,
    job: Job,
    partition: Partition = None,
    no_wait: NoWait = False,
    resume: Annotated[bool, typer.Option("--resume", help="Lift a cancel.")] = False,
    as_json: Json = False,
) -> int:
    """Run a night to its end, or on from where it stood."""
    from batch_pipeline.cli import progress_bar
    from batch_pipeline.flow import run as runner
    from batch_pipeline.flow.control import actions as control
    from batch_pipeline.flow.control.approval import user_at_host
    from batch_pipeline.flow.costs.cost_report import write_report
    from batch_pipeline.flow.status import failures, outage
    from batch_pipeline.ledger.control.actions import ActionKind

    output: Output = context.obj
    pipeline, spec, key = opening.open_night(context, job, partition)
    person = user_at_host()
    with failures.recorded(
        pipeline, spec, key, step=failures.WHOLE, by=f"run of {person}", asks=True
    ):
        if not no_wait:
            outage.wait_for_api(pipeline, spec, key)
        progress_bar.announce_account(output, pipeline, spec)
        if resume:
            control.record(pipeline, spec.name, key, ActionKind.RESUME, person, "goes on")
        with progress_bar.shown() as watch:
            state = runner.run(pipeline, spec, key, wait=not no_wait, resume=resume, watch=watch)
        report = write_report(pipeline, spec, state.night)
    show_report(output, pipeline, report)
    return exit_code(output, state)


def cancel(
    context: typer.Context, job: Job, partition: Partition = None, as_json: Json = False
) -> int:
    """Cancel what is in flight, keep what is done, hold the night until `run --resume`."""
    from batch_pipeline.cli import progress_bar
    from batch_pipeline.flow import run as runner
    from batch_pipeline.flow import steps
    from batch_pipeline.flow.batches import cancel as cancelling
    from batch_pipeline.flow.control import actions as control
    from batch_pipeline.flow.control.approval import user_at_host
    from batch_pipeline.flow.costs.cost_report import write_report
    from batch_pipeline.ledger.control.actions import ActionKind

    output: Output = context.obj
    pipeline, spec, key = opening.open_night(context, job, partition)
    night = steps.open_night(pipeline, spec, key)
    state = steps.progress(pipeline, night)
    if state.complete:
        output.say(f"{spec.name} {key} is complete; there is nothing to cancel.")
    else:
        count = cancelling.hold(pipeline, night)
        outcome = f"held; batches being cancelled: {count}"
        control.record(pipeline, spec.name, key, ActionKind.CANCEL, user_at_host(), outcome)
        output.say(f"{spec.name} {key} is held; batches being cancelled: {count}.")
        with progress_bar.shown() as watch:
            state = runner.run(pipeline, spec, key, watch=watch)
    show_report(output, pipeline, write_report(pipeline, spec, state.night))
    return COMPLETE
