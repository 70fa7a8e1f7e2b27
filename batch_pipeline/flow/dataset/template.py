"""How a cell becomes prompt text, and which texts are blank.

The template itself is in `jobs.template`; reading rows is in `rows`; the Messages parameters around
the prompt are in `request_builder`.
"""

from __future__ import annotations

import json
import unicodedata

import orjson

from batch_pipeline.jobs.template import Slot, Template

__all__ = ["Slot", "Template", "cell_text", "is_blank"]

# Characters that show nothing although Unicode counts them as letters or symbols.
_FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: white space of any kind, zero-width and control characters."""
    if "!" <= text[:1] <= "~":  # most texts, without a look at Unicode's tables
        return False
    return all(
        character.isspace()
        or unicodedata.category(character) in ("Cc", "Cf")
        or "\ufe00" <= character <= "\ufe0f"
        or character in _FILLERS
        for character in text
    )


def cell_text(value: object) -> str:
    """How a JSON value becomes prompt text: a string as it is, anything else as its JSON text."""
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        # orjson stops at 64-bit integers; JSON does not.
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
