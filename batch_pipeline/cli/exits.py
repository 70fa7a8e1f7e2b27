"""How a command ends: its exit code, and what is said beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from batch_pipeline.cli.output import Output

if TYPE_CHECKING:
    from batch_pipeline.flow.status.progress import Progress

COMPLETE, USAGE, HELD, NOT_COMPLETE, INTERRUPTED = 0, 2, 3, 4, 130


def exit_code(output: Output, state: Progress, *, again: str = "run the same command again") -> int:
    """The exit code of a night as it stands, and how to go on where it is not complete."""
    from batch_pipeline.ledger.night_state import held

    if state.complete:
        return COMPLETE
    if state.night.held_at is not None:
        output.say(f"The night is {held(state.night.job, state.night.partition)}.")
        return HELD
    output.say(f"Not complete yet; {again} to go on.")
    return NOT_COMPLETE


def usage_message(error: typer.TyperException) -> str:
    """What was wrong with the command line, and where its help is."""
    message: str = error.format_message()
    context = getattr(error, "ctx", None)
    if not message or context is None:
        return message
    return f"{message.rstrip('.')}. See `{context.command_path} --help`."
