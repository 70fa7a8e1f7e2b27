"""What routes, the escalation and the prompt cache save: as expected, and as it was billed.

Belongs here: the rows of the table of savings whose requests are sent. What is not asked is in
`avoided`. Each row is the same requests asked as the job's own model is, less as they are asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from batch_pipeline.flow import joins
from batch_pipeline.flow.answers.answers import answer_paths
from batch_pipeline.flow.answers.schemas import ANSWERS_SCHEMA
from batch_pipeline.flow.costs.answer_sums import Priced
from batch_pipeline.flow.costs.cache_forecast import CacheForecast
from batch_pipeline.flow.costs.estimate_ways import AskedWay
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.gates.prices import price_at, price_of_variant
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning.variants import IS_ESCALATED
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.cache_use import CacheSums
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions.submissions import Submission
from batch_pipeline.pricing.prices import MODES, Mode, ModelPrice
from batch_pipeline.pricing.tokens import PROMPT_TOKENS, TOKENS, TokenUsage
from batch_pipeline.reporting.report.avoided import (
    CACHING,
    ESCALATION,
    ROUTES,
    ZERO,
    Avoided,
    Cascade,
)

_PROMPT = " + ".join(PROMPT_TOKENS)
_AGAIN = IS_ESCALATED
# Billed answers by mode, route, whether the stronger model gave them, and tier of their price.
_BY_WAY = f"""
    SELECT mode, route, {_AGAIN} AS again, {{tier}} AS tier, sum(cost_usd),
           {", ".join(f"sum({name})" for name in TOKENS)}
    FROM answers WHERE {_PROMPT} + output_tokens > 0 GROUP BY ALL
"""  # noqa: S608  # column names of ours
_COUNT = f"""
    SELECT count(DISTINCT unit) FILTER (route IS NOT NULL AND NOT {_AGAIN}),
           count(DISTINCT unit) FILTER ({_AGAIN})
    FROM answers WHERE {_PROMPT} + output_tokens > 0
"""  # noqa: S608  # as above


def expected(
    ways: Sequence[AskedWay], caching: CacheForecast | None, mode: Mode
) -> tuple[Avoided, ...]:
    """The rows before anything is sent, at the price of the way that the job goes."""
    routed = [way for way in ways if way.route is not None and not way.escalated]
    escalated = [way for way in ways if way.escalated]
    found = [
        _row(
            cause,
            sum(way.requests for way in some),
            sum(way.input_tokens for way in some),
            sum((way.saved[mode] for way in some), ZERO),
        )
        for cause, some in ((ROUTES, routed), (ESCALATION, escalated))
    ]
    if caching is not None and caching.can_pay:
        tokens = caching.tokens * caching.requests
        found.append(_row(CACHING, caching.requests, tokens, caching.expected_usd))
    return tuple(row for row in found if row.requests)


def expected_cascade(ways: Sequence[AskedWay], mode: Mode) -> Cascade | None:
    """What the escalation is expected to cost beside asking the stronger model at first."""
    escalated = [way for way in ways if way.escalated]
    if not escalated:
        return None
    routes = {way.route for way in escalated}
    together = [way.expected(mode) for way in ways if way.route in routes]
    at_first = [way.at_first[mode] for way in escalated if way.at_first is not None]
    return Cascade(escalated[0].model_id, sum(together, ZERO), sum(at_first, ZERO))


def cached(used: CacheSums) -> tuple[Avoided, ...]:
    """The row of the prompt cache, of submissions with marks; its tokens are the marked ones."""
    if used.hit_rate is None:
        return ()
    marked = used.read_tokens + used.written_tokens
    return (_row(CACHING, used.requests, marked, used.saved_usd),)


@dataclass(frozen=True)
class _Prices:
    """The prices of a submission's time: of each route (None: the job's own way), with the model
    that it asks, and of the stronger model."""

    routes: tuple[tuple[str | None, str, ModelPrice], ...]
    stronger: ModelPrice | None

    @property
    def every(self) -> list[ModelPrice]:
        routes = [price for *_, price in self.routes]
        return routes if self.stronger is None else [*routes, self.stronger]


@dataclass(frozen=True)
class _Sum:
    """Billed answers of one mode and route; `again`: of the stronger model.

    `prompt` is a length in tokens in the price tier of all of them.
    """

    mode: Mode
    route: str | None
    again: bool
    prompt: int
    usd: Decimal
    tokens: TokenUsage

    def at(self, price: ModelPrice) -> Decimal:
        """USD of their tokens at a price."""
        return price.tiers(self.mode).at(self.prompt).cost(self.tokens)


def billed(
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    collected: Iterable[Priced],
    declared: Mapping[int, Declaration],
) -> tuple[tuple[Avoided, ...], Cascade | None]:
    """The rows of routes and escalation from a night's billed answers, and what the cascade came
    to; batches that were bought twice are left out.

    The tokens that were billed are the same at both prices of a row: what another model would have
    answered is not known.
    """
    stronger = None if spec.retry.escalate is None else spec.asked_all_ways()[-1][1]
    groups: defaultdict[_Prices, list[Submission]] = defaultdict(list)
    for priced in collected:
        declaration = declared[priced.submission.id]
        several = declaration.routes or priced.others or stronger is not None
        if several and not priced.submission.duplicate:
            groups[_prices(priced, declaration, stronger)].append(priced.submission)
    routed, escalated = Avoided(ROUTES, 0, 0, 0, ZERO), Avoided(ESCALATION, 0, 0, 0, ZERO)
    cascade = None
    if groups and stronger is not None:
        cascade = Cascade(stronger.model_id, ZERO, ZERO)
    for prices, submissions in groups.items():
        sums, (with_route, twice) = _sums(pipeline, night, submissions, prices.every)
        own = prices.routes[0][2]
        of_route = {route: price for route, _, price in prices.routes}
        routed = _with(
            routed,
            with_route,
            [
                (each.tokens, each.at(own) - each.at(of_route[each.route]))
                for each in sums
                if each.route in of_route and each.route is not None and not each.again
            ],
        )
        again = [(each.tokens, -each.usd) for each in sums if each.again]
        escalated = _with(escalated, twice, again)
        if cascade is not None:
            cascade = _cascaded(cascade, sums, prices)
    return tuple(row for row in (routed, escalated) if row.requests), cascade


def _prices(priced: Priced, declaration: Declaration, stronger: JobSpec | None) -> _Prices:
    submission = priced.submission
    at, stated = datetime.fromtimestamp(submission.intent_at, UTC), submission.stated_prices
    routes = [
        (
            route,
            asked.model_id,
            priced.price if route is None else price_of_variant(asked, declaration, at, stated),
        )
        for route, asked in declaration.by_route().items()
    ]
    second = None if stronger is None else price_at(Declaration.of(stronger), at)
    return _Prices(tuple(routes), second)


def _with(row: Avoided, requests: int, parts: Iterable[tuple[TokenUsage, Decimal]]) -> Avoided:
    """A row with more requests."""
    every = list(parts)
    return replace(
        row,
        documents=row.documents + requests,
        requests=row.requests + requests,
        input_tokens=row.input_tokens + sum(tokens.prompt_tokens for tokens, _ in every),
        usd=row.usd + sum((usd for _, usd in every), ZERO),
    )


def _cascaded(before: Cascade, sums: Iterable[_Sum], prices: _Prices) -> Cascade:
    """The cascade with the answers of more submissions: those of routes that are escalated.

    What was billed beside tokens, for searches for instance, is the same whatever the model.
    """
    found, stronger = before, prices.stronger
    of_route = {route: price for route, model, price in prices.routes if model != before.model_id}
    for each in sums:
        if stronger is not None and each.route in of_route:
            fees = each.usd - each.at(of_route[each.route])
            at_first = ZERO if each.again else each.at(stronger) + fees
            found = replace(
                found, usd=found.usd + each.usd, at_first_usd=found.at_first_usd + at_first
            )
    return found


def _sums(
    pipeline: Pipeline, night: Night, submissions: Sequence[Submission], prices: list[ModelPrice]
) -> tuple[list[_Sum], tuple[int, int]]:
    """Sums over the billed answers of submissions, and the numbers of their requests that have a
    route, and that were escalated."""
    tiers = [price.tiers(mode) for price in prices for mode in MODES]
    starts = sorted({start for each in tiers for start in each.starts})
    tier = " + ".join(f"CAST({_PROMPT} > {start} AS INTEGER)" for start in starts) or "0"
    files = answer_paths(night, submissions)
    if not files:
        return [], (0, 0)
    with joins.tables(pipeline.files, {"answers": (files, ANSWERS_SCHEMA)}) as connection:
        found = connection.execute(_BY_WAY.format(tier=tier)).fetchall()
        [(routed, escalated)] = connection.execute(_COUNT).fetchall()
    lengths = [0, *(start + 1 for start in starts)]
    sums = [
        _Sum(mode, route, again, lengths[place], Decimal(usd), TokenUsage(*map(int, tokens)))
        for mode, route, again, place, usd, *tokens in found
    ]
    return sums, (int(routed), int(escalated))


def _row(cause: str, requests: int, tokens: int, usd: Decimal) -> Avoided:
    return Avoided(cause, requests, requests, tokens, usd)
