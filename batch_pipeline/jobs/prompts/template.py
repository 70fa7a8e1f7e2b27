"""The prompt template: parsing it, naming its columns, and filling it with a row's texts.

Belongs here: the `{column}` syntax, which placeholders may stand for a document, and which texts
are blank. What a row puts there is in `flow.dataset`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

from batch_pipeline.errors import DeclarationError

# `str.format` would read attributes, indexes and conversions into a column's name ("{a.b}",
# "{x!r}") and so let a template reach into objects; here a name is whatever stands between braces.
_TOKEN = re.compile(r"(?P<double>\{\{|\}\})|\{(?P<column>[^{}]+)\}|(?P<lone>[{}])")
# `document`: of the kind that its content tells.
DocumentKind = Literal["pdf", "image", "document"]
# The placeholder, and the column, of rows that are files.
DOCUMENT = "document"
_OF_A_DOCUMENT = re.compile(r"(?P<column>.+):(?P<kind>pdf|image|document)", re.DOTALL)


class Slot(NamedTuple):
    """A placeholder: its name as written, the column that it takes a document from, and the kind of
    that document; None: it is a text, whatever the row.

    One that may be a document is a text for a row that has a column of exactly the slot's name.
    """

    name: str
    column: str
    kind: DocumentKind | None

    @classmethod
    def of(cls, name: str) -> Slot:
        if name == DOCUMENT:
            return cls(name, name, "document")
        found = _OF_A_DOCUMENT.fullmatch(name)
        if found is None:
            return cls(name, name, None)
        return cls(name, found["column"], cast("DocumentKind", found["kind"]))


@dataclass(frozen=True)
class Template:
    """A parsed template: literal texts and, between each two of them, the name of a placeholder.

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
        """The names of the placeholders, each once, in order of appearance."""
        return tuple(dict.fromkeys(self.slots))

    @property
    def of_documents(self) -> tuple[Slot, ...]:
        """The placeholders that may stand for a document, each once."""
        found = map(Slot.of, self.columns)
        return tuple(slot for slot in found if slot.kind is not None)

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
