"""The prompt template: parsing it, naming its columns, and filling it with a row's texts.

Belongs here: the `{column}` syntax, how a JSON value becomes prompt text, and which texts are
blank. Reading rows is in `rows`; the Messages parameters around the prompt are in `requests`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from batch_pipeline.errors import DeclarationError

# `str.format` would read attributes, indexes and conversions into a column's name ("{a.b}",
# "{x!r}") and so let a template reach into objects; here a name is whatever stands between braces.
_TOKEN = re.compile(r"(?P<double>\{\{|\}\})|\{(?P<column>[^{}]+)\}|(?P<lone>[{}])")


@dataclass(frozen=True)
class Template:
    """A parsed template: literal texts and, between each two of them, the column to put there.

    `literals` has one entry more than `slots`.
    """

    literals: tuple[str, ...]
    slots: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Split a template at its placeholders; doubled braces stand for literal ones.

        Raises DeclarationError at a lone brace and at `{}`, with line and column of the template.
        """
        literals: list[str] = []
        slots: list[str] = []
        pending: list[str] = []
        end = 0
        for token in _TOKEN.finditer(text):
            pending.append(text[end : token.start()])
            end = token.end()
            if token["lone"]:
                raise DeclarationError(_lone_brace_message(text, token.start()))
            if token["double"]:
                pending.append(token["double"][0])
            else:
                literals.append("".join(pending))
                slots.append(token["column"])
                pending = []
        pending.append(text[end:])
        literals.append("".join(pending))
        return cls(tuple(literals), tuple(slots))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the template names, each once, in order of appearance."""
        return tuple(dict.fromkeys(self.slots))

    def render(self, values: Mapping[str, str]) -> str:
        """Fill the template in a single pass: braces inside a value stay as they are.

        Raises KeyError for a column without a value: rows with a problem are not to be rendered.
        """
        pieces = [self.literals[0]]
        for slot, literal in zip(self.slots, self.literals[1:], strict=True):
            pieces.append(values[slot])
            pieces.append(literal)
        return "".join(pieces)


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


def _lone_brace_message(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    brace = text[position]
    where = f"prompt template, line {line}, column {column}"
    if text.startswith("{}", position):
        return (
            f"{where}: '{{}}' names no column. Write {{column}} to insert a column, "
            "or double the braces, '{{}}', for literal ones."
        )
    return (
        f"{where}: a lone '{brace}'. Write {{column}} to insert a column, "
        f"or double the brace, '{brace * 2}', for a literal one."
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
