"""How commands are found: what is not built yet is refused by name, what is unknown with a list."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from batch_pipeline.errors import UsageError

UNBUILT: tuple[str, ...] = ()
"""Commands whose feature is not built yet; building one ends with deleting its entry."""


class Commands(TyperGroup):
    """A group of commands that says which there are."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name in UNBUILT:
            raise UsageError(
                f"`{ctx.command_path} {name}` is not built yet. The commands here are: "
                f"{', '.join(self.commands)}."
            )
        return super().resolve_command(ctx, args)


def usage_message(error: typer.TyperException) -> str:
    """What was wrong with the command line, and where its help is."""
    message: str = error.format_message()
    context = getattr(error, "ctx", None)
    if not message or context is None:
        return message
    return f"{message.rstrip('.')}. See `{context.command_path} --help`."
