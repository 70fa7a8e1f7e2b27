"""Writes the answer to one request: content blocks, stop reason, output tokens.

The same params and seed give the same answer in every batch. `schemas` writes JSON for a schema,
`tokens` counts the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from batch_pipeline.simulator.answers.citations import text_blocks
from batch_pipeline.simulator.answers.schemas import SchemaWriter
from batch_pipeline.simulator.answers.source_text import Dice, SourceText
from batch_pipeline.simulator.answers.tokens import BYTES_PER_TOKEN, count_text

# Lengths have a Pareto tail: most answers are short, about one in 300 is cut at `max_tokens`.
TYPICAL_TOKENS = 40
TAIL_ALPHA = 2.3
TYPICAL_SHARE_OF_MAX = 12
MAX_ANSWER_TOKENS = 4_000
WORDS_PER_TOKEN = 0.6
MAX_THINKING_TOKENS = 400
MAX_SEARCHES = 3

_OPENINGS = ("In short: ", "The document says: ", "The main point: ", "Summary: ", "")


@dataclass(frozen=True)
class Answer:
    """An answer without its envelope; `output_tokens` includes `thinking_tokens`."""

    content: list[dict[str, Any]]
    stop_reason: str
    stop_sequence: str | None
    output_tokens: int
    thinking_tokens: int


def searches(params: dict[str, Any], digest: bytes) -> int | None:
    """The web searches of an answer, from one up to what its tools allow; None: no such tool."""
    allowed = [
        tool.get("max_uses") or MAX_SEARCHES
        for tool in params.get("tools") or ()
        if str(tool.get("type")).startswith("web_search")
    ]
    return 1 + digest[0] % min(allowed) if allowed else None


def answer(params: dict[str, Any], digest: bytes, seed: int) -> Answer:
    """The answer to valid params, whose content digest is `digest`."""
    dice = _dice(digest, seed)
    source = SourceText.of(params)
    room = params["max_tokens"]
    content: list[dict[str, Any]] = []
    thinking_tokens = 0
    if (params.get("thinking") or {}).get("type") in ("enabled", "adaptive"):
        block, thinking_tokens = _thinking(dice, source, digest, room)
        content.append(block)
        room -= thinking_tokens
    if (tool := _forced_tool(params, dice)) is not None:
        block = _tool_use(tool, dice, source, digest)
        tokens = count_text(orjson.dumps(block["input"]).decode()) + 8
        if tokens > room:
            return Answer(content, "max_tokens", None, thinking_tokens + room, thinking_tokens)
        content.append(block)
        return Answer(content, "tool_use", None, thinking_tokens + tokens, thinking_tokens)
    text, stop_reason, stop_sequence = _finished(params, _text(params, dice, source), room)
    if text:
        content += text_blocks(text, params)
    tokens = room if stop_reason == "max_tokens" else count_text(text)
    return Answer(content, stop_reason, stop_sequence, thinking_tokens + tokens, thinking_tokens)


def tool_call(params: dict[str, Any], digest: bytes, seed: int) -> dict[str, Any] | None:
    """A call of the first tool that its caller runs, by valid params; None: there is none."""
    tools = (tool for tool in params.get("tools") or () if "input_schema" in tool)
    if (tool := next(tools, None)) is None:
        return None
    return _tool_use(tool, _dice(digest, seed), SourceText.of(params), digest)


def _dice(digest: bytes, seed: int) -> Dice:
    return Dice(int.from_bytes(digest[:8], "big") ^ (seed * 0x9E3779B97F4A7C15))


def _text(params: dict[str, Any], dice: Dice, source: SourceText) -> str:
    answer_format = (params.get("output_config") or {}).get("format")
    if answer_format is not None:
        value = SchemaWriter(answer_format["schema"], dice, source).write()
        return orjson.dumps(value).decode()
    typical = max(2, min(TYPICAL_TOKENS, params["max_tokens"] // TYPICAL_SHARE_OF_MAX))
    tokens = min(dice.long_tail(typical, TAIL_ALPHA), MAX_ANSWER_TOKENS)
    opening = dice.pick(_OPENINGS) if tokens > 12 else ""
    text = opening + source.excerpt(dice, max(1, int(tokens * WORDS_PER_TOKEN)))
    # The excerpt is too short where the source is short or has very long words.
    while count_text(text) < tokens - 8:
        text += " " + source.excerpt(dice, 20)
    return _cut(text, tokens)


def _finished(params: dict[str, Any], text: str, room: int) -> tuple[str, str, str | None]:
    """The text up to where generation stops: (text, stop reason, stop sequence)."""
    found = [
        (position, sequence)
        for sequence in params.get("stop_sequences") or ()
        if (position := text.find(sequence)) >= 0
    ]
    if found:
        position, sequence = min(found)
        if count_text(text[:position]) <= room:
            return text[:position], "stop_sequence", sequence
    if count_text(text) > room:
        return _cut(text, room), "max_tokens", None
    return text, "end_turn", None


def _cut(text: str, tokens: int) -> str:
    return text.encode("utf-8", "replace")[: tokens * BYTES_PER_TOKEN].decode("utf-8", "ignore")


def _thinking(
    dice: Dice, source: SourceText, digest: bytes, room: int
) -> tuple[dict[str, Any], int]:
    tokens = min(room, MAX_THINKING_TOKENS, dice.long_tail(30, 2.0))
    text = _cut("The text reads: " + source.excerpt(dice, tokens), tokens)
    return {"type": "thinking", "thinking": text, "signature": digest.hex()}, tokens


def _forced_tool(params: dict[str, Any], dice: Dice) -> dict[str, Any] | None:
    choice = params.get("tool_choice") or {}
    tools: list[dict[str, Any]] = params.get("tools") or []
    if choice.get("type") == "tool":
        return next(tool for tool in tools if tool.get("name") == choice["name"])
    if choice.get("type") == "any":
        return tools[dice.below(len(tools))]
    return None


def _tool_use(
    tool: dict[str, Any], dice: Dice, source: SourceText, digest: bytes
) -> dict[str, Any]:
    schema = {"type": "object", **(tool.get("input_schema") or {})}
    return {
        "type": "tool_use",
        "id": f"toolu_01{digest.hex()[:22]}",
        "name": tool.get("name", "tool"),
        "input": SchemaWriter(schema, dice, source).write(),
    }
