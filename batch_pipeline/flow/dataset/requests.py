"""From a declaration and a row to Messages parameters, their fingerprint and their wire form.

A declaration is everything in a job that shapes its requests. It is stored with every snapshot, so
that a request is the same to the byte when it is made again after a crash. A fingerprint is a hash
of the parameters as declared: as long as it stays the same, nothing is bought again. How requests
are serialized is therefore a promise to existing ledgers; `FINGERPRINT_VERSION` changes with it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from batch_pipeline.flow.dataset import cache_marks
from batch_pipeline.flow.dataset.further import Further
from batch_pipeline.flow.dataset.reading.row_json import row_values
from batch_pipeline.flow.dataset.template import Template, is_blank
from batch_pipeline.jobs.spec import MAX_REQUESTS_PER_BATCH, JobSpec
from batch_pipeline.pricing.tokens import Lifetime

if TYPE_CHECKING:
    from batch_pipeline.ledger.snapshots import NewSnapshot

FINGERPRINT_VERSION = 1
FINGERPRINT_CHARACTERS = 32
BODY_START = b'{"requests":['
# The last chunk of a body: it leaves only once the submission is sealed.
BODY_END = b"]}"
# Fields of a declaration that say which rows make a request.
SELECTING = ("filters", "near_duplicates")
CUSTOM_ID = re.compile(r"([a-z2-7]{16})_([0-9]{1,9})")


@dataclass(frozen=True)
class Route:
    """Rows for which `where` is true ask this model, with these parameters."""

    where: str
    model_id: str
    max_tokens: int
    params: dict[str, Any]


@dataclass(frozen=True)
class Declaration:
    """The part of a job that shapes its requests, and how their answers are read.

    A request of more than `max_request_bytes` fits in no batch. What is in `SELECTING` shapes no
    request, and is no part of the hash: it says which rows make one (None: all). The first of the
    `routes` that matches makes a row's request; rows that none matches are asked as the job itself
    declares.
    """

    model_id: str
    max_tokens: int
    system: str | None
    user: str
    params: dict[str, Any]
    betas: tuple[str, ...]
    output_schema: dict[str, Any] | None
    deduplicate: bool
    id_column: str
    max_request_bytes: int
    fingerprint_version: int = FINGERPRINT_VERSION
    filters: dict[str, Any] | None = None
    near_duplicates: dict[str, Any] | None = None
    routes: tuple[Route, ...] = ()

    @classmethod
    def of(cls, spec: JobSpec) -> Declaration:
        envelope = len(BODY_START) + len(BODY_END) + wire_overhead(MAX_REQUESTS_PER_BATCH)
        return cls(
            model_id=spec.model_id,
            max_tokens=spec.max_tokens,
            system=spec.prompt.system,
            user=spec.prompt.user,
            params=dict(spec.params),
            betas=tuple(spec.betas),
            output_schema=None if spec.output_schema is None else dict(spec.output_schema),
            deduplicate=spec.deduplicate,
            id_column=spec.input.id_column,
            max_request_bytes=spec.limits.max_bytes_per_batch - envelope,
            filters=spec.filters.model_dump(mode="json") if spec.filters.declared else None,
            near_duplicates=None
            if spec.near_duplicates is None
            else spec.near_duplicates.model_dump(mode="json", include={"threshold", "action"}),
            routes=tuple(
                Route(route.where, asked.model_id, asked.max_tokens, dict(asked.params))
                for route, (_, asked) in zip(spec.routes, spec.asked_by_routes(), strict=True)
            ),
        )

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Declaration:
        routes = tuple(Route(**route) for route in data.get("routes", ()))
        return cls(**{**data, "betas": tuple(data["betas"]), "routes": routes})

    def to_json(self) -> dict[str, Any]:
        data = {**asdict(self), "betas": list(self.betas), "routes": list(map(asdict, self.routes))}
        # What is not declared is left out, as in ledgers that were written before it could be.
        absent = {name for name in SELECTING if data[name] is None}
        if not self.routes:
            absent.add("routes")
        return {name: value for name, value in data.items() if name not in absent}

    @property
    def selecting(self) -> dict[str, Any]:
        """What says which rows make a request, as far as it is declared."""
        found = {name: getattr(self, name) for name in SELECTING}
        return {name: value for name, value in found.items() if value is not None}

    def has_made(self, snapshot: NewSnapshot) -> bool:
        """Whether a snapshot was taken under this declaration, with the same choice of rows."""
        same = all(snapshot.declaration.get(name) == getattr(self, name) for name in SELECTING)
        return snapshot.declaration_hash == self.hash and same

    def by_route(self) -> dict[str | None, Declaration]:
        """What makes the requests of each route, by its name: its place in the list, counted from
        1. Under None that of the rows which no route matches."""
        own = replace(self, routes=())
        return {None: own} | {
            str(number): replace(
                own, model_id=route.model_id, max_tokens=route.max_tokens, params=route.params
            )
            for number, route in enumerate(self.routes, 1)
        }

    @property
    def hash(self) -> str:
        """SHA-256 in hex: changes when what a row is asked, or how it is read, may change."""
        shaping = {key: value for key, value in self.to_json().items() if key not in SELECTING}
        return hashlib.sha256(orjson.dumps(shaping)).hexdigest()


class RequestBuilder:
    """Makes the requests of one declaration; what they have in common is serialized once.

    A request is made from the texts of a row (`build`), or from the row's JSON and the places of
    its texts there (`splice`), to the same bytes: JSON escapes character by character, so that the
    prompt as JSON is its parts as JSON, put together.

    With a `lifetime` the shared prefix of each request carries a cache mark (`cache_marks`). Marks
    are no part of a fingerprint: fingerprints and sizes are asked of a builder without.
    """

    def __init__(self, declaration: Declaration, lifetime: Lifetime | None = None) -> None:
        self._template = Template.parse(declaration.user)
        self.columns = self._template.columns
        self.declaration = declaration
        place = None if lifetime is None else cache_marks.place_of(declaration)
        # Sorted at the top only: inside a value (a schema, a tool) the declared order can matter
        # to the model.
        after = {key: declaration.params[key] for key in sorted(declaration.params)}
        if place == "tools":
            after["tools"] = cache_marks.marked_tools(after["tools"], lifetime)
        if declaration.output_schema is not None:
            output_format = {"type": "json_schema", "schema": declaration.output_schema}
            after["output_config"] = {**after.get("output_config", {}), "format": output_format}
        before: dict[str, Any] = {
            "model": declaration.model_id,
            "max_tokens": declaration.max_tokens,
        }
        if declaration.system is not None:
            text = declaration.system
            marked = place == "system"
            before["system"] = [cache_marks.block(text, lifetime)] if marked else text
        opening, closing = b"", b""
        if place == "message":
            self._template, opening, closing = cache_marks.as_blocks(self._template, lifetime)
        self._prefix = (
            orjson.dumps(before)[:-1] + b',"messages":[{"role":"user","content":' + opening
        )
        self._suffix = closing + b"}]" + (b"," + orjson.dumps(after)[1:] if after else b"}")
        first, *others = (orjson.dumps(part)[1:-1] for part in self._template.literals)
        self._first = b'"' + first
        # Of each text that is put in: which of the places it begins at, and what follows it.
        self._slots = [
            (2 * self.columns.index(slot), literal)
            for slot, literal in zip(self._template.slots, others, strict=True)
        ]
        self._last = b'"' + self._suffix
        constant = [self._prefix, self._first, *others, self._last]
        # The bytes of a request beside the texts of its row.
        self.constant_bytes = sum(map(len, constant))
        betas = orjson.dumps(list(declaration.betas))
        self._digest = hashlib.sha256(b"%d\n%s\n" % (FINGERPRINT_VERSION, betas))
        # What all requests begin with is hashed once.
        self._begun = self._digest.copy()
        self._begun.update(self._prefix + self._first)

    def problem(self, values: dict[str, str]) -> str | None:
        """Why a row with these texts cannot be sent, as a short text that groups well, or None.

        A document is what the template's columns hold together: without any of it the model would
        answer the instruction alone.
        """
        for text in values.values():
            if not is_blank(text):
                return None
        return "blank document" if values else None

    def build(self, values: dict[str, str]) -> bytes:
        """The Messages parameters of a row with these texts."""
        prompt = orjson.dumps(self._template.render(values))
        return b"".join((self._prefix, prompt, self._suffix))

    def splice(self, row: bytes, places: Sequence[int]) -> bytes:
        """What `build` makes of a row whose texts stand at these places (`row_json.places_of`)."""
        pieces: list[bytes] = [self._prefix, self._first]
        for at, literal in self._slots:
            pieces += (row[places[at] : places[at + 1]], literal)
        pieces.append(self._last)
        return b"".join(pieces)

    def fingerprint_and_size(self, row: bytes, places: Sequence[int]) -> tuple[str, int]:
        """The fingerprint and the bytes of what `splice` makes of a row, without making it."""
        digest, size = self._begun.copy(), self.constant_bytes
        for at, literal in self._slots:
            text = row[places[at] : places[at + 1]]
            digest.update(text)
            digest.update(literal)
            size += len(text)
        digest.update(self._last)
        return digest.hexdigest()[:FINGERPRINT_CHARACTERS], size

    def rebuild(
        self, row: bytes, places: Sequence[int] | None = None, further: Further | None = None
    ) -> bytes:
        """The parameters of a row that the snapshot holds as sendable, with further turns."""
        if places is not None:
            params = self.splice(row, places)
        else:
            values, problem = row_values(row, self.columns)
            assert problem is None, problem
            params = self.build(values)
        if further is None:
            return params
        place = len(params) - len(self._suffix) + self._suffix.index(b"}]") + 1
        container = b""
        if further.container is not None:
            container = b',"container":' + orjson.dumps(further.container)
        return params[:place] + further.turns + params[place:-1] + container + b"}"

    def fingerprint(self, params: bytes) -> str:
        """32 hex characters over the parameters and the betas."""
        digest = self._digest.copy()
        digest.update(params)
        return digest.hexdigest()[:FINGERPRINT_CHARACTERS]


def mark_bytes(spec: JobSpec) -> int:
    """How much longer each request of a job may be by a cache mark, in bytes."""
    if spec.caching == "off":
        return 0
    declaration = Declaration.of(spec)
    marked, plain = RequestBuilder(declaration, "1h"), RequestBuilder(declaration)
    return marked.constant_bytes - plain.constant_bytes


def unit_of(fingerprint: str, item_id: str, *, deduplicate: bool) -> str:
    """What is bought once: the fingerprint, or with it the id where a job does not deduplicate."""
    if deduplicate:
        return fingerprint
    return hashlib.sha256(f"{fingerprint}\n{item_id}".encode()).hexdigest()[:FINGERPRINT_CHARACTERS]


def custom_id(token: str, number: int) -> str:
    """The wire id of a shard's request: `^[a-zA-Z0-9_-]{1,64}$`, and proof of whose batch it is."""
    return f"{token}_{number}"


def parse_custom_id(text: object) -> tuple[str, int] | None:
    """Token and number; None for an id that is not of this form."""
    match = CUSTOM_ID.fullmatch(text) if isinstance(text, str) else None
    return None if match is None else (match[1], int(match[2]))


def wire_overhead(number: int) -> int:
    """Bytes of a request on the wire beyond its parameters, the comma before it included."""
    return len(b',{"custom_id":"","params":}') + 16 + 1 + len(str(number))


def body_length(params_bytes: Iterable[int]) -> int:
    """Bytes of a create body with parameters of these sizes."""
    sizes = list(params_bytes)
    count = len(sizes)
    digits = sum(max(0, count - first) for first in (10, 100, 1_000, 10_000, 100_000))
    requests = sum(sizes) + count * wire_overhead(0) + digits
    return len(BODY_START) + max(0, requests - 1) + len(BODY_END)
