"""What each way of asking adds to an estimate: the routes of a job, and its escalation.

Belongs here: requests, tokens and prices of each. Where tokens are known from is in `estimate`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from batch_pipeline.flow.costs.experience import Experience
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.gates.billing import searches_bound
from batch_pipeline.flow.gates.prices import price_at, stated_prices
from batch_pipeline.flow.planning.unbought import Unbought
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.pricing.bounds import LEAST_ANSWERS
from batch_pipeline.pricing.estimate import UNCACHED, Amounts, Spread, Work, amounts
from batch_pipeline.pricing.prices import MODES, Mode, ModelPrice

if TYPE_CHECKING:
    from batch_pipeline.flow.costs.tokens import Tokens


@dataclass(frozen=True)
class AskedWay:
    """The requests that are asked of one model: those of a route (None: the job's own way), or
    those that are asked once more of the stronger model, which are paid twice.

    `share_from` says where the number of the latter is known from. Amounts in USD. `saved` is by
    mode what the job's own way would cost more; of what is escalated, all of it is a loss, and
    `at_first` is what the route's requests would cost if the stronger model were asked at first.
    """

    route: str | None
    escalated: bool
    model_id: str
    requests: int
    input_tokens: int
    batch: Amounts
    realtime: Amounts
    saved: Mapping[Mode, Decimal]
    share_from: str | None = None
    at_first: Mapping[Mode, Decimal] | None = None

    @property
    def label(self) -> str:
        """`route 1, escalated`, for people."""
        which = "no route" if self.route is None else f"route {self.route}"
        return f"{which}, escalated" if self.escalated else which

    def expected(self, mode: Mode) -> Decimal:
        """USD by this mode, as expected."""
        return self.realtime.expected if mode == "realtime" else self.batch.expected

    def as_json(self) -> dict[str, Any]:
        found = asdict(self)
        del found["saved"], found["at_first"]
        found |= {mode: float(round(getattr(self, mode).expected, 6)) for mode in MODES}
        return found


def ways(
    spec: JobSpec, left: Unbought, tokens: Tokens, known: Experience | None, buffer: float
) -> tuple[AskedWay, ...]:
    """The ways in which a night's requests are asked, each with what it is expected to cost."""
    by_route = left.routes or {left.route: left}
    asked = {None: spec} | {
        str(number): way for number, (_, way) in enumerate(spec.asked_by_routes(), 1)
    }
    found = []
    for route, part in by_route.items():
        if route not in asked:
            continue
        way = _way(asked[route], route, part, tokens, known, buffer)
        if route is not None:
            # What the cache saves is a matter of its own.
            plain = replace(tokens, shares=UNCACHED)
            own = _way(spec, None, part, plain, known, buffer)
            way = replace(
                way, saved={mode: own.expected(mode) - way.expected(mode) for mode in MODES}
            )
        found.append(way)
    return (*found, *_escalated(spec, by_route, asked, tokens, known, buffer))


def way_of(spec: JobSpec) -> Mode:
    """The way that most of a job's requests go."""
    return "realtime" if spec.mode == "realtime" else "batch"


def both(
    left: Unbought, work: Work, price: ModelPrice, asked: Sequence[AskedWay], buffer: float
) -> tuple[Amounts, Amounts]:
    """USD as batches and in real time: of all ways, or of the `work` that is the only one."""
    if len(asked) > 1 or left.route is not None:
        return summed(way.batch for way in asked), summed(way.realtime for way in asked)
    return amounts(work, price, "batch", buffer), amounts(work, price, "realtime", buffer)


def summed(parts: Iterable[Amounts]) -> Amounts:
    """The amounts of several ways together."""
    every = list(parts)
    names = ("expected", "buffered", "p95")
    return Amounts(
        **{name: sum((getattr(part, name) for part in every), Decimal(0)) for name in names}
    )


def _way(
    asked: JobSpec,
    route: str | None,
    part: Unbought,
    tokens: Tokens,
    known: Experience | None,
    buffer: float,
    *,
    escalated: bool = False,
) -> AskedWay:
    declaration = Declaration.of(asked)
    price = price_at(declaration, datetime.now(UTC), stated_prices(asked))
    own = route is None and not escalated
    output, per_byte, fees = tokens.output, tokens.per_unit(part), tokens.fees
    if not own:
        measured = None if known is None else known.models.get(asked.model_id)
        if measured is not None and measured.answers >= LEAST_ANSWERS:
            per_byte = measured.tokens / measured.bytes
        output, fees = None if known is None else known.outputs.get((route, escalated)), None
        if escalated and output is None and known is not None:
            output = next((o for (_, again), o in known.outputs.items() if again), None)
    if fees is None:
        fees = dict.fromkeys(MODES, searches_bound(declaration, price))
    work = Work(
        requests=part.requests,
        prompt=part.sizes.scaled(per_byte),
        output=output or Spread(*[float(asked.max_tokens)] * 3),
        lengths=[(requests, size * per_byte) for requests, size in part.lengths],
        shares=tokens.shares if own else replace(tokens.shares, **_NO_CACHE),
        fees=fees,
    )
    of_mode: dict[Mode, Amounts] = {mode: amounts(work, price, mode, buffer) for mode in MODES}
    return AskedWay(
        route=route,
        escalated=escalated,
        model_id=asked.model_id,
        requests=part.requests,
        input_tokens=round(work.prompt.mean * part.requests),
        batch=of_mode["batch"],
        realtime=of_mode["realtime"],
        saved=dict.fromkeys(MODES, Decimal(0)),
    )


_NO_CACHE = {"cache_write_5m": 0.0, "cache_write_1h": 0.0, "cache_read": 0.0}


def _escalated(
    spec: JobSpec,
    by_route: Mapping[str | None, Unbought],
    asked: Mapping[str | None, JobSpec],
    tokens: Tokens,
    known: Experience | None,
    buffer: float,
) -> Sequence[AskedWay]:
    """What is asked once more of the stronger model: as many as were measured, else the most."""
    escalate = spec.retry.escalate
    if escalate is None:
        return ()
    share, source = escalate.max_share, "retry.escalate.max_share: none was measured yet"
    if known is not None and known.escalated is not None:
        share, source = min(share, known.escalated), known.source
    stronger = spec.asked_all_ways()[-1][1]
    found = []
    for route, part in by_route.items():
        if route not in asked or asked[route].model_id == stronger.model_id:
            continue
        some = part.scaled(share)
        if some.requests:
            way = _way(stronger, route, some, tokens, known, buffer, escalated=True)
            whole = _way(stronger, route, part, tokens, known, buffer, escalated=True)
            found.append(
                replace(
                    way,
                    share_from=source,
                    saved={mode: -way.expected(mode) for mode in MODES},
                    at_first={mode: whole.expected(mode) for mode in MODES},
                )
            )
    return found
