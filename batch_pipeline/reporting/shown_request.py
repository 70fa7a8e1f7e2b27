"""A request as people read it: its turns one below the other, then what else is asked with it.

Pure functions of the Messages parameters, of which base64 data have been replaced by what they are
(`flow.dataset.requests.rendered`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

# Longer texts are cut on pages; `preview --raw` and `show --json` have them whole.
TEXT_CHARACTERS = 4_000


@dataclass(frozen=True)
class Text:
    """A text as far as it is shown, and how many characters it has in all."""

    shown: str
    characters: int

    @classmethod
    def of(cls, text: str, most: int = TEXT_CHARACTERS) -> Text:
        return cls(text[:most], len(text))

    @property
    def cut(self) -> bool:
        return len(self.shown) < self.characters


@dataclass(frozen=True)
class Block:
    """A block of a turn: text, or what else it is, in words (`label`)."""

    label: str
    text: Text | None = None


@dataclass(frozen=True)
class Turn:
    """`role` is system, user or assistant."""

    role: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class ShownRequest:
    """The turns of a request, the system prompt first; `rest` are its further parameters as JSON,
    without the schema of the answer, which is in `schema`."""

    model_id: str
    max_tokens: int
    turns: tuple[Turn, ...]
    rest: str
    schema: str


def of(params: Mapping[str, Any], most: int = TEXT_CHARACTERS) -> ShownRequest:
    """The Messages parameters as they are shown; texts of more than `most` characters are cut."""
    rest = {
        key: value
        for key, value in params.items()
        if key not in ("model", "max_tokens", "system", "messages")
    }
    schema: Any = None
    output = rest.get("output_config")
    if isinstance(output, Mapping) and isinstance(output.get("format"), Mapping):
        schema = output["format"].get("schema")
        others = {key: value for key, value in output.items() if key != "format"}
        rest = {key: value for key, value in rest.items() if key != "output_config"}
        if others:
            rest["output_config"] = others
    turns = [Turn("system", _blocks(params["system"], most))] if params.get("system") else []
    turns += [Turn(each["role"], _blocks(each["content"], most)) for each in params["messages"]]
    return ShownRequest(
        params["model"], params["max_tokens"], tuple(turns), _json(rest), _json(schema)
    )


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() if value else ""


def _blocks(content: str | Sequence[Mapping[str, Any]], most: int) -> tuple[Block, ...]:
    if isinstance(content, str):
        return (Block("text", Text.of(content, most)),)
    return tuple(_block(block, most) for block in content)


def _block(block: Mapping[str, Any], most: int) -> Block:
    kind = str(block.get("type", "text"))
    if kind == "text":
        return Block("text", Text.of(str(block.get("text", "")), most))
    source = block.get("source")
    if kind in ("document", "image") and isinstance(source, Mapping):
        title = f" {block['title']!r}" if block.get("title") else ""
        if source.get("type") == "text":
            return Block(f"{kind}{title}, as text", Text.of(str(source.get("data", "")), most))
        return Block(f"{kind}{title}: {str(source.get('data', '')).strip('<>')}")
    return Block(kind, Text.of(_json(dict(block)), most))
