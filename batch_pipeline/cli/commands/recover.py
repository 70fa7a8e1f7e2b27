"""`recover`: a ledger that was lost or restored from before, rebuilt from its home and the API."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from batch_pipeline.cli import opening
from batch_pipeline.cli.options import Json, NoWait
from batch_pipeline.cli.output import COMPLETE, NOT_COMPLETE, Output

if TYPE_CHECKING:
    from batch_pipeline.flow.pipeline import Pipeline
    from batch_pipeline.flow.recovery.recover import Recovered


def recover(
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be rebuilt, change nothing.")
    ] = False,
    no_wait: NoWait = False,
    give_up: Annotated[
        bool,
        typer.Option(
            "--give-up-unidentified",
            help="Go on although nothing tells whose requests some answers are for: these may be "
            "bought again.",
        ),
    ] = False,
    as_json: Json = False,
) -> int:
    """Rebuild a lost or outdated ledger from its home and the API's list; sends nothing."""
    from batch_pipeline.flow.recovery import recover as recovering

    output: Output = context.obj
    pipeline = _pipeline(context, dry_run=dry_run)
    found = recovering.recover(pipeline, dry_run=dry_run, wait=not no_wait, give_up=give_up)
    output.answer(found.as_json(), lambda: _show(found))
    if found.complete or (dry_run and not found.unidentified):
        return COMPLETE
    if found.unidentified and not found.batches.pending:
        output.say(
            f"Nothing is sent: {len(found.unidentified)} batches or shards of calls have answers, "
            "and nothing in the home tells which of its requests they answer. They may be another "
            "home's of the same workspace. `batch-pipeline recover --give-up-unidentified` goes "
            "on without them; what they answered is bought again then."
        )
        return 1
    output.say("Nothing is sent before all listed batches have ended; run the same command again.")
    return NOT_COMPLETE


def _pipeline(context: typer.Context, *, dry_run: bool) -> Pipeline:
    """The pipeline, over a new ledger where the file is damaged; a dry run makes no file."""
    from batch_pipeline.flow.pipeline import Pipeline
    from batch_pipeline.ledger.database import backup

    settings = opening.load_settings(context.obj)
    file = settings.ledger_file
    missing = file is not None and not file.exists()
    damaged = file is not None and file.exists() and backup.is_damaged(file)
    pipeline = Pipeline(settings)
    if file is not None and damaged and not dry_run:
        aside = backup.set_aside(file)
        context.obj.say(f"The ledger {file} is damaged; it is kept as {aside}.")
    if dry_run and (missing or damaged):
        empty = context.with_resource(pipeline.files.staged(".sqlite"))
        settings = dataclasses.replace(settings, ledger_url=backup.sqlite_url(empty))
        pipeline = Pipeline(settings)
    return context.with_resource(pipeline)


def _show(found: Recovered) -> None:
    """What was found, line by line."""
    made = "would be rebuilt" if found.dry_run else "rebuilt"
    for night in found.nights:
        print(f"{night['job']} {night['partition']}: {night['submissions']} submissions {made}")
    if not found.nights:
        print("The ledger knows every submission that the home knows.")
    batches = found.batches
    print(
        f"Listed batches of account {', '.join(found.accounts)}: {len(batches.ours)} of this home, "
        f"{len(batches.foreign)} of others, {len(batches.running)} not ended, "
        f"{len(batches.unreadable)} not readable now"
    )
    for calls in found.possibly_billed:
        print(
            f"{calls['job']} {calls['partition']}: up to {calls['calls_at_most']} real-time calls "
            "may have been billed without an answer; they are made again"
        )
    for name in found.unidentified:
        print(f"{name}: nothing tells which requests it answers")
    for path in found.missing_documents:
        print(f"{path}: missing; requests with this document cannot be made again")
    print("Not known any more:")
    for what in found.not_known:
        print(f"- {what}")
