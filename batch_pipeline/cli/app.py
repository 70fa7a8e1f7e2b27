"""`batch-pipeline`: the commands of a job and its nights, and how the program ends.

Belongs here: what a user types. What a command does stands in the flow, how it is printed in
`views`. Commands with matters of their own stand beside: `dead_letters`, `reconcile_costs`,
`simulator`. Heavy imports wait for the command that needs them, so that `--help` answers at once.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Annotated

import typer

from batch_pipeline.cli import opening
from batch_pipeline.cli.dead_letters import dead_letters
from batch_pipeline.cli.exits import COMPLETE, INTERRUPTED, USAGE, exit_code, usage_message
from batch_pipeline.cli.options import Job, Json, NoWait, Partition
from batch_pipeline.cli.output import PROGRAM, Output, report_error
from batch_pipeline.cli.reconcile_costs import reconcile_costs
from batch_pipeline.cli.simulator import simulator
from batch_pipeline.errors import BatchPipelineError

app = typer.Typer(
    help="One LLM answer for each of a million documents, overnight, at half price.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code; errors are printed in the form that was asked for."""
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> int:
    output = Output(as_json="--json" in arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("batch_pipeline").setLevel(logging.INFO)
    if threading.current_thread() is threading.main_thread():
        # A service manager's stop is a Ctrl-C that nobody has typed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(list(arguments), PROGRAM, standalone_mode=False, obj=output) or COMPLETE
        if code == INTERRUPTED:  # what typer makes of Ctrl-C, without a word
            raise KeyboardInterrupt
    except typer.Exit as done:
        code = done.exit_code
    except typer.TyperException as error:
        # Without any argument the help was shown, and there is nothing to add.
        message = usage_message(error)
        code = report_error(output, "usage", message, error.exit_code) if message else USAGE
    except BatchPipelineError as error:
        code = report_error(output, error.code, str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        message = "Interrupted; run the same command again to go on."
        code = report_error(output, "interrupted", message, INTERRUPTED)
    except Exception as error:
        known = _explained(error)
        if known is not None:
            code = report_error(output, known.code, str(known), known.exit_code)
        else:  # a bug: the trace for its report, and still one JSON document
            logging.getLogger(__name__).exception("unexpected error")
            code = report_error(output, "internal", f"{type(error).__name__}: {error}", 1)
    return code


def _explained(error: Exception) -> BatchPipelineError | None:
    """What the storage's own errors mean; None for a bug."""
    from batch_pipeline.settings import Settings
    from batch_pipeline.storage import storage_errors

    try:
        home = Settings.from_environment().home
    except BatchPipelineError:
        return None
    return storage_errors.explain(error, home)


@app.command()
def demo(
    context: typer.Context,
    input_only: Annotated[
        bool, typer.Option("--input-only", help="Collect the documents, send nothing.")
    ] = False,
    turnaround: Annotated[float, typer.Option(help="Seconds a simulated batch takes.")] = 3.0,
    as_json: Json = False,
) -> None:
    """Run the whole flow on documents found on this machine, against the simulator."""
    from batch_pipeline.cli import demo as demonstration

    settings = opening.load_settings(context.obj)
    demonstration.run(context.obj, settings, turnaround=turnaround, input_only=input_only)


@app.command()
def jobs(context: typer.Context, as_json: Json = False) -> int:
    """List the declared jobs."""
    from batch_pipeline.cli import views
    from batch_pipeline.jobs.loading import scan_jobs

    settings = opening.load_settings(context.obj)
    scan = scan_jobs(settings.jobs_dir)
    views.show_jobs(context.obj, settings, scan)
    return USAGE if scan.errors else COMPLETE


@app.command()
def validate(
    context: typer.Context,
    job: Job,
    partition: Partition = None,
    as_json: Json = False,
) -> None:
    """Check declaration, input and template of a night without sending anything."""
    from batch_pipeline.cli import views
    from batch_pipeline.flow.dataset import input_dataset
    from batch_pipeline.flow.gates import retirement
    from batch_pipeline.flow.gates.prices import price_for
    from batch_pipeline.flow.planning.plan import ShardLimits

    settings = opening.load_settings(context.obj)
    spec, key = opening.find_partition(settings, job, partition)
    price_for(spec)
    pipeline = opening.open_pipeline(context, settings)
    sources = input_dataset.find_input(pipeline, spec, key)
    snapshot = input_dataset.read_snapshot(pipeline, spec, key, sources, keep=False)
    limits = ShardLimits.of(spec, settings.max_queued_requests)
    if spec.mode == "auto" and spec.deadline is None:
        context.obj.say("mode: auto without a deadline is the same as mode: batch.")
    views.show_validation(context.obj, spec, key, sources, snapshot, limits, retirement.check(spec))


@app.command()
def estimate(
    context: typer.Context,
    job: Job,
    partition: Partition = None,
    as_json: Json = False,
) -> None:
    """Say what a night will cost and take, both ways, without sending any message."""
    from batch_pipeline.cli.estimate_view import show_estimate
    from batch_pipeline.flow.costs.estimate import estimate as estimated

    settings = opening.load_settings(context.obj)
    spec, key = opening.find_partition(settings, job, partition)
    pipeline = opening.open_pipeline(context, settings)
    show_estimate(context.obj, estimated(pipeline, spec, key))


@app.command()
def run(
    context: typer.Context,
    job: Job,
    partition: Partition = None,
    no_wait: NoWait = False,
    resume: Annotated[bool, typer.Option("--resume", help="Lift a cancel.")] = False,
    as_json: Json = False,
) -> int:
    """Run a night to its end, or on from where it stood."""
    from batch_pipeline.cli import live, views
    from batch_pipeline.flow import run as runner

    pipeline = opening.open_pipeline(context)
    pipeline.files.sweep()
    spec, key = opening.find_partition(pipeline.settings, job, partition)
    live.announce_account(context.obj, pipeline)
    with live.live_progress() as watch:
        state = runner.run(pipeline, spec, key, wait=not no_wait, resume=resume, watch=watch)
    views.show_report(context.obj, opening.write_night_report(pipeline, spec, state))
    return exit_code(context.obj, state)


@app.command()
def status(
    context: typer.Context,
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="Name of a job.")] = None,
    partition: Partition = None,
    as_json: Json = False,
) -> None:
    """Show progress, batches and cost so far."""
    from batch_pipeline.cli.status import show_status
    from batch_pipeline.flow.status import progress
    from batch_pipeline.ledger import alerts, nights

    settings = opening.load_settings(context.obj)
    if job is not None:
        spec, key = (
            opening.find_partition(settings, job, partition)
            if partition
            else (opening.find_spec(settings, job), None)
        )
        job = spec.name
    else:
        key = partition
    with opening.open_pipeline(context, settings).ledger.read() as connection:
        found = [
            progress.with_all(connection, state) if job is not None else state
            for night in nights.list_nights(connection, job=job)
            if key in (None, night.partition)
            for state in [progress.of_night(connection, night.id)]
        ]
        recorded = {state.night.id: alerts.of_night(connection, state.night.id) for state in found}
    limits = opening.alert_limits(settings) if found else {}
    show_status(context.obj, settings, found, limits, recorded, details=job is not None)


@app.command()
def report(
    context: typer.Context,
    job: Job,
    partition: Partition = None,
    as_json: Json = False,
) -> None:
    """Show the cost report of a night."""
    from batch_pipeline.cli import views
    from batch_pipeline.flow.costs.cost_report import build_report

    settings = opening.load_settings(context.obj)
    spec, key = opening.find_partition(settings, job, partition)
    pipeline = opening.open_pipeline(context, settings)
    views.show_report(
        context.obj, build_report(pipeline, spec, opening.shown_night(pipeline, spec, key))
    )


@app.command()
def approve(
    context: typer.Context,
    job: Job,
    gate: Annotated[str, typer.Option("--gate", metavar="pilot|breaker", help="Which gate.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; others read it later.")],
    partition: Partition = None,
    as_json: Json = False,
) -> None:
    """Overrule a closed gate; the next run lets the night go as it is."""
    from batch_pipeline.cli import views
    from batch_pipeline.flow import approval

    settings = opening.load_settings(context.obj)
    spec, key = opening.find_partition(settings, job, partition)
    named, _ = approval.parse(gate)
    pipeline = opening.open_pipeline(context, settings)
    night = opening.shown_night(pipeline, spec, key)
    given = approval.approve(pipeline, spec, night, named, reason, approval.user_at_host())
    views.show_approval(context.obj, night, given)


@app.command()
def cancel(
    context: typer.Context,
    job: Job,
    partition: Partition = None,
    as_json: Json = False,
) -> int:
    """Cancel what is in flight, keep what is done, hold the night until `run --resume`."""
    from batch_pipeline.cli import live, views
    from batch_pipeline.flow import run as runner
    from batch_pipeline.flow import steps as stations
    from batch_pipeline.flow.batches import cancel as cancelling

    output: Output = context.obj
    pipeline = opening.open_pipeline(context)
    pipeline.files.sweep()
    spec, key = opening.find_partition(pipeline.settings, job, partition)
    night = stations.open_night(pipeline, spec, key)
    state = stations.progress(pipeline, night)
    if state.complete:
        output.say(f"{spec.name} {key} is complete; there is nothing to cancel.")
    else:
        count = cancelling.hold(pipeline, night)
        output.say(f"{spec.name} {key} is held; batches being cancelled: {count}.")
        with live.live_progress() as watch:
            state = runner.run(pipeline, spec, key, watch=watch)
    views.show_report(output, opening.write_night_report(pipeline, spec, state))
    return COMPLETE


@app.command()
def prune(
    context: typer.Context,
    job: Job,
    before: Annotated[
        str, typer.Option("--before", metavar="P", help="Nights before this one, as YYYY-MM-DD.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, remove nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove snapshots and raw lines of old, finished nights; results and reports stay."""
    from batch_pipeline.cli import views
    from batch_pipeline.flow import prune as pruning
    from batch_pipeline.jobs.partitions import check_day

    settings = opening.load_settings(context.obj)
    spec = opening.find_spec(settings, job)
    check_day(spec.partitions, before)
    pipeline = opening.open_pipeline(context, settings)
    pruned = pruning.prune(pipeline, spec.name, before, dry_run=dry_run)
    views.show_pruned(context.obj, spec.name, before, pruned, dry_run=dry_run)


app.add_typer(dead_letters, name="dead-letter")
app.command("reconcile-costs")(reconcile_costs)
app.command()(simulator)
