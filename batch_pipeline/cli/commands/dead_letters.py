"""`dead-letter list` and `dead-letter redrive`: items set aside, and sending them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from batch_pipeline.cli import opening
from batch_pipeline.cli.commands.report import show_report
from batch_pipeline.cli.options import Job, Json, NoWait, Partition
from batch_pipeline.cli.output import Output, as_typed, exit_code
from batch_pipeline.cli.tables import SafeConsole, plain_table, print_path
from batch_pipeline.safe_text import one_line
from batch_pipeline.wording import clipped

if TYPE_CHECKING:
    from batch_pipeline.flow.control.redrive import Redriven
    from batch_pipeline.ledger.nights import Night
    from batch_pipeline.reporting.report.report import SetAside

# What fits beside the other columns of a terminal of 80; `--json` has messages and ids whole.
MESSAGE_CHARACTERS = 160
ID_CHARACTERS = 40
NAMED_IDS = 20

dead_letters = typer.Typer(help="Items that were set aside.", no_args_is_help=True)


@dead_letters.command("list")
def list_dead_letters(
    context: typer.Context,
    job: Job,
    partition: Partition = None,
    as_json: Json = False,
) -> None:
    """Group what was set aside by reason, and name what is systematic."""
    from batch_pipeline.flow import paths
    from batch_pipeline.flow.results import dead_letters

    pipeline, spec, key = opening.open_night(context, job, partition)
    night = opening.shown_night(pipeline, spec, key)
    groups = dead_letters.summarize(pipeline, spec.name, key)
    folder = pipeline.files.uri(paths.dead_letter(spec.name, key))
    show_dead_letters(context.obj, night, groups, folder)


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
    from batch_pipeline.cli import progress_bar
    from batch_pipeline.flow import run as runner
    from batch_pipeline.flow import steps
    from batch_pipeline.flow.control import actions as control
    from batch_pipeline.flow.control.approval import user_at_host
    from batch_pipeline.flow.control.redrive import check_reasons, redrive
    from batch_pipeline.flow.costs.cost_report import write_report
    from batch_pipeline.flow.status import failures
    from batch_pipeline.ledger.control.actions import ActionKind

    check_reasons(reason or ())
    pipeline, spec, key = opening.open_night(context, job, partition)
    progress_bar.announce_account(context.obj, pipeline, spec)
    redriven = redrive(pipeline, spec, key, reason or ())
    say_redriven(context.obj, redriven)
    if redriven.sent:
        control.record(
            pipeline, spec.name, key, ActionKind.REDRIVE, user_at_host(), redriven.describe()
        )
        by = f"redrive of {user_at_host()}"
        with (
            failures.recorded(pipeline, spec, key, step=failures.WHOLE, by=by, asks=True),
            progress_bar.shown() as watch,
        ):
            state = runner.run(pipeline, spec, key, wait=not no_wait, watch=watch)
    else:
        # No run is started: it would take up other changes of input and declaration too.
        state = steps.progress(pipeline, steps.open_night(pipeline, spec, key))
    show_report(context.obj, pipeline, write_report(pipeline, spec, state.night))
    return exit_code(context.obj, state, again=f"`{as_typed()} run {job} --partition {key}`")


def show_dead_letters(
    output: Output, night: Night, groups: Sequence[SetAside], folder: str
) -> None:
    """What was set aside, by reason and error."""
    document = {
        "job": night.job,
        "partition": night.partition,
        "dead_letter": sum(group.items for group in groups),
        "groups": [asdict(group) for group in groups],
        "path": folder,
    }

    def show() -> None:
        console = SafeConsole()
        if not groups:
            console.print(f"{night.job} {night.partition}: nothing is set aside.", highlight=False)
            return
        table = plain_table()
        table.add_column("items", justify="right", no_wrap=True)
        table.add_column("reason", no_wrap=True)
        table.add_column("error", ratio=3)
        table.add_column("for example", overflow="fold", ratio=2)
        for group in groups:
            error = ": ".join(filter(None, (group.error_type, group.example_message)))
            if group.systematic:
                error = f"systematic: {error}"
            table.add_row(
                f"{group.items:,}",
                group.reason,
                Text(one_line(clipped(error, MESSAGE_CHARACTERS))),
                Text(one_line(", ".join(clipped(i, ID_CHARACTERS) for i in group.example_ids))),
            )
        console.print(table)
        print_path(console, "With their input", folder)

    output.answer(document, show)


def say_redriven(output: Output, redriven: Redriven) -> None:
    """Which dead letters go again, before the night runs on, and which cannot."""
    sent, missing = redriven.sent, redriven.missing
    if missing:
        named = one_line(", ".join(missing[:NAMED_IDS]))
        ids = named + (", …" if len(missing) > NAMED_IDS else "")
        output.say(f"Not in the input any more, their dead letters stay ({len(missing):,}): {ids}")
    if not sent:
        output.say("No dead letter is to be sent again.")
        return
    by_reason = ", ".join(f"{count:,} {status}" for status, count in sorted(sent.items()))
    output.say(f"Sent again: {by_reason}. From here on `run` goes on with it.")
