"""Sums over a night's answer files for its report: streamed by DuckDB, in bounded memory.

The answer files have each billed answer with its attempt, status and tokens. Sums that the ledger
has are taken from there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from batch_pipeline.flow import joins
from batch_pipeline.flow.answers.answers import answer_paths
from batch_pipeline.flow.answers.outcomes import PAUSE_TURN, Status
from batch_pipeline.flow.answers.schemas import ANSWERS_SCHEMA
from batch_pipeline.flow.gates import billing
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning.variants import HAS_FURTHER_TURNS
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions.submissions import Submission
from batch_pipeline.pricing.prices import MODES, Mode, ModelPrice, library_id
from batch_pipeline.pricing.tokens import PROMPT_TOKENS, TOKENS, TokenUsage
from batch_pipeline.reporting.distribution import Bins, Distribution
from batch_pipeline.reporting.report.difference import Asked
from batch_pipeline.reporting.report.report import (
    NOTHING_SENT_BACK,
    ZERO,
    ModelUsage,
    SentBack,
    Wasted,
)

if TYPE_CHECKING:
    import duckdb

_PROMPT = " + ".join(PROMPT_TOKENS)
_BILLED = f"{_PROMPT} + output_tokens > 0"
# One row for each mode and price tier: billed answers, what they cost, their tokens by class.
# Answers that were billed more than their tokens have rows of their own, by answering model.
_BY_TIER = """
    SELECT mode, {tier} AS tier, if(other_way_usd IS NULL, NULL, model) AS answered,
           count(*) FILTER ({billed}), sum(cost_usd), sum(other_way_usd), {sums}
    FROM answers GROUP BY mode, tier, answered, other_way_usd IS NULL ORDER BY ALL
"""


def _sent_back(there: str) -> str:
    """What became of answers that were sent back so, as columns."""
    good = f"{there} AND status = '{Status.SUCCEEDED}'"
    return (
        f"count(DISTINCT unit) FILTER ({there}), count(DISTINCT unit) FILTER ({good}), "
        f"coalesce(sum(cost_usd) FILTER ({there}), 0)"
    )


_ASKED = f"""
    SELECT count(*) FILTER (attempt = 1),
           count(*) FILTER (attempt = 1 AND {_BILLED}),
           coalesce(sum({_PROMPT}) FILTER (attempt = 1), 0),
           coalesce(sum(output_tokens) FILTER (attempt = 1), 0),
           coalesce(sum(cost_usd) FILTER (attempt > 1), 0),
           count(*) FILTER (attempt > 1),
           {", ".join(map(_sent_back, HAS_FURTHER_TURNS.values()))}
    FROM answers
"""  # noqa: S608  # column names of ours
_WASTED = f"""
    SELECT status, count(*), sum(cost_usd) FROM answers
    WHERE status <> '{Status.SUCCEEDED}' AND {_BILLED}
    -- The parts of an answer that paused are of use.
    AND NOT coalesce(stop_reason = '{PAUSE_TURN}' AND NOT final, false)
    GROUP BY status ORDER BY 3 DESC, 1
"""  # noqa: S608  # as above
# The bins end at the last quantile: one very long document must not press all others into one bin.
_QUANTILES = """
    SELECT count(*), min({x}), avg({x}), max({x}), quantile_disc({x}, [0.5, 0.95, 0.995])
    FROM answers WHERE {billed}
"""
_COUNTS = """
    SELECT least(CAST(floor((({x}) - {start}) / {step}) AS BIGINT), {last}) AS bin, count(*)
    FROM answers WHERE {billed} GROUP BY bin
"""


@dataclass(frozen=True)
class Priced:
    """A collected submission, the model that it was declared with, and the prices of its time.

    `others` are the other models that its requests were asked of, by route or escalation.
    """

    submission: Submission
    model_id: str
    price: ModelPrice
    others: tuple[str, ...] = ()


# Submissions whose answers are added up together: declared model, price, bought twice, others.
_Group = tuple[str, ModelPrice, bool, tuple[str, ...]]


@dataclass(frozen=True)
class TierSums:
    """Sums over answers of one mode and price tier; `tier` is a position in `Tiers.prices`.

    `model` answered, and would have cost `other_way_usd` by the other way: both are None where the
    tokens at the declared model's price are all that was billed.
    """

    mode: Mode
    tier: int
    model: str | None
    answers: int
    usd: Decimal
    other_way_usd: Decimal | None
    tokens: TokenUsage

    def plain_usd(self, price: ModelPrice, way: Mode) -> Decimal:
        """USD for the tokens alone, at this price and by this way."""
        return price.tiers(way).prices[self.tier].cost(self.tokens)

    def usd_by(self, way: Mode, price: ModelPrice) -> Decimal:
        """USD by this way; `price` is that of the declared model."""
        if self.other_way_usd is None:
            return self.plain_usd(price, way)
        return self.usd if self.mode == way else self.other_way_usd


@dataclass(frozen=True)
class AnswerSums:
    """Sums over the answers of a night; `retries` are answers to requests that were sent again.

    The distributions are of the tokens of a billed answer; prompt tokens are of all classes
    together.
    """

    models: tuple[ModelUsage, ...]
    asked: Asked
    retries: int
    wasted: tuple[Wasted, ...]
    prompt_tokens: Distribution | None
    output_tokens: Distribution | None
    explained: SentBack = NOTHING_SENT_BACK
    continued: SentBack = NOTHING_SENT_BACK


def of_night(pipeline: Pipeline, night: Night, collected: Sequence[Priced]) -> AnswerSums:
    """The sums over all answers of the collected submissions; amounts are exact."""
    models = _by_model(pipeline, night, collected)
    submissions = [priced.submission for priced in collected]
    duplicates = [s for s in submissions if s.duplicate]
    duplicates_usd = sum((s.cost_usd or ZERO for s in duplicates), ZERO)
    files = answer_paths(night, submissions)
    if not files and not duplicates:
        asked = Asked(0, 0, 0, 0, ZERO, ZERO)
        return AnswerSums((), asked, 0, (), prompt_tokens=None, output_tokens=None)
    with joins.tables(pipeline.files, {"answers": (files, ANSWERS_SCHEMA)}) as connection:
        [found] = connection.execute(_ASKED).fetchall()
        first, billed, prompt, output, again, retries, *sent_back = found
        wasted = [
            Wasted(str(status), int(answers), Decimal(usd))
            for status, answers, usd in connection.execute(_WASTED).fetchall()
        ]
        prompts = _distribution(connection, _PROMPT)
        outputs = _distribution(connection, "output_tokens")
    if duplicates:
        wasted.append(Wasted("duplicate", sum(s.requests for s in duplicates), duplicates_usd))
    return AnswerSums(
        models=models,
        asked=Asked(
            int(first), int(billed), int(prompt), int(output), Decimal(again), duplicates_usd
        ),
        retries=int(retries),
        wasted=tuple(wasted),
        prompt_tokens=prompts,
        output_tokens=outputs,
        explained=SentBack(*sent_back[:3]),
        continued=SentBack(*sent_back[3:]),
    )


def _by_model(
    pipeline: Pipeline, night: Night, collected: Iterable[Priced]
) -> tuple[ModelUsage, ...]:
    groups: defaultdict[_Group, list[Submission]] = defaultdict(list)
    for priced in collected:
        kind = (priced.model_id, priced.price, priced.submission.duplicate, priced.others)
        groups[kind].append(priced.submission)
    found: dict[tuple[str, str, str], ModelUsage] = {}
    for (declared, price, duplicates, others), group in groups.items():
        files = answer_paths(night, group, duplicates=duplicates)
        with joins.tables(pipeline.files, {"answers": (files, ANSWERS_SCHEMA)}) as connection:
            rows = by_tier(connection, price.realtime.starts)
        for row in rows:
            model_id = _asked_of(row.model, declared, others)
            usage = ModelUsage(
                model_id=model_id,
                price_model=_price_model(row.model, declared, price),
                mode=row.mode,
                answers=row.answers,
                tokens=row.tokens,
                usd=row.usd,
                counterfactual_usd=row.usd_by("realtime", price),
            )
            way = (model_id, usage.price_model, usage.mode)
            found[way] = found[way] + usage if way in found else usage
    return tuple(sorted(found.values(), key=lambda usage: (-usage.usd, usage.model_id)))


def _asked_of(answered: str | None, declared: str, others: Sequence[str]) -> str:
    """The model that answers were asked of, of those that a submission asked."""
    if answered is None or billing.is_same(answered, declared):
        return declared
    return next((other for other in others if billing.is_same(answered, other)), declared)


def _price_model(answered: str | None, declared: str, price: ModelPrice) -> str:
    """The library's id of the model that answered; that of the declared one where it has none."""
    if answered is None or billing.is_same(answered, declared):
        return price.matched_model
    return library_id(answered) or price.matched_model


def by_tier(connection: duckdb.DuckDBPyConnection, starts: Sequence[int]) -> list[TierSums]:
    """The table `answers` by mode and price tier; `starts` are those of `Tiers`."""
    tier = " + ".join(f"CAST({_PROMPT} > {start} AS INTEGER)" for start in starts) or "0"
    sums = ", ".join(f"sum({name})" for name in TOKENS)
    query = _BY_TIER.format(tier=tier, billed=_BILLED, sums=sums)
    return [
        TierSums(
            mode=mode,
            tier=int(place),
            model=model,
            answers=int(answers),
            usd=Decimal(usd),
            other_way_usd=None if other_way is None else Decimal(other_way),
            tokens=TokenUsage(*map(int, tokens)),
        )
        for mode, place, model, answers, usd, other_way, *tokens in connection.execute(
            query
        ).fetchall()
    ]


def fees_of_an_answer(
    connection: duckdb.DuckDBPyConnection, price: ModelPrice
) -> dict[Mode, Decimal]:
    """What the mean answer of the table `answers` costs beside its tokens at a price, by mode."""
    rows = by_tier(connection, price.batch.starts)
    answers = sum(row.answers for row in rows)
    fees = {
        way: sum((row.usd_by(way, price) - row.plain_usd(price, way) for row in rows), ZERO)
        for way in MODES
    }
    return {way: amount / answers for way, amount in fees.items() if amount and answers}


def _distribution(connection: duckdb.DuckDBPyConnection, column: str) -> Distribution | None:
    query = _QUANTILES.format(x=column, billed=_BILLED)
    [(values, low, mean, high, quantiles)] = connection.execute(query).fetchall()
    if not values:
        return None
    median, p95, end = quantiles
    bins = Bins.round(float(low), float(end))
    query = _COUNTS.format(
        x=column, start=bins.start, step=bins.step, last=bins.count - 1, billed=_BILLED
    )
    counts = dict(connection.execute(query).fetchall())
    return Distribution(
        int(values), float(low), float(mean), float(median), float(p95), float(high), bins,
        tuple(int(counts.get(index, 0)) for index in range(bins.count)),
    )  # fmt: skip
