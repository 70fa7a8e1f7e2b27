"""Makes requests: from a declaration and a row to Messages parameters, to the byte.

Belongs here: how a request is put together, its fingerprint and its sizes. What a declaration is
stands in `requests`, what the prompt says of a row in `prompt`, how documents become blocks in
`document_blocks`, where cache marks stand in `cache_marks`.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import orjson

from batch_pipeline.flow.dataset.documents.reference import Document, Opener, of_cell
from batch_pipeline.flow.dataset.reading.row_json import JsonRow, row_of_json, values_of
from batch_pipeline.flow.dataset.requests import cache_marks
from batch_pipeline.flow.dataset.requests.declaration import (
    FINGERPRINT_CHARACTERS,
    FINGERPRINT_VERSION,
    Declaration,
)
from batch_pipeline.flow.dataset.requests.document_blocks import Blocks, Data, in_pieces, visual_of
from batch_pipeline.flow.dataset.requests.further import Further
from batch_pipeline.flow.dataset.requests.prompt import Prompt, PromptTurn
from batch_pipeline.jobs.prompts.template import Slot
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.pricing.documents import visual_tokens
from batch_pipeline.pricing.tokens import Lifetime

_NO_DOCUMENTS: Mapping[str, Document] = {}
_NOTHING_FURTHER = Further()
# 500, and 500.0 as tables write a column of whole numbers that has gaps.
_WHOLE_NUMBER = re.compile(r"([0-9]{1,9})(\.0+)?")


class Size(NamedTuple):
    """A request as it is measured: what it is known by, its bytes on the wire, and, where it has
    documents, what its tokens follow from (see `snapshot.SCHEMA`)."""

    fingerprint: str
    request_bytes: int
    prompt_size: int | None = None
    visual_tokens: int | None = None


class Parts(NamedTuple):
    """What a row gives to its request: texts by the placeholder's name, documents by their column,
    and why it cannot be used, or None."""

    values: dict[str, str]
    documents: dict[str, Document]
    problem: str | None


@dataclass(frozen=True)
class _Flat:
    """A request of texts alone: constant bytes and, between each two of them, a column's text."""

    constants: tuple[bytes, ...]
    slots: tuple[str, ...]


class RequestBuilder:
    """Makes the requests of one declaration; what they have in common is serialized once.

    A request is made from the texts and documents of a row (`pieces`, `build`), or from the row's
    JSON and the places of its texts there (`splice`), to the same bytes: JSON escapes character by
    character, so that the prompt as JSON is its parts as JSON, put together.

    With a `lifetime` the shared prefix of each request carries a cache mark (`cache_marks`), which
    makes all of them longer by the same number of bytes. Marks are no part of a fingerprint:
    fingerprints and sizes are asked of a builder without.
    """

    def __init__(self, declaration: Declaration, lifetime: Lifetime | None = None) -> None:
        self.declaration = declaration
        self.prompt = prompt = Prompt.of(declaration)
        self._blocks = Blocks.of(declaration)
        self._limit_column = declaration.max_tokens_column
        # The columns that a request is made of beside those of the prompt, and the keys of the
        # declaration that name them.
        self.columns_beside_the_prompt = list(self._blocks.columns)
        if self._limit_column is not None:
            self.columns_beside_the_prompt.append((self._limit_column, "per_row.max_tokens"))
        further = (name for name, _ in self.columns_beside_the_prompt)
        # All of them, those of the prompt first.
        self.columns = tuple(dict.fromkeys((*prompt.columns, *further)))
        self._mark = None if lifetime is None else cache_marks.place_of(declaration)
        self._lifetime = lifetime
        self._before = self._opening()
        self._after = self._closing()
        self._plain = None if lifetime is None else RequestBuilder(declaration)
        flat = self._flattened(prompt.fixed_turns)
        # The bytes of a request beside the texts of its row, its documents and examples of its own.
        self.constant_bytes = sum(map(len, flat.constants))
        self._first, *others = flat.constants
        # Of each text that is put in: which of the places it begins at, and what follows it.
        self._slots = [
            (2 * self.columns.index(slot), literal)
            for slot, literal in zip(flat.slots, others, strict=True)
        ]
        self._slot_names = flat.slots
        # Whether texts alone make a request of these constants and nothing else.
        self._is_flat = (
            prompt.count is None and self._limit_column is None and not self._may_lack_the_rest()
        )
        betas = orjson.dumps(list(declaration.betas))
        self._digest = hashlib.sha256(b"%d\n%s\n" % (FINGERPRINT_VERSION, betas))
        # What all requests begin with is hashed once.
        self._begun = self._digest.copy()
        self._begun.update(self._first)

    # --- what a row gives ------------------------------------------------------------------------

    def parts_of(self, row: JsonRow) -> Parts:
        """The texts and documents of a row whose documents are marks of the pipeline."""
        names, slots = self.prompt.split(row.cells)
        documents, problem = {}, None
        for slot in slots:
            document = of_cell(row.cells.get(slot.column))
            if document is None:
                problem = problem or f"no document in column '{slot.column}'"
            else:
                documents[slot.column] = document
        texts = dict.fromkeys((*names, *self.columns[len(self.prompt.columns) :]))
        values, of_texts = values_of(row, tuple(texts))
        # A text and a document of one column: the text is the document's path.
        values |= {name: documents[name].path for name in texts if name in documents}
        for name, document in documents.items():
            column = document.text_column
            if column is not None and document.text is None:
                found, missing = values_of(row, (column,))
                of_texts = of_texts or missing
                documents[name] = replace(document, text=found.get(column, ""))
        return Parts(values, documents, problem or of_texts)

    def problem(
        self, values: Mapping[str, str], documents: Mapping[str, Document] = _NO_DOCUMENTS
    ) -> str | None:
        """Why a row with these texts cannot be sent, as a short text that groups well, or None."""
        if self._limit_column is not None and self._limit(values) is None:
            most = self.declaration.max_tokens
            return (
                f"max_tokens in column '{self._limit_column}' is no whole number from 1 to {most}"
            )
        return self.prompt.problem(values, has_documents=bool(documents))

    def _limit(self, values: Mapping[str, str]) -> int | None:
        """The row's own `max_tokens`; None: it is none that may be asked for, or none is declared
        to be."""
        if self._limit_column is None:
            return None
        found = _WHOLE_NUMBER.fullmatch(values[self._limit_column].strip())
        number = 0 if found is None else int(found[1])
        return number if 1 <= number <= self.declaration.max_tokens else None

    # --- requests --------------------------------------------------------------------------------

    def pieces(
        self,
        values: Mapping[str, str],
        documents: Mapping[str, Document] = _NO_DOCUMENTS,
        further: Further | None = None,
        opener: Opener | None = None,
    ) -> Iterator[bytes]:
        """The Messages parameters of a row with these texts and documents, in pieces of at most
        256 KiB; documents are read from the `opener` meanwhile.

        `further` turns follow those of the prompt.
        """
        return in_pieces(self._segments(values, documents, further), opener)

    def build(
        self,
        values: Mapping[str, str],
        documents: Mapping[str, Document] = _NO_DOCUMENTS,
        further: Further | None = None,
        opener: Opener | None = None,
    ) -> bytes:
        """The same in one piece."""
        return b"".join(self.pieces(values, documents, further, opener))

    def measure(
        self,
        values: Mapping[str, str],
        documents: Mapping[str, Document] = _NO_DOCUMENTS,
        further: Further | None = None,
    ) -> Size:
        """Fingerprint and sizes of what `build` makes; no document is opened for it.

        In the fingerprint a document is its source's hash, the pages sent, and how it is sent. So
        is a text that was taken out of one, whatever the library that did it.
        """
        digest, base64 = self._digest.copy(), 0
        # Without the blanks of a row's own limit, which go by the declared one.
        limit = self._limit(values)
        digest.update(self._head(limit, is_padded=False))
        size = len(self._head(limit))
        for segment in itertools.islice(self._segments(values, documents, further), 1, None):
            if isinstance(segment, Data):
                digest.update(segment.known_by)
                size += segment.size
                base64 += segment.base64_bytes
            else:
                digest.update(segment)
                size += len(segment)
        known_by = digest.hexdigest()[:FINGERPRINT_CHARACTERS]
        if not documents:
            return Size(known_by, size)
        shown = visual_tokens(map(visual_of, documents.values()), self.declaration.model_id)
        texts = sum(each.text_bytes or 0 for each in documents.values() if not each.as_text)
        return Size(known_by, size, size - base64 + texts + shown, shown)

    def splice(self, row: bytes, places: Sequence[int]) -> bytes:
        """What `build` makes of a row whose texts stand at these places (`row_json.places_of`)."""
        if not self._is_flat:
            return self.rebuild(row)
        pieces: list[bytes] = [self._first]
        for at, literal in self._slots:
            pieces += (row[places[at] : places[at + 1]], literal)
        return b"".join(pieces)

    def fingerprint_and_size(self, row: bytes, places: Sequence[int]) -> tuple[str, int]:
        """The fingerprint and the bytes of what `splice` makes of a row, without making it."""
        if not self._is_flat:
            parts = self.parts_of(row_of_json(row))
            return self.measure(parts.values, parts.documents)[:2]
        digest, size = self._begun.copy(), self.constant_bytes
        for at, literal in self._slots:
            text = row[places[at] : places[at + 1]]
            digest.update(text)
            digest.update(literal)
            size += len(text)
        return digest.hexdigest()[:FINGERPRINT_CHARACTERS], size

    def rebuild_pieces(
        self,
        row: bytes,
        places: Sequence[int] | None = None,
        further: Further | None = None,
        opener: Opener | None = None,
    ) -> Iterator[bytes]:
        """The parameters of a row that the snapshot holds as sendable, as `pieces`."""
        if places is not None and further is None and self._is_flat:
            return iter((self.splice(row, places),))
        parts = self.parts_of(row_of_json(row))
        assert parts.problem is None, parts.problem
        return self.pieces(parts.values, parts.documents, further, opener)

    def rebuild(
        self,
        row: bytes,
        places: Sequence[int] | None = None,
        further: Further | None = None,
        opener: Opener | None = None,
    ) -> bytes:
        """The same in one piece."""
        return b"".join(self.rebuild_pieces(row, places, further, opener))

    def fingerprint(self, params: bytes) -> str:
        """32 hex characters over the parameters, which hold no document, and the betas."""
        digest = self._digest.copy()
        digest.update(params)
        return digest.hexdigest()[:FINGERPRINT_CHARACTERS]

    def growth(self, further: Further) -> int:
        """The bytes that further turns and a container add to a request."""
        return len(further.turns) + len(self._tail(further)) - len(self._tail(_NOTHING_FURTHER))

    # --- how a request is put together -----------------------------------------------------------

    def _opening(self) -> dict[str, Any]:
        """The parameters before the messages."""
        declaration = self.declaration
        before: dict[str, Any] = {
            "model": declaration.model_id,
            "max_tokens": declaration.max_tokens,
        }
        if declaration.system is not None:
            before["system"] = declaration.system
            if self._mark == "system":
                before["system"] = cache_marks.marked_system(declaration.system, self._lifetime)
        return before

    def _closing(self) -> dict[str, Any]:
        """The parameters after them, sorted at the top only: inside a value (a schema, a tool) the
        declared order can matter to the model."""
        declaration = self.declaration
        after = {key: declaration.params[key] for key in sorted(declaration.params)}
        if self._mark == "tools":
            after["tools"] = cache_marks.marked_tools(after["tools"], self._lifetime)
        if declaration.output_schema is not None:
            output_format = {"type": "json_schema", "schema": declaration.output_schema}
            after["output_config"] = {**after.get("output_config", {}), "format": output_format}
        return after

    def _head(self, limit: int | None = None, *, is_padded: bool = True) -> bytes:
        """The beginning of a request; a row's own limit is as wide as the declared one, so that all
        requests have the same constant length."""
        before = self._before
        if limit is not None:
            width = len(str(self.declaration.max_tokens)) if is_padded else 0
            before = {**before, "max_tokens": orjson.Fragment(f"{limit:{width}}")}
        return orjson.dumps(before)[:-1] + b',"messages":['

    def _tail(self, further: Further = _NOTHING_FURTHER) -> bytes:
        after = self._after
        if further.container is not None:
            declared = after.get("container")
            container: object = further.container
            if isinstance(declared, dict):
                container = {**declared, "id": further.container}
            after = {**after, "container": container}
        return b"]" + (b"," + orjson.dumps(after)[1:] if after else b"}")

    def _flattened(self, turns: Sequence[PromptTurn]) -> _Flat:
        """A request in which all placeholders are texts."""
        limit = None if self._limit_column is None else self.declaration.max_tokens
        constants, slots, pending = [], [], self._head(limit)
        for number, turn in enumerate(turns):
            template = turn.template
            opening, closing = b'"', b'"'
            literals = template.literals
            if self._is_marked(number):
                opening, literals, closing = cache_marks.as_blocks(template, self._lifetime)
            pending += self._begun_turn(number, turn) + opening
            first, *others = (orjson.dumps(literal)[1:-1] for literal in literals)
            pending += first
            for slot, literal in zip(template.slots, others, strict=True):
                constants.append(pending)
                slots.append(slot)
                pending = literal
            pending += closing + b"}"
        constants.append(pending + self._tail())
        return _Flat(tuple(constants), tuple(slots))

    def _begun_turn(self, number: int, turn: PromptTurn) -> bytes:
        role = orjson.dumps(turn.role)
        return b'%s{"role":%s,"content":' % (b"," if number else b"", role)

    def _is_marked(self, number: int) -> bool:
        """Whether the turn of this number, examples counted, carries the cache mark."""
        if self._mark not in ("message", "turns"):
            return False
        shared = self.prompt.shared
        return shared is not None and shared.turn == number

    def _may_lack_the_rest(self) -> bool:
        """Whether the text after a mark may show nothing though the row has a text: the API takes
        no block without a text."""
        shared = self.prompt.shared
        if self._mark not in ("message", "turns") or shared is None or shared.whole:
            return False
        marked = self.prompt.fixed_turns[shared.turn].template
        return not set(self._slot_names) <= set(marked.slots)

    def _segments(
        self,
        values: Mapping[str, str],
        documents: Mapping[str, Document],
        further: Further | None,
    ) -> Iterator[bytes | Data]:
        """The request as bytes, and what stands for the content of documents."""
        further = further or _NOTHING_FURTHER
        if self._mark is None:
            yield from self._body(values, documents, further, 0)
            return
        assert self._plain is not None
        # Blanks before the last parameters make up for what a mark is shorter by in this row.
        wanted = self._plain.measure(values, documents, further).request_bytes
        wanted += self.constant_bytes - self._plain.constant_bytes
        segments = self._body(values, documents, further, 0)
        shorter = wanted - sum(e.size if isinstance(e, Data) else len(e) for e in segments)
        assert shorter >= 0, shorter
        yield from self._body(values, documents, further, shorter)

    def _body(
        self,
        values: Mapping[str, str],
        documents: Mapping[str, Document],
        further: Further,
        blanks: int,
    ) -> Iterator[bytes | Data]:
        yield self._head(self._limit(values))
        for number, turn in enumerate(self.prompt.turns_of(self._key(values, documents))):
            yield self._begun_turn(number, turn)
            lifetime = self._lifetime if self._is_marked(number) else None
            yield from self._blocks.content(turn.template, values, documents, lifetime)
            yield b"}"
        yield further.turns
        tail = self._tail(further)
        yield tail[:1] + b" " * blanks + tail[1:]

    def _key(self, values: Mapping[str, str], documents: Mapping[str, Document]) -> list[str]:
        """What a row's examples are chosen by: equal rows make equal requests."""
        if self.prompt.count is None:
            return []
        key = []
        for slot in map(Slot.of, self.prompt.columns):
            if slot.name in values:
                key.append(values[slot.name])
            else:
                document = documents[slot.column]
                key.append(f"{document.sha256} {document.sent_pages}")
        return key


def mark_bytes(spec: JobSpec) -> int:
    """How much longer each request of a job may be by a cache mark, in bytes."""
    if spec.caching == "off":
        return 0
    declaration = Declaration.of(spec)
    marked, plain = RequestBuilder(declaration, "1h"), RequestBuilder(declaration)
    return marked.constant_bytes - plain.constant_bytes
