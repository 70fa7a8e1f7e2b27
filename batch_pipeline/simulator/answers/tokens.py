"""Counts tokens: the numbers in `usage`.

Plausible, not exact: one token for every four bytes of UTF-8, so that characters of other scripts
cost more, plus a few for each message. An image costs by its pixels, a PDF by its pages and text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from batch_pipeline.simulator.checking.documents import (
    MEDIA,
    Picture,
    content_of,
    pdf_of,
    picture_of,
)
from batch_pipeline.simulator.models import MODELS, Model

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
TOKENS_PER_REQUEST = 3
MAX_TOKENS_PER_OTHER_BLOCK = 1_600
PAGE_TOKENS = 1_600
"""A page of a PDF, beside the tokens of its text."""
PIXELS_PER_TOKEN_SIDE = 28
# The fields of each entry of `usage.iterations`.
NO_TOKENS: dict[str, Any] = {
    "input_tokens": 0,
    "output_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
}
ITERATION_TOKENS = tuple(NO_TOKENS)


def count_text(text: str) -> int:
    """Tokens of a text; 0 for an empty one."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return -(-size // BYTES_PER_TOKEN)


def count_input(params: dict[str, Any]) -> int:
    """Input tokens of one request: tools, system prompt and messages."""
    return TOKENS_PER_REQUEST + sum(tokens for tokens, _, _ in segments(params))


def count_image(picture: Picture, model: Model) -> int:
    """Tokens of an image: one for each 28 by 28 pixels, after scaling to the model's size."""
    width, height = picture.width, picture.height
    if (longer := max(width, height)) > model.image_side:
        width, height = (max(1, side * model.image_side // longer) for side in (width, height))
    tokens = -(-width // PIXELS_PER_TOKEN_SIDE) * -(-height // PIXELS_PER_TOKEN_SIDE)
    return min(tokens, model.image_tokens)


def _count_block(block: Any, model: Model) -> int:
    if isinstance(block, str):
        return count_text(block)
    if isinstance(block, dict):
        if isinstance(text := block.get("text"), str):
            return count_text(text)
        if block.get("type") in MEDIA:
            return _count_media(block, model)
        if block.get("type") == "tool_result":
            return sum(_count_block(each, model) for each in _as_blocks(block.get("content")))
    tokens = len(orjson.dumps(block)) // BYTES_PER_TOKEN
    return min(tokens, MAX_TOKENS_PER_OTHER_BLOCK)


def _count_media(block: dict[str, Any], model: Model) -> int:
    source = block["source"]
    if block["type"] == "image":
        return count_image(picture_of(source["data"]), model)
    named = sum(count_text(block.get(name) or "") for name in ("title", "context"))
    if source["type"] == "base64":
        pdf = pdf_of(source["data"])
        return named + pdf.pages * PAGE_TOKENS + -(-pdf.text_bytes // BYTES_PER_TOKEN)
    return named + sum(_count_block(each, model) for each in _as_blocks(content_of(source)))


def _as_blocks(content: Any) -> list[Any]:
    if content is None:
        return []
    return content if isinstance(content, list) else [content]


def segments(params: dict[str, Any]) -> Iterator[tuple[int, Any, str | None]]:
    """(tokens, block, cache lifetime requested at its end) in the order of the prompt.

    The params are checked: their model is known, and their documents can be read.
    """
    model = MODELS[params["model"]]
    for tool in params.get("tools") or ():
        yield len(orjson.dumps(tool)) // BYTES_PER_TOKEN, tool, lifetime_of(tool)
    for block in _as_blocks(params.get("system")):
        yield _count_block(block, model), block, lifetime_of(block)
    for message in params.get("messages") or ():
        blocks = _as_blocks(message.get("content"))
        for position, block in enumerate(blocks):
            overhead = TOKENS_PER_MESSAGE if position == 0 else 0
            yield _count_block(block, model) + overhead, block, lifetime_of(block)


def lifetime_of(block: Any) -> str | None:
    """How long a mark asks for an entry, `5m` or `1h`; None: there is no mark."""
    control = block.get("cache_control") if isinstance(block, dict) else None
    return control.get("ttl", "5m") if isinstance(control, dict) else None


def usage(
    params: dict[str, Any],
    split: tuple[int, int, int, int],
    *,
    output_tokens: int,
    thinking_tokens: int,
    service_tier: str,
    searches: int | None = None,
) -> dict[str, Any]:
    """The `usage` of one answer, with every field that the API is known to send.

    `split` are its input tokens: uncached, written for 5 minutes and for 1 hour, read.
    """
    uncached, written_5m, written_1h, read = split
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
