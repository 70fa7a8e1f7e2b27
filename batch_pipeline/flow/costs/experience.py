"""Tokens of former answers, from the ledger and the answer files: what an estimate is based on.

Belongs here: which former nights say something about the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from sqlalchemy import Connection

from batch_pipeline.flow import joins
from batch_pipeline.flow.answers.answers import answer_paths, still_there
from batch_pipeline.flow.answers.schemas import ANSWERS_SCHEMA
from batch_pipeline.flow.costs import answer_sums
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.gates.budget import measured
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning.variants import (
    HAS_FURTHER_TURNS,
    IS_ESCALATED,
    MORE_ROOM,
)
from batch_pipeline.jobs.partitions.partitions import order_of
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights, snapshots, sums
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.sums import Sums
from batch_pipeline.pricing.bounds import LEAST_ANSWERS, Measured
from batch_pipeline.pricing.estimate import Spread
from batch_pipeline.pricing.prices import Mode, ModelPrice
from batch_pipeline.pricing.tokens import PROMPT_TOKENS, TokenUsage

# How many of a job's former nights count, and how many submissions of each, the latest first.
LAST_NIGHTS = 3
LATEST_SUBMISSIONS = 50
# How many nights are searched for them.
MOST_NIGHTS = 100

# Answers of the job's own model: those of its routes and of the stronger model are apart.
_OWN = f"variant IS NULL OR variant = '{MORE_ROOM}'"
# What a request with further turns is answered says nothing of a first answer.
_FURTHER = " OR ".join(HAS_FURTHER_TURNS.values())
_OTHERS = f"""
    SELECT route, {IS_ESCALATED} AS escalated, avg(output_tokens),
           quantile_disc(output_tokens, [0.5, 0.95])
    FROM all_answers WHERE {" + ".join(PROMPT_TOKENS)} > 0 AND NOT coalesce({_OWN}, false)
    AND NOT ({_FURTHER})
    GROUP BY ALL
"""  # noqa: S608  # column names of ours
_SHARE = f"""
    SELECT count(DISTINCT unit) FILTER ({IS_ESCALATED}), count(DISTINCT unit)
    FROM all_answers WHERE {" + ".join(PROMPT_TOKENS)} > 0
"""  # noqa: S608  # as above
_OUTPUT = f"""
    SELECT avg(output_tokens), quantile_disc(output_tokens, [0.5, 0.95]) FROM answers
    WHERE {" + ".join(PROMPT_TOKENS)} > 0
"""  # noqa: S608  # column names of ours


@dataclass(frozen=True)
class Experience:
    """Tokens of billed answers; `source` says in words which answers they are.

    `output` is None where the answers are of another job with this model: its prompts show how many
    tokens a byte has, but its answers say nothing about this job's. `fees` are USD of an answer by
    mode, beside its tokens at the declared model's price. `usage` is by mode too: what calls in
    real time find in the prompt cache says nothing of batches.

    All of that is of the job's own model. `outputs` are those of its other ways, by route and
    whether they were escalated; `models` the prompts of their models; `escalated` is the share of
    the requests for which a stronger model was asked.
    """

    source: str
    measured: Measured
    usage: Mapping[Mode, TokenUsage]
    output: Spread | None
    fees: Mapping[Mode, Decimal] = field(default_factory=dict)
    outputs: Mapping[tuple[str | None, bool], Spread] = field(default_factory=dict)
    models: Mapping[str, Measured] = field(default_factory=dict)
    escalated: float | None = None


def find(
    pipeline: Pipeline,
    spec: JobSpec,
    partition: str,
    owner: str,
    declaration: Declaration,
    price: ModelPrice,
) -> Experience | None:
    """The experience from this night, else from the job's last nights, else from the model's."""
    with pipeline.ledger.read() as connection:
        every = nights.list_nights(connection, owner=owner)
        every.sort(key=lambda night: night.created_at, reverse=True)
        mine = [night for night in every if night.job == spec.name]
        mine.sort(
            key=lambda each: order_of(spec.partitions, each.partition, each.created_at),
            reverse=True,
        )
        this = [night for night in mine if night.partition == partition]
        others = [night for night in mine if night.partition != partition][:MOST_NIGHTS]
        of_this, of_others = (_bought(connection, each, declaration) for each in (this, others))
    found = _of_nights(pipeline, of_this, price) or _of_nights(pipeline, of_others, price)
    if found is not None:
        return found
    with pipeline.ledger.read() as connection:
        return _of_model(connection, every[:MOST_NIGHTS], declaration.model_id)


@dataclass
class _Bought:
    """What nights have bought as the declaration asks: sums, by other models too, the names of the
    nights, and the files of their latest answers."""

    sums: list[Sums] = field(default_factory=list)
    models: dict[str, Measured] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    files: list[tuple[Night, list[str]]] = field(default_factory=list)


def _bought(connection: Connection, candidates: Iterable[Night], declared: Declaration) -> _Bought:
    found = _Bought()
    for night in candidates:
        wanted = {
            snapshot.id
            for snapshot in snapshots.snapshots_of(connection, night.id).values()
            if snapshot.declaration_hash == declared.hash
        }
        informative = [
            each
            for each in sums.of_night(connection, night.id)
            if each.snapshot_id in wanted and each.measured_answers
        ]
        if not informative:
            continue
        found.sums += informative
        for (snapshot_id, model_id), parts in sums.measured_by_model(connection, night.id).items():
            if snapshot_id in wanted:
                before = found.models.get(model_id, Measured())
                found.models[model_id] = before + Measured(*parts.values())
        found.files.append((night, _answers(connection, night, wanted)))
        only_pilot = all(each.pilot for each in informative)
        found.names.append(f"the pilot of {night.partition}" if only_pilot else night.partition)
        if len(found.names) == LAST_NIGHTS:
            break
    return found


def _of_nights(pipeline: Pipeline, bought: _Bought, price: ModelPrice) -> Experience | None:
    """The experience from what nights have bought; reads files, so no transaction may be open."""
    prompts, tokens = measured(bought.sums), _tokens(bought.sums)
    for other in bought.models.values():
        prompts -= other
    if prompts.answers < LEAST_ANSWERS:
        return None
    files = [path for each in bought.files for path in still_there(pipeline.files, *each)]
    if not files:
        return None
    with joins.tables(pipeline.files, {"all_answers": (files, ANSWERS_SCHEMA)}) as joined:
        joined.execute(f"CREATE TEMP VIEW answers AS SELECT * FROM all_answers WHERE {_OWN}")  # noqa: S608
        outputs = {
            (route, bool(escalated)): Spread(mean, *quantiles)
            for route, escalated, mean, quantiles in joined.execute(_OTHERS).fetchall()
        }
        [(escalated, asked)] = joined.execute(_SHARE).fetchall()
        [(mean, quantiles)] = joined.execute(_OUTPUT).fetchall()
        fees = answer_sums.fees_of_an_answer(joined, price)
    if mean is None:
        return None
    what = f"{prompts.answers:,} billed answers of this job: {', '.join(bought.names)}"
    share = escalated / asked if asked else None
    own = Spread(mean, *quantiles)
    return Experience(what, prompts, tokens, own, fees, outputs, bought.models, share)


def _of_model(
    connection: Connection, candidates: Iterable[Night], model_id: str
) -> Experience | None:
    """Tokens for each byte of any prompts to the model, of those without documents."""
    found = [
        each
        for night in candidates
        if (of_model := _snapshots_of_model(connection, night, model_id))
        for each in sums.of_night(connection, night.id)
        if each.snapshot_id in of_model
    ]
    prompts = measured(found)
    if prompts.answers < LEAST_ANSWERS:
        return None
    what = f"{prompts.answers:,} billed answers of {model_id} to other prompts"
    return Experience(what, prompts, _tokens(found), None)


def _snapshots_of_model(connection: Connection, night: Night, model_id: str) -> set[int]:
    return {
        snapshot.id
        for snapshot in snapshots.snapshots_of(connection, night.id).values()
        if snapshot.declaration["model_id"] == model_id and snapshot.visual_tokens is None
    }


def _answers(connection: Connection, night: Night, wanted: set[int]) -> list[str]:
    latest = submissions.latest_collected(connection, night.id, LATEST_SUBMISSIONS)
    return answer_paths(night, [s for s in latest if s.snapshot_id in wanted])


def _tokens(collected: Iterable[Sums]) -> dict[Mode, TokenUsage]:
    found: dict[Mode, TokenUsage] = {}
    for part in collected:
        found[part.engine] = found.get(part.engine, TokenUsage()) + TokenUsage(**part.tokens)
    return found
