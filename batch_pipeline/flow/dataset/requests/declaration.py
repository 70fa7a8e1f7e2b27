"""What a job's requests are made of: its declaration, and the ids and sizes of requests.

A declaration is everything in a job that shapes its requests. It is stored with every snapshot, so
that a request is the same to the byte when it is made again after a crash. A fingerprint is a hash
of the parameters as declared: as long as it stays the same, nothing is bought again. How requests
are serialized is therefore a promise to existing ledgers; `FINGERPRINT_VERSION` changes with it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from batch_pipeline.jobs.input.documents import PdfSpec
from batch_pipeline.jobs.prompts.prompts import PromptSpec
from batch_pipeline.jobs.spec import MAX_REQUESTS_PER_BATCH, JobSpec

if TYPE_CHECKING:
    from batch_pipeline.ledger.snapshots import NewSnapshot

FINGERPRINT_VERSION = 1
FINGERPRINT_CHARACTERS = 32
BODY_START = b'{"requests":['
# The last chunk of a body: it leaves only once the submission is sealed.
BODY_END = b"]}"
# Fields of a declaration that say which rows make a request.
SELECTING = ("filters", "near_duplicates")
# Fields that ledgers have only where they are declared.
_LEFT_OUT = (*SELECTING, "routes", "messages", "examples", "documents", "max_tokens_column")
CUSTOM_ID = re.compile(r"([a-z2-7]{16})_([0-9]{1,9})")


@dataclass(frozen=True)
class Turn:
    """A turn of the prompt; a user's is a template."""

    role: str
    text: str


@dataclass(frozen=True)
class Route:
    """Rows for which `where` is true ask this model, with these parameters; or, where `equals`
    names one, rows with this value in this column."""

    where: str
    model_id: str
    max_tokens: int
    params: dict[str, Any]
    equals: tuple[str, str] | None = None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Route:
        equals = data.get("equals")
        return cls(**{**data, "equals": None if equals is None else tuple(equals)})

    def to_json(self) -> dict[str, Any]:
        # What is not declared is left out, as in ledgers that were written before it could be.
        return {name: value for name, value in asdict(self).items() if value is not None}


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
    system: str | list[dict[str, Any]] | None
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
    messages: tuple[Turn, ...] = ()
    examples: dict[str, Any] | None = None
    documents: dict[str, Any] | None = None
    max_tokens_column: str | None = None

    @classmethod
    def of(cls, spec: JobSpec) -> Declaration:
        envelope = len(BODY_START) + len(BODY_END) + wire_overhead(MAX_REQUESTS_PER_BATCH)
        return cls(
            model_id=spec.model_id,
            max_tokens=spec.max_tokens,
            system=spec.prompt.system_as_sent(),
            user=spec.prompt.user or "",
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
            routes=_routes_of(spec),
            messages=tuple(Turn(turn.role, turn.text) for turn in spec.prompt.messages),
            examples=_examples_of(spec.prompt),
            documents=_documents_of(spec),
            max_tokens_column=spec.per_row.max_tokens,
        )

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Declaration:
        return cls(
            **{
                **data,
                "betas": tuple(data["betas"]),
                "routes": tuple(map(Route.from_json, data.get("routes", ()))),
                "messages": tuple(Turn(**turn) for turn in data.get("messages", ())),
            }
        )

    def to_json(self) -> dict[str, Any]:
        data = {
            **asdict(self),
            "betas": list(self.betas),
            "routes": [route.to_json() for route in self.routes],
            "messages": list(map(asdict, self.messages)),
        }
        # What is not declared is left out, as in ledgers that were written before it could be.
        absent = {name for name in _LEFT_OUT if not data[name]}
        return {name: value for name, value in data.items() if name not in absent}

    @property
    def all_turns(self) -> tuple[Turn, ...]:
        """The turns of the prompt, the last one the user's."""
        return self.messages or (Turn("user", self.user),)

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


def _routes_of(spec: JobSpec) -> tuple[Route, ...]:
    asked = [each for _, each in spec.asked_by_routes()]
    by_row = spec.per_row.model_id
    if by_row is None:
        return tuple(
            Route(route.where, each.model_id, each.max_tokens, dict(each.params))
            for route, each in zip(spec.routes, asked, strict=True)
        )
    return tuple(
        Route("", each.model_id, each.max_tokens, dict(each.params), (by_row.column, each.model_id))
        for each in asked
    )


def _examples_of(prompt: PromptSpec) -> dict[str, Any] | None:
    """The examples as texts, so that requests are the same whatever becomes of their file."""
    if prompt.examples is None:
        return None
    turns = {"turns": [list(pair) for pair in prompt.example_pairs]}
    if prompt.examples.is_fixed:
        return turns
    return {**turns, "count": prompt.examples.count, "seed": prompt.examples.seed}


def _documents_of(spec: JobSpec) -> dict[str, Any] | None:
    """What holds for all documents, as far as it is not the default; None: all of it is."""
    pdf = spec.input.pdf
    declared = {
        "citations": spec.prompt.citations,
        "titles": dict(spec.prompt.titles),
        "pdf": None if pdf == PdfSpec() else pdf.model_dump(mode="json"),
    }
    return {name: value for name, value in declared.items() if value} or None


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
