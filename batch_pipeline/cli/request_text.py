"""A request as text for a terminal: turn by turn, then its further parameters."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import orjson

from batch_pipeline.reporting import shown_request
from batch_pipeline.reporting.shown_request import Text

# `--json` has longer texts whole.
MOST_CHARACTERS = 2_000


def of(request: Mapping[str, Any], *, with_schema: bool = True) -> str:
    """The request of a row, with documents in words; the schema of the answer is in one line."""
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
    schema = shown.schema if with_schema else ""
    for name, found in (("schema of the answer", schema), ("parameters", shown.rest)):
        if found:
            compact = orjson.dumps(orjson.loads(found)).decode()
            lines += [f"[{name}]", text(Text.of(compact, MOST_CHARACTERS))]
    return "\n".join(lines)


def text(shown: Text) -> str:
    """A text, indented; where it is cut, how long it is."""
    cut = f"\n… ({shown.characters:,} characters in all)" if shown.cut else ""
    return textwrap.indent(shown.shown.rstrip("\n") + cut, "  ", lambda _: True)
