"""The digest by which the books tell whether two requests ask for the same."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson


def content_digest(params: dict[str, Any]) -> bytes:
    """sha256 of the params as JSON with sorted keys; two requests with one digest are the same.

    Marks of the prompt cache do not change the digest, nor does splitting a text into blocks to
    mark them: a pipeline that sends a request with marks and again without them buys it twice.
    """
    raw = orjson.dumps(params, option=orjson.OPT_SORT_KEYS)
    if b'"cache_control"' in raw:
        raw = orjson.dumps(_unmarked(params), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(raw).digest()


def _unmarked(params: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in params.items() if name != "cache_control"}
    if isinstance(tools := params.get("tools"), list):
        plain["tools"] = [without_mark(tool) for tool in tools]
    if "system" in params:
        plain["system"] = _joined(params["system"])
    if isinstance(messages := params.get("messages"), list):
        plain["messages"] = [
            {**message, "content": _joined(message.get("content"))}
            if isinstance(message, dict)
            else message
            for message in messages
        ]
    return plain


def _joined(content: Any) -> Any:
    """Blocks of text alone as one text; other content without marks."""
    if not isinstance(content, list):
        return content
    blocks = [without_mark(block) for block in content]
    if all(isinstance(b, dict) and b.keys() == {"type", "text"} for b in blocks):
        return "".join(str(block["text"]) for block in blocks)
    return blocks


def without_mark(block: Any) -> Any:
    """A block or tool without its mark for the prompt cache."""
    if not isinstance(block, dict):
        return block
    return {name: value for name, value in block.items() if name != "cache_control"}


def content_hash(params: dict[str, Any]) -> str:
    """`content_digest` as hexadecimal text, the key in `Books.contents`."""
    return content_digest(params).hex()
