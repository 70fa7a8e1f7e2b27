"""Variants: the ways in which a request is asked otherwise than the job's own model is asked.

The row's route asks another model; an answer was cut off, and is given more room; an answer failed
or is unsure, and a stronger model is asked; an answer is sent back, with what is wrong with it or
for the API to go on (`further_turns`). An answer to a variant
stands for the original request: unit and fingerprint are those of the request as its route declares
it. Which variant a request was asked as stands in its shard's manifest, with the definition of the
variant, so that a body can be reproduced to the byte whatever the job says by then. Price, bound
and rate limit follow from the variant. Whether an answer is final is `outcomes`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.flow.answers.outcomes import (
    EXPLICABLE,
    PAUSE_TURN,
    Action,
    Outcome,
    with_more_room,
)
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.further import Further
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.jobs.routes import EscalateSpec
from batch_pipeline.jobs.spec import RetrySpec
from batch_pipeline.pricing.documents import MAX_REQUEST_BYTES, tier_factor
from batch_pipeline.pricing.tokens import Lifetime

# In the metadata of a manifest file: the definitions of the variants that it names.
_METADATA_KEY = b"variants"
# A name has these parts, joined by "+": the route or `ESCALATED`, `MORE_ROOM`, and of `FURTHER`
# what the further turns are for, which changes neither model nor parameters.
ESCALATED = "escalate"
MORE_ROOM = "more_room"
EXPLAINED = "explain"
CONTINUED = "continue"
FURTHER = (EXPLAINED, CONTINUED)
# Conditions on a column `variant`.
IS_ESCALATED = f"coalesce(starts_with(variant, '{ESCALATED}'), false)"
HAS_FURTHER_TURNS = {name: f"contains(coalesce(variant, ''), '{name}')" for name in FURTHER}
# How often a paused answer is sent back for the API to go on.
MOST_CONTINUATIONS = 10


@dataclass(frozen=True)
class Variant:
    """What a request is asked with in place of what is declared; None: as declared."""

    name: str
    max_tokens: int
    model_id: str | None = None
    params: dict[str, Any] | None = None

    @classmethod
    def of(cls, name: str, asked: Declaration) -> Variant:
        return cls(name, asked.max_tokens, asked.model_id, asked.params)

    def declared_as(self, declaration: Declaration) -> Declaration:
        """The declaration that makes this variant of its requests.

        More room, and a stronger model, are given whatever limit the row has of its own.
        """
        own = not {ESCALATED, MORE_ROOM} & {*_parts(self.name)}
        return replace(
            declaration,
            max_tokens_column=declaration.max_tokens_column if own else None,
            max_tokens=self.max_tokens,
            model_id=self.model_id or declaration.model_id,
            params=declaration.params if self.params is None else self.params,
        )


def with_definitions(manifest: pa.Table, variants: Sequence[Variant]) -> pa.Table:
    """A manifest that carries these definitions in its metadata."""
    known = [{k: v for k, v in asdict(each).items() if v is not None} for each in variants]
    definitions = orjson.dumps(known)
    return manifest.replace_schema_metadata({_METADATA_KEY: definitions})


def declarations_of(manifest: pa.Table, declaration: Declaration) -> dict[str | None, Declaration]:
    """What the requests of a manifest are made with, by the name in its column `variant`.

    Under None the declaration itself. Of the manifest the metadata alone are looked at.
    """
    definitions = orjson.loads((manifest.schema.metadata or {}).get(_METADATA_KEY, b"[]"))
    variants = [Variant(**definition) for definition in definitions]
    return {None: declaration} | {each.name: each.declared_as(declaration) for each in variants}


def builders_of(
    declared: Mapping[str | None, Declaration],
    caching: Lifetime | None = None,
    marked: Collection[str] | None = None,
) -> dict[str | None, RequestBuilder]:
    """What makes the requests of a manifest, by the name in its column `variant`; with `caching`
    those of the `marked` models, None: of all, carry cache marks."""
    return {
        name: RequestBuilder(asked, caching if marked is None or asked.model_id in marked else None)
        for name, asked in declared.items()
    }


def marks_of(
    declared: Mapping[str | None, Declaration], builders: Mapping[str | None, RequestBuilder]
) -> dict[str | None, int]:
    """By how many bytes cache marks make the requests longer, by the name of the variant."""
    plain = builders_of(declared)
    return {name: builders[name].constant_bytes - plain[name].constant_bytes for name in builders}


def _parts(name: str | None) -> Sequence[str]:
    return name.split("+") if name else ()


def is_escalated(name: str | None) -> bool:
    return ESCALATED in _parts(name)


def has_further_turns(name: str | None) -> bool:
    return any(part in FURTHER for part in _parts(name))


def first_attempt(name: str | None, tried: int) -> int:
    """Which attempt an answer counts as for the breaker: one to a request with further turns counts
    as the first, in place of the answer that was sent back and did not count."""
    return 1 if has_further_turns(name) else tried


@dataclass(frozen=True, slots=True)
class Asked:
    """How a request was asked: its variant and route, and its size in bytes, of which its further
    turns take `further_bytes`; `continuations` counts how often a paused answer went
    on."""

    variant: str | None
    route: str | None
    request_bytes: int
    further_bytes: int = 0
    continuations: int = 0

    @property
    def own_bytes(self) -> int:
        return self.request_bytes - self.further_bytes


@dataclass(frozen=True)
class _Step:
    """A variant that may follow the first answer, what it adds to a request in bytes, and by how
    much the tokens of pages and images grow at most."""

    variant: Variant
    growth: int
    visual_factor: float = 1.0


class Ways:
    """The ways in which a job asks its requests now: by route, with more room, and escalated."""

    def __init__(self, retry: RetrySpec, declaration: Declaration) -> None:
        self._most_bytes = min(declaration.max_request_bytes, MAX_REQUEST_BYTES)
        self._explains = retry.explain
        self._outcomes = () if retry.escalate is None else retry.escalate.outcomes
        routes = declaration.by_route()
        self._own = routes[None]
        # What makes the requests of a variant, where the size of its further turns is asked for.
        self._builders: dict[str | None, RequestBuilder] = {}
        self._routes = {
            name: Variant.of(name, asked) for name, asked in routes.items() if name is not None
        }
        self._rooms: dict[str | None, _Step] = {}
        self._stronger: dict[str | None, _Step] = {}
        escalated = _escalated(retry.escalate, routes[None])
        for name, asked in routes.items():
            larger = retry.truncated_max_tokens
            # The snapshot may still be that of a declaration with more room than this one.
            if larger is not None and larger > asked.max_tokens:
                room = f"{name}+{MORE_ROOM}" if name else MORE_ROOM
                roomy = replace(asked, max_tokens=larger)
                variant = Variant.of(room, roomy) if name else Variant(room, larger)
                self._rooms[name] = _Step(variant, _growth(asked, roomy))
            if escalated is not None and escalated.model_id != asked.model_id:
                variant = Variant.of(ESCALATED, escalated)
                factor = tier_factor(asked.model_id, escalated.model_id)
                self._stronger[name] = _Step(variant, _growth(asked, escalated), factor)

    def after(self, asked: Asked, outcome: Outcome, turn_bytes: int = 0) -> Outcome:
        """What an answer that is no success means for a request that was `asked` so: what may
        better it. Sent back, it would take `turn_bytes` of a further request; 0: it cannot be.

        A paused answer goes on. More room is given once, what broke the schema is explained once,
        and the stronger model is the last one to be asked.
        """
        fits = bool(turn_bytes) and asked.request_bytes + turn_bytes <= self._most_bytes
        if outcome.error_type == f"stop_reason:{PAUSE_TURN}":
            outcome = _after_pause(outcome, asked.continuations, fits=fits)
            if outcome.action is Action.CONTINUE:
                return outcome
        parts, route = _parts(asked.variant), asked.route
        own_bytes = asked.own_bytes
        if not {MORE_ROOM, ESCALATED} & {*parts} and self.more_room(route, own_bytes) is not None:
            outcome = with_more_room(outcome)
        if outcome.action is not Action.SET_ASIDE or ESCALATED in parts:
            return outcome
        if self._explains and fits and EXPLAINED not in parts and outcome.error_type in EXPLICABLE:
            return replace(outcome, action=Action.EXPLAIN)
        betters = outcome.status in self._outcomes
        if betters and self.stronger(route, own_bytes) is not None:
            return replace(outcome, action=Action.ESCALATE)
        return outcome

    def definitions(self, named: Iterable[str | None] = ()) -> list[Variant]:
        """All variants that a manifest may name, of those with further turns the `named` ones."""
        known = self._without_further()
        further = {name: self._variant(name) for name in named if has_further_turns(name)}
        return [*known.values(), *further.values()]

    def _without_further(self) -> dict[str, Variant]:
        steps = [*self._rooms.values(), *self._stronger.values()]
        every = [*self._routes.values(), *(step.variant for step in steps)]
        return {each.name: each for each in every}

    def _variant(self, name: str | None) -> Variant:
        base = "+".join(part for part in _parts(name) if part not in FURTHER)
        own = Variant("", self._own.max_tokens)
        return replace(self._without_further()[base] if base else own, name=name or "")

    def more_room(self, route: str | None, request_bytes: int) -> str | None:
        """The name of the variant with a larger `max_tokens`, for a request of this size, in bytes;
        None: the job declares none, or the request would be too large."""
        return self._fitting(self._rooms.get(route), request_bytes)

    def stronger(self, route: str | None, request_bytes: int) -> str | None:
        """The same of the variant that asks the stronger model."""
        return self._fitting(self._stronger.get(route), request_bytes)

    def _fitting(self, step: _Step | None, request_bytes: int) -> str | None:
        fits = step is not None and request_bytes + step.growth <= self._most_bytes
        return step.variant.name if step is not None and fits else None

    def _growth(self, name: str | None, further: Further) -> int:
        """The bytes that further turns add to a request that is asked as this variant."""
        if name not in self._builders:
            self._builders[name] = RequestBuilder(self._variant(name).declared_as(self._own))
        return self._builders[name].growth(further)

    def given_to(self, units: pa.Table) -> pa.Table:
        """Open units with the column `variant`, and the sizes that each request then has.

        `route` says how each is asked at first; of the columns in place of `variant`, `cut_off`
        says that an earlier answer ended at `max_tokens`, and `escalate` that the stronger model is
        asked now. Only one of the two is true of a unit. `explained` is NULL where there are no
        further turns. These are left out where the request would be too large, or the job explains
        no more.
        """
        before = units.column("request_bytes")
        visual_before = units.column("visual_tokens")
        sizes: Any = before
        visual: Any = visual_before
        names: Any = pa.nulls(units.num_rows, pa.string())
        if self._routes:
            known = pc.is_in(units.column("route"), pa.array(list(self._routes), pa.string()))
            names = pc.if_else(known, units.column("route"), names)
        for column, steps in (("cut_off", self._rooms), ("escalate", self._stronger)):
            for route, step in steps.items():
                fits = pc.less_equal(pc.add(sizes, step.growth), self._most_bytes)
                asked = pc.and_(units.column(column), fits)
                if self._routes:
                    asked = pc.and_(asked, _is(units.column("route"), route))
                names = pc.if_else(asked, pa.scalar(step.variant.name), names)
                sizes = pc.if_else(asked, pc.add(sizes, step.growth), sizes)
                if step.visual_factor > 1:
                    grown = pc.ceil(pc.multiply(visual, step.visual_factor)).cast(pa.int64())
                    visual = pc.if_else(asked, grown, visual)
        explained = units.column("explained")
        if explained.null_count < len(explained):
            units, names, sizes = self._with_further(units, names.to_pylist(), sizes.to_pylist())
        # NULL stays NULL: the prompt of a request without documents has the size of the request.
        seen = pc.fill_null(pc.subtract(visual, visual_before), 0)
        prompts = pc.add(units.column("prompt_size"), pc.add(pc.subtract(sizes, before), seen))
        columns = {"request_bytes": sizes, "prompt_size": prompts, "visual_tokens": visual}
        for name, values in columns.items():
            units = units.set_column(units.schema.get_field_index(name), name, values)
        dropped = ["cut_off", "escalate", "explained"]
        return units.drop_columns(dropped).append_column("variant", names)

    def _with_further(
        self, units: pa.Table, names: list[str | None], sizes: list[int]
    ) -> tuple[pa.Table, pa.Array, pa.Array]:
        """The units, and the names of their variants and their sizes, with their further turns."""
        columns = ("turns", "container", "continuations")
        further = list(zip(*(units.column(name).to_pylist() for name in columns), strict=True))
        reasons = (units.column(name).to_pylist() for name in ("explained", "escalate"))
        for place, (explained, escalate) in enumerate(zip(*reasons, strict=True)):
            if explained is None:
                continue
            turns, container, continuations = further[place]
            size = sizes[place] + self._growth(names[place], Further(turns.encode(), container))
            wanted = self._explains or not explained
            if size > self._most_bytes or not wanted or escalate != is_escalated(names[place]):
                further[place] = None, None, None
                continue
            reason = [EXPLAINED] * explained + [CONTINUED] * (continuations > 0)
            names[place] = "+".join(filter(None, [names[place], *reason]))
            sizes[place] = size
        for name, values in zip(columns, zip(*further, strict=True), strict=True):
            place, field = units.schema.get_field_index(name), units.schema.field(name)
            units = units.set_column(place, field, pa.array(values, field.type))
        return units, pa.array(names, pa.string()), pa.array(sizes, pa.int64())


def further_bytes(turns: str | None, container: str | None) -> int:
    """The bytes that further turns, and the container, add to a request."""
    return len((turns or "").encode()) + container_bytes(container)


def container_bytes(container: str | None) -> int:
    return 0 if container is None else len(b',"container":') + len(orjson.dumps(container))


def _after_pause(outcome: Outcome, continuations: int, *, fits: bool) -> Outcome:
    if continuations >= MOST_CONTINUATIONS:
        message = f"the answer paused {continuations + 1} times without an end"
        return replace(outcome, error_message=message)
    if not fits:
        message = "the answer paused, and what there is of it is too large to be sent back"
        return replace(outcome, error_message=message)
    return replace(outcome, action=Action.CONTINUE)


def _is(column: pa.ChunkedArray, route: str | None) -> pa.ChunkedArray:
    if route is None:
        return pc.is_null(column)
    return pc.fill_null(pc.equal(column, route), False)


def _escalated(escalate: EscalateSpec | None, own: Declaration) -> Declaration | None:
    """The declaration of the stronger model; its parameters lie on the job's own."""
    if escalate is None:
        return None
    return replace(
        own,
        model_id=escalate.model_id,
        max_tokens=escalate.max_tokens or own.max_tokens,
        params=escalate.params_over(own.params),
    )


def _growth(before: Declaration, after: Declaration) -> int:
    """The bytes that a request has more as asked by another declaration."""
    return RequestBuilder(after).constant_bytes - RequestBuilder(before).constant_bytes
