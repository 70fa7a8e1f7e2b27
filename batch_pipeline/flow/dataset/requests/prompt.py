"""The prompt of a declaration: system, examples and turns, and what of it all requests share.

Belongs here: which placeholders of a row are texts and which are documents, and which examples a
row gets. How it becomes bytes is in `request_builder`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from batch_pipeline.flow.dataset.documents.reference import is_mark
from batch_pipeline.jobs.prompts.template import Slot, Template, is_blank

if TYPE_CHECKING:
    from batch_pipeline.flow.dataset.requests.declaration import Declaration

BLANK = "blank document"
BLANK_TURN = "a turn of the prompt is blank"
USER, ASSISTANT = "user", "assistant"


class PromptTurn(NamedTuple):
    """A turn: what one role says. Only a user's turn has placeholders."""

    role: str
    template: Template


class Shared(NamedTuple):
    """Where what all requests share ends: in the turn of this number, examples counted, after the
    text before its first placeholder; `whole`: after the turn."""

    turn: int
    whole: bool


@dataclass(frozen=True)
class Prompt:
    """What a declaration says to the model, row by row.

    `examples` are turns that come before the others; with `count` each row gets that many pairs of
    them, chosen by its own texts.
    """

    turns: tuple[PromptTurn, ...]
    examples: tuple[PromptTurn, ...] = ()
    count: int | None = None
    seed: int = 0

    @classmethod
    def of(cls, declaration: Declaration) -> Prompt:
        turns = tuple(
            PromptTurn(turn.role, Template.parse(turn.text)) for turn in declaration.all_turns
        )
        if declaration.examples is None:
            return cls(turns)
        examples = tuple(
            PromptTurn(role, Template((text,), ()))
            for pair in declaration.examples["turns"]
            for role, text in zip((USER, ASSISTANT), pair, strict=True)
        )
        chosen = declaration.examples.get("count"), declaration.examples.get("seed", 0)
        return cls(turns, examples, *chosen)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of all placeholders, each once, in order of appearance."""
        return tuple(dict.fromkeys(name for turn in self.turns for name in turn.template.slots))

    @cached_property
    def of_documents(self) -> tuple[Slot, ...]:
        """The placeholders that may stand for a document, each once."""
        return tuple(slot for slot in map(Slot.of, self.columns) if slot.kind is not None)

    def split(self, cells: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[Slot, ...]]:
        """Which placeholders are texts of a row with these cells, by name, and which are documents.

        A cell of exactly the placeholder's name is a text, unless the pipeline has put a document
        there. `{document}` of a row without that cell is a document that is missing.
        """
        if not self.of_documents:
            return self.columns, ()
        documents = tuple(slot for slot in self.of_documents if _is_document(slot, cells))
        names = {slot.name for slot in documents}
        return tuple(name for name in self.columns if name not in names), documents

    def problem(self, values: Mapping[str, str], *, has_documents: bool) -> str | None:
        """Why a row with these texts cannot be asked about, or None.

        A document is what the placeholders hold together: without any of it the model would answer
        the instruction alone.
        """
        if len(self.turns) > 1 and any(_is_blank(turn.template, values) for turn in self.turns):
            return BLANK_TURN
        if has_documents:
            return None
        for name in self.columns:
            if not is_blank(values[name]):
                return None
        return BLANK if self.columns else None

    @cached_property
    def fixed_turns(self) -> tuple[PromptTurn, ...]:
        """The turns of each request in order, without examples that differ from row to row."""
        return self.turns if self.count is not None else (*self.examples, *self.turns)

    def turns_of(self, key: Sequence[str]) -> tuple[PromptTurn, ...]:
        """The turns of a row's request; `key` is what its examples are chosen by."""
        if self.count is None:
            return self.fixed_turns
        pairs = _chosen(self.seed, key, len(self.examples) // 2, self.count)
        examples = [turn for at in pairs for turn in self.examples[2 * at : 2 * at + 2]]
        return (*examples, *self.turns)

    @cached_property
    def shared(self) -> Shared | None:
        """The end of what the turns of all requests share; None: they share nothing."""
        if self.count is not None:
            return None
        for number, turn in enumerate(self.fixed_turns):
            if turn.template.slots:
                if not is_blank(turn.template.literals[0]):
                    return Shared(number, whole=False)
                return Shared(number - 1, whole=True) if number else None
        return Shared(len(self.fixed_turns) - 1, whole=True)


def _is_blank(template: Template, values: Mapping[str, str]) -> bool:
    """Whether a turn has neither a visible text nor a document."""
    return all(map(is_blank, template.literals)) and all(
        name in values and is_blank(values[name]) for name in template.slots
    )


def _is_document(slot: Slot, cells: Mapping[str, Any]) -> bool:
    return slot.name not in cells or is_mark(cells[slot.name])


def _chosen(seed: int, key: Sequence[str], total: int, count: int) -> list[int]:
    """`count` of the numbers below `total`, ascending, by a hash: the same ones for the same row
    on every machine (Floyd's sampling)."""
    state = hashlib.sha256(orjson.dumps([seed, *key])).digest()
    found: set[int] = set()
    for last in range(total - count, total):
        state = hashlib.sha256(state).digest()
        at = int.from_bytes(state[:8]) % (last + 1)
        found.add(last if at in found else at)
    return sorted(found)
