"""Counts tokens and keeps the prompt cache: the numbers in `usage`.

Plausible, not exact: one token for every four bytes of UTF-8, so that characters of other scripts
cost more, plus a few for each message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import orjson

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
TOKENS_PER_REQUEST = 3
MAX_TOKENS_PER_MEDIA_BLOCK = 1_600
# What each entry of `usage.iterations` tells.
NO_TOKENS: dict[str, Any] = {
    "input_tokens": 0,
    "output_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
}
ITERATION_TOKENS = tuple(NO_TOKENS)
MIN_CACHED_TOKENS = 1_024  # a shorter prefix is not cached, without any error


def count_text(text: str) -> int:
    """Tokens of a text; 0 for an empty one."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return -(-size // BYTES_PER_TOKEN)


def count_input(params: dict[str, Any]) -> int:
    """Input tokens of one request: tools, system prompt and messages."""
    return TOKENS_PER_REQUEST + sum(tokens for tokens, _, _ in _segments(params))


def _count_block(block: Any) -> int:
    if isinstance(block, str):
        return count_text(block)
    if isinstance(block, dict) and isinstance(text := block.get("text"), str):
        return count_text(text)
    tokens = len(orjson.dumps(block)) // BYTES_PER_TOKEN
    return min(tokens, MAX_TOKENS_PER_MEDIA_BLOCK)


def _as_blocks(content: Any) -> list[Any]:
    if content is None:
        return []
    return content if isinstance(content, list) else [content]


def _segments(params: dict[str, Any]) -> Iterator[tuple[int, Any, str | None]]:
    """(tokens, block, cache lifetime requested at its end) in the order of the prompt."""
    for tool in params.get("tools") or ():
        yield len(orjson.dumps(tool)) // BYTES_PER_TOKEN, tool, _lifetime(tool)
    for block in _as_blocks(params.get("system")):
        yield _count_block(block), block, _lifetime(block)
    for message in params.get("messages") or ():
        blocks = _as_blocks(message.get("content"))
        for position, block in enumerate(blocks):
            overhead = TOKENS_PER_MESSAGE if position == 0 else 0
            yield _count_block(block) + overhead, block, _lifetime(block)


def _lifetime(block: Any) -> str | None:
    control = block.get("cache_control") if isinstance(block, dict) else None
    return control.get("ttl", "5m") if isinstance(control, dict) else None


class PromptCache:
    """The prompt prefixes that were seen: the first time is a write, each later one a read.

    Entries do not age, since a simulated night is short.
    """

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def split(self, params: dict[str, Any]) -> tuple[int, int, int, int]:
        """Input tokens as (uncached, written for 5 minutes, written for 1 hour, read)."""
        segments = list(_segments(params))
        total = TOKENS_PER_REQUEST + sum(tokens for tokens, _, _ in segments)
        automatic = _lifetime(params)  # `cache_control` at the top level marks the last block
        if automatic is not None and segments:
            segments[-1] = (*segments[-1][:2], automatic)
        if all(lifetime is None for _, _, lifetime in segments):
            return total, 0, 0, 0
        return self._split_at_breakpoints(params, segments, total)

    def _split_at_breakpoints(
        self, params: dict[str, Any], segments: list[tuple[int, Any, str | None]], total: int
    ) -> tuple[int, int, int, int]:
        prefix = hashlib.sha256(str(params.get("model")).encode())
        position = read = written_up_to = 0
        written = {"5m": 0, "1h": 0}
        for tokens, block, lifetime in segments:
            position += tokens
            prefix.update(_without_cache_control(block))
            if lifetime is None or position < MIN_CACHED_TOKENS:
                continue
            key = prefix.digest()[:16]
            if key in self._seen:
                read = written_up_to = position
                written = {"5m": 0, "1h": 0}
            else:
                self._seen.add(key)
                written["1h" if lifetime == "1h" else "5m"] += position - written_up_to
                written_up_to = position
        return total - written_up_to, written["5m"], written["1h"], read


def _without_cache_control(block: Any) -> bytes:
    if isinstance(block, dict):
        block = {key: value for key, value in block.items() if key != "cache_control"}
    return orjson.dumps(block, option=orjson.OPT_SORT_KEYS)


def usage(
    params: dict[str, Any],
    cache: PromptCache,
    *,
    output_tokens: int,
    thinking_tokens: int,
    service_tier: str,
    searches: int | None = None,
) -> dict[str, Any]:
    """The `usage` of one answer, with every field that the API is known to send."""
    uncached, written_5m, written_1h, read = cache.split(params)
    return {
        "input_tokens": uncached,
        "cache_creation_input_tokens": written_5m + written_1h,
        "cache_read_input_tokens": read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": written_5m,
            "ephemeral_1h_input_tokens": written_1h,
        },
        "output_tokens": output_tokens,
        "output_tokens_details": {"thinking_tokens": thinking_tokens},
        "server_tool_use": None
        if searches is None
        else {"web_search_requests": searches, "web_fetch_requests": 0},
        "service_tier": service_tier,
        "inference_geo": params.get("inference_geo") or "global",
    }
