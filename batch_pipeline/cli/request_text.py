"""A request as text for a terminal: turn by turn, then its further parameters."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from batch_pipeline.reporting import shown_request
from batch_pipeline.reporting.shown_request import Text

# `--json` has longer texts whole.
MOST_CHARACTERS = 2_000


def of(request: Mapping[str, Any]) -> str:
    """The request of a row, with documents in words."""
    shown = shown_request.of(request, MOST_CHARACTERS)
    lines = []
    for turn in shown.turns:
        lines.append(f"[{turn.role}]")
        for block in turn.blocks:
            if block.label != "text":
                lines.append(f"  <{block.label}>")
            if block.text is not None:
                lines.append(text(block.text))
    lines.append(f"[{shown.model_id}, at most {shown.max_tokens:,} tokens of answer]")
    for name, found in (("schema of the answer", shown.schema), ("parameters", shown.rest)):
        if found:
            lines += [f"[{name}]", text(Text.of(found, MOST_CHARACTERS))]
    return "\n".join(lines)


def text(shown: Text) -> str:
    """A text, indented; where it is cut, how long it is."""
    cut = f"\n… ({shown.characters:,} characters in all)" if shown.cut else ""
    return textwrap.indent(shown.shown.rstrip("\n") + cut, "  ", lambda _: True)
