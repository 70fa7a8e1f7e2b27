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
from batch_pipeline.flow.dataset.requests import Declaration
from batch_pipeline.flow.gates.billing import searches_bound
from batch_pipeline.flow.gates.prices import price_at, stated_prices
from batch_pipeline.flow.planning.unbought import Unbought
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.pricing.bounds import LEAST_ANSWERS
from batch_pipeline.pricing.estimate import Amounts, Spread, Work, amounts
from batch_pipeline.pricing.prices import MODES, Mode

if TYPE_CHECKING:
    from batch_pipeline.flow.costs.estimate import Tokens


@dataclass(frozen=True)
class AskedWay:
    """The requests that are asked of one model: those of a route (None: the job's own way), or
    those that are asked once more of the stronger model, which are paid twice.

    `share_from` says where the number of the latter is known from. Amounts in USD.
    """

    route: str | None
    escalated: bool
    model_id: str
    requests: int
    batch: Amounts
    realtime: Amounts
    share_from: str | None = None

    def as_json(self) -> dict[str, Any]:
        found = asdict(self)
        found |= {mode: float(round(getattr(self, mode).expected, 6)) for mode in MODES}
        return found


def ways(
    spec: JobSpec, left: Unbought, tokens: Tokens, known: Experience | None, buffer: float
) -> tuple[AskedWay, ...]:
    """The ways in which a night's requests are asked, each with what it is expected to cost."""
    by_route = left.routes or {_only_route(left): left}
    asked = {None: spec} | {
        str(number): way for number, (_, way) in enumerate(spec.asked_by_routes(), 1)
    }
    found = [
        _way(asked[route], route, part, tokens, known, buffer)
        for route, part in by_route.items()
        if route in asked
    ]
    return (*found, *_escalated(spec, by_route, asked, tokens, known, buffer))


def summed(parts: Iterable[Amounts]) -> Amounts:
    """The amounts of several ways together."""
    every = list(parts)
    names = ("expected", "buffered", "p95")
    return Amounts(
        **{name: sum((getattr(part, name) for part in every), Decimal(0)) for name in names}
    )


def _only_route(left: Unbought) -> str | None:
    return left.route


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
    output, per_byte, fees = tokens.output, tokens.per_byte, tokens.fees
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
        route, escalated, asked.model_id, part.requests, of_mode["batch"], of_mode["realtime"]
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
            found.append(replace(way, share_from=source))
    return found
