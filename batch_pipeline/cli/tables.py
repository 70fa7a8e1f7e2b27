"""How commands print tables: close together, for a terminal of 80 characters.

User data is never read as markup: an id may hold brackets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from batch_pipeline.safe_text import redacted, visible

SIMULATED = "[bold yellow]simulated: no money was spent, the answers are made up[/]"


class SafeConsole(Console):
    """A console without secrets, control characters in data escaped; its own styles stay."""

    def print(self, *objects: Any, **options: Any) -> None:
        # As a whole: highlighting would cut an address into pieces.
        super().print(*(redacted(o) if isinstance(o, str) else o for o in objects), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        segments = list(super().render(renderable, options))
        # Together first: a table has thousands of pieces, and mostly none that has to change.
        together = "\n".join(text for text, _, control in segments if not control)
        if _safe(together) == together:
            return segments
        return [
            Segment(text if control else _safe(text), style, control)
            for text, style, control in segments
        ]


def _safe(text: str) -> str:
    return visible(redacted(text))


def plain_table() -> Table:
    """A table with a head and columns close together."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def facts_table() -> Table:
    """A table of names and numbers."""
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    return table


def print_path(console: Console, what: str, path: str) -> None:
    """Print a path on one line, however long, so that it can be copied."""
    console.print(f"{what}: {path}", soft_wrap=True, highlight=False, markup=False)
