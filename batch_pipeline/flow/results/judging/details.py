"""What an answer holds beside its text: the column `details` of the results, as JSON.

Citations and thinking, calls of tools that were left to the model, why the API stopped, and how
often a paused answer went on. An answer that is its text alone has no details.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from batch_pipeline.flow.answers.messages import as_json
from batch_pipeline.flow.answers.outcomes import TOOL_USE, AskedFor

# Above this size citations, then thinking, then calls of tools are left out from their end.
MAX_BYTES = 1_000_000
# What is left out of details that are too large, in this order.
_CUT = ("citations", "thinking", "tool_calls")
# Kinds of `params.thinking` that ask for it; the models that think by themselves were not asked.
_THINKING = ("enabled", "adaptive")


def wants_thinking(params: Mapping[str, Any]) -> bool:
    """Whether declared Messages parameters ask for thinking."""
    declared = params.get("thinking")
    return isinstance(declared, dict) and declared.get("type") in _THINKING


def of_message(
    message: Mapping[str, Any],
    asked: AskedFor,
    thinking: bool = False,
    paused: Sequence[Any] = (),
    continued: int = 0,
) -> str | None:
    """The details of a message, of any shape, as JSON; None where it has none.

    `paused` are the blocks of the same answer before this message, which has gone on `continued`
    times. Thinking is kept only where it was asked for.
    """
    content = message.get("content")
    if (
        type(content) is list
        and len(content) == 1
        and not continued
        and message.get("stop_reason") == "end_turn"
        and message.get("stop_details") is None
        and type(content[0]) is dict
        and content[0].get("type") == "text"
        and not content[0].get("citations")
    ):
        return None
    every = [*paused, *(content if isinstance(content, list) else ())]
    blocks = [block for block in every if isinstance(block, dict)]
    found: dict[str, Any] = {
        "citations": [
            {"text": block.get("text"), "citations": block["citations"]}
            for block in blocks
            if block.get("type") == "text" and block.get("citations")
        ],
        "thinking": _thought(blocks) if thinking else "",
        "tool_calls": []
        if asked.forced or message.get("stop_reason") != TOOL_USE
        else [
            {"name": block.get("name"), "input": block.get("input")}
            for block in blocks
            if block.get("type") == "tool_use"
        ],
        "stop_sequence": message.get("stop_sequence"),
        "stop_details": message.get("stop_details"),
        "refusal_category": _category(message),
        "continued": continued,
    }
    return _written({name: value for name, value in found.items() if value})


def _thought(blocks: Sequence[Mapping[str, Any]]) -> str:
    thoughts = [block.get("thinking") for block in blocks if block.get("type") == "thinking"]
    return "\n\n".join(text for text in thoughts if isinstance(text, str) and text)


def _category(message: Mapping[str, Any]) -> Any:
    """Why the model refused, in one word of the API's; None where it does not say."""
    told = message.get("stop_details")
    if message.get("stop_reason") != "refusal" or not isinstance(told, dict):
        return None
    return told.get("category")


def _written(found: dict[str, Any]) -> str | None:
    if not found:
        return None
    text = as_json(found)
    if len(text.encode()) <= MAX_BYTES:
        return text
    found["cut_off"] = True
    for name in _CUT:
        if name in found:
            found[name] = _fitting(found, name)
            if not found[name]:
                del found[name]
        text = as_json(found)
        if len(text.encode()) <= MAX_BYTES:
            return text
    # The API's own values alone are too large, which they never are.
    return '{"cut_off":true}'


def _fitting(found: Mapping[str, Any], name: str) -> Any:
    """As much of the beginning of a list or text as fits."""
    rest = len(as_json({**found, name: ""}).encode()) - len('""')
    value, room = found[name], MAX_BYTES - rest
    if isinstance(value, str):
        sizes = range(len(value) + 1)
        fits = bisect_right(sizes, room, key=lambda size: len(as_json(value[:size]).encode()))
        return value[: max(0, fits - 1)]
    room -= len("[]")
    kept = []
    for item in value:
        room -= len(as_json(item).encode()) + 1
        if room < 0:
            break
        kept.append(item)
    return kept
