"""How a command answers: one JSON document or a table on stdout, the rest on stderr, a code."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch_pipeline.safe_text import json_text, lines, redacted

if TYPE_CHECKING:
    from batch_pipeline.flow.status.progress import Progress

PROGRAM = "batch-pipeline"
# The exit codes of the command line; errors bring their own (`errors.py`).
COMPLETE, USAGE, HELD, NOT_COMPLETE, INTERRUPTED = 0, 2, 3, 4, 130


@dataclass(frozen=True)
class Output:
    """How a command answers; with `as_json` stdout holds one document and nothing else."""

    as_json: bool

    def say(self, text: str) -> None:
        """Something for the person who watches."""
        print(lines(text), file=sys.stderr, flush=True)

    def answer(self, document: Mapping[str, Any] | str, show: Callable[[], None]) -> None:
        """The command's answer: the document (or its text), or what `show` prints."""
        if not self.as_json:
            show()
        elif isinstance(document, str):
            print(json_text(document), flush=True)
        else:
            import orjson

            try:
                text = orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
            except TypeError:  # bytes of a path or an argument that are not UTF-8
                text = orjson.dumps(_as_utf8(document), option=orjson.OPT_INDENT_2).decode()
            print(json_text(text), flush=True)


def _as_utf8(value: Any) -> Any:
    """A document with the bytes of its texts that are not UTF-8 as backslash escapes."""
    if isinstance(value, str):
        return value.encode(errors="surrogateescape").decode(errors="backslashreplace")
    if isinstance(value, Mapping):
        return {_as_utf8(key): _as_utf8(item) for key, item in value.items()}
    return [_as_utf8(item) for item in value] if isinstance(value, (list, tuple)) else value


def report_error(output: Output, code: str, message: str, exit_code: int) -> int:
    """Say what went wrong in the form that was asked for; returns the exit code."""
    message = message.replace(f"`{PROGRAM} ", f"`{as_typed()} ")
    if output.as_json:
        output.answer({"error": {"code": code, "message": redacted(message)}}, lambda: None)
    output.say(f"Error: {message}" if code != "interrupted" else message)
    return exit_code


def as_typed() -> str:
    """How this program is called here: its name, or its path where the name would not find it.

    In a virtual environment that is not activated the name alone finds nothing.
    """
    called = Path(sys.argv[0])
    if called.name != PROGRAM or shutil.which(PROGRAM):
        return PROGRAM
    relative = os.path.relpath(called)
    return shlex.quote(str(called.absolute()) if relative.startswith(os.pardir) else relative)


def exit_code(output: Output, state: Progress, *, again: str = "run the same command again") -> int:
    """The exit code of a night as it stands, and how to go on where it is not complete."""
    from batch_pipeline.ledger.admission.night_state import held

    if state.complete:
        return COMPLETE
    if state.night.held_at is not None:
        output.say(f"The night is {held(state.night.job, state.night.partition)}.")
        return HELD
    output.say(f"Not complete yet; {again} to go on.")
    return NOT_COMPLETE
