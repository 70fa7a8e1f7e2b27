"""How a cell becomes prompt text.

The template itself is in `jobs.template`; reading rows is in `rows`; the Messages parameters around
the prompt are in `request_builder`.
"""

from __future__ import annotations

import json

import orjson

from batch_pipeline.jobs.template import Slot, Template, is_blank

__all__ = ["Slot", "Template", "cell_text", "is_blank"]


def cell_text(value: object) -> str:
    """How a JSON value becomes prompt text: a string as it is, anything else as its JSON text."""
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        # orjson stops at 64-bit integers; JSON does not.
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
