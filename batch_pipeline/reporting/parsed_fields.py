"""The fields of a parsed answer, flat, as a person reads them: one line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from batch_pipeline.wording import clipped

MOST_FIELDS = 60
VALUE_CHARACTERS = 1_000


def of(parsed: Any) -> list[tuple[str, str]]:
    """`parties[1].name` and its value, for each leaf; lists of plain values are one line.

    A line without a name says how many further fields there are.
    """
    found = list(_leaves(parsed, ""))
    further = len(found) - MOST_FIELDS
    if further > 0:
        return [*found[:MOST_FIELDS], ("", f"and {further:,} further fields")]
    return found


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _leaves(each, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(each, (Mapping, list)) for each in value):
        for number, each in enumerate(value, 1):
            yield from _leaves(each, f"{path}[{number}]")
    else:
        yield path or "the answer", clipped(_shown(value), VALUE_CHARACTERS)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(_shown, value)) if value else "(none)"
    if isinstance(value, Mapping):
        return "(none)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "(null)"
    return str(value) if value != "" else "(empty)"
