"""The cost report of a night, assembled from the ledger and the files; written for the world.

Belongs here: where each number comes from. Its arithmetic and its looks stand in `money`.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection

from batch_pipeline.flow import dead_letter, joins, paths
from batch_pipeline.flow import progress as progress_of
from batch_pipeline.flow.answers import ANSWERS_SCHEMA, RESULTS_SCHEMA
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.pricing import price_at, stated_prices
from batch_pipeline.flow.progress import USAGE, Progress
from batch_pipeline.flow.requests import Declaration
from batch_pipeline.flow.standing_answers import answer_paths
from batch_pipeline.money import report_html, report_markdown
from batch_pipeline.money.prices import ModelPrice, TokenUsage
from batch_pipeline.money.report import (
    ZERO,
    Approval,
    Costs,
    Duplicates,
    Pilot,
    PricedModel,
    Report,
    SetAside,
    Turnaround,
    at_realtime_price,
    to_json,
)
from batch_pipeline.spec import JobSpec
from batch_pipeline.state import nights
from batch_pipeline.state.nights import Night
from batch_pipeline.state.submissions import State, Submission

log = logging.getLogger(__name__)

# More groups of dead letters than a report can show; `dead-letter list` has them all.
MOST_GROUPS = 20


# One row a price tier: its tokens by class, and how many of its answers had been asked before.
_BY_TIER = """
    SELECT {tier} AS tier, {sums}, count(*) FILTER (attempt > 1) AS retries
    FROM answers GROUP BY tier
"""
_PROMPT = " + ".join(name for name in USAGE if name != "output_tokens")


@dataclass(frozen=True)
class _Answered:
    """What the answers of a night add up to: USD at the real-time price, answers to retries."""

    counterfactual_usd: Decimal
    retries: int


def build_report(pipeline: Pipeline, spec: JobSpec, night: Night) -> Report:
    """The report as the night stands; asks nothing of the API.

    Raises UsageError where the model has no price any more that the answers were billed at.
    """
    with pipeline.ledger.read() as connection:
        state = progress_of.of_night(connection, night.id)
        state = progress_of.with_all(connection, state)
        declared = _declarations(connection, state)
    night = state.night
    if state.snapshot is None:
        current = Declaration.of(spec)
    else:
        current = Declaration.from_json(state.snapshot.declaration)
    stated = state.submissions[-1].stated_prices if state.submissions else stated_prices(spec)
    price = price_at(current, _first_intent(state), stated)
    answered = _answered(pipeline, state, declared)
    used = {declaration.model_id for declaration in declared.values()}
    return Report(
        job=night.job,
        partition=night.partition,
        account=night.account,
        simulated=state.account.simulated,
        complete=state.complete,
        model=PricedModel(
            model_id=current.model_id,
            price_model=price.matched_model,
            price_library=price.source,
        ),
        other_models=tuple(sorted(used - {current.model_id})),
        items=state.items,
        statuses=state.statuses,
        succeeded=state.succeeded,
        dead_letter=state.dead_letter,
        filtered=state.filtered,
        batches=state.batches,
        retries=answered.retries,
        costs=Costs(
            batch_usd=state.cost_usd["batch"],
            realtime_usd=state.cost_usd["realtime"],
            counterfactual_usd=answered.counterfactual_usd,
            attributed_usd=_attributed(pipeline, state),
        ),
        duplicates=_duplicates(state),
        tokens=TokenUsage(**state.usage),
        pilot=_pilot(night.pilot),
        turnaround=Turnaround.of(_turnarounds(state)),
        set_aside=_set_aside(pipeline, night),
        started_at=_time(night.created_at),
        completed_at=None if night.completed_at is None else _time(night.completed_at),
        results_path=pipeline.files.uri(paths.results(night.job, night.partition)),
        approvals=tuple(
            Approval(
                gate=str(given.gate),
                reason=given.reason,
                approved_by=given.approved_by,
                approved_at=_time(given.approved_at),
            )
            for given in state.approvals
        ),
    )


def write_report(pipeline: Pipeline, spec: JobSpec, night: Night) -> Report:
    """Build the report and write its three files, the JSON last: it is the signal of completion.

    Nothing is written unless the results folder shows this very night: folder and report are a
    pair, whatever the account. A night that is completed, or taken up again, meanwhile is reported
    anew, because an outdated `complete` would be believed.
    """
    while True:
        report = build_report(pipeline, spec, night)
        target = (report.job, report.partition)
        if not pipeline.refreshed(night).published:
            log.info("%s %s: no report written, the results are not of this night", *target)
            return report
        markdown, html = report_markdown.render(report), report_html.render(report)
        pipeline.files.write(paths.report(*target, ".md"), markdown.encode())
        pipeline.files.write(paths.report(*target, ".html"), html.encode())
        with pipeline.ledger.write() as connection:
            current = nights.get_night(connection, night.id)
            completed_at = None if current.completed_at is None else _time(current.completed_at)
            if current.published and completed_at == report.completed_at:
                pipeline.files.write(paths.report(*target, ".json"), to_json(report).encode())
                return report


def _declarations(connection: Connection, state: Progress) -> dict[int, Declaration]:
    """What each collected submission of the night was declared as, by its id."""
    shards = {shard.id: shard for shard in nights.list_shards(connection, state.night.id)}
    by_snapshot: dict[int, Declaration] = {}
    found = {}
    for submission in _collected(state):
        snapshot_id = shards[submission.shard_id].snapshot_id
        if snapshot_id not in by_snapshot:
            declared = nights.get_snapshot(connection, snapshot_id).declaration
            by_snapshot[snapshot_id] = Declaration.from_json(declared)
        found[submission.id] = by_snapshot[snapshot_id]
    return found


def _collected(state: Progress) -> list[Submission]:
    return [s for s in state.submissions if s.state is State.COLLECTED]


def _duplicates(state: Progress) -> Duplicates:
    found = [s for s in _collected(state) if s.is_duplicate]
    return Duplicates(len(found), sum((s.cost_usd or ZERO for s in found), ZERO))


def _first_intent(state: Progress) -> datetime:
    """The moment whose prices the report names; each answer is priced at its own."""
    return _time(min((s.intent_at for s in state.submissions), default=state.night.created_at))


def _answered(
    pipeline: Pipeline, state: Progress, declared: Mapping[int, Declaration]
) -> _Answered:
    by_price: defaultdict[tuple[ModelPrice, bool], list[Submission]] = defaultdict(list)
    for submission in _collected(state):
        # The same prices as at collection, so that a saving is never a change of prices.
        price = price_at(
            declared[submission.id], _time(submission.intent_at), submission.stated_prices
        )
        by_price[price, submission.is_duplicate].append(submission)
    counterfactual, retries = ZERO, 0
    for (price, duplicates), group in by_price.items():
        paths_of_group = answer_paths(state.night, group, duplicates=duplicates)
        sources = {"answers": (paths_of_group, ANSWERS_SCHEMA)}
        with joins.tables(pipeline.files, sources) as connection:
            rows = connection.execute(_by_tier(price.realtime.starts)).fetchall()
        tiers = {
            int(tier): TokenUsage(**dict(zip(USAGE, map(int, sums), strict=True)))
            for tier, *sums, _ in rows
        }
        counterfactual += at_realtime_price(price, tiers)
        if not duplicates:
            retries += sum(int(row[-1]) for row in rows)
    return _Answered(counterfactual, retries)


def _by_tier(starts: Sequence[int]) -> str:
    """The query whose `tier` is a request's position in the prices that begin above `starts`."""
    tier = " + ".join(f"CAST({_PROMPT} > {start} AS INTEGER)" for start in starts) or "0"
    return _BY_TIER.format(tier=tier, sums=", ".join(f"sum({name})" for name in USAGE))


def _attributed(pipeline: Pipeline, state: Progress) -> Decimal:
    """The sum of `cost_usd` over the rows that belong to what the ledger says is collected."""
    if not state.night.published:
        return ZERO
    folder = paths.results(state.night.job, state.night.partition)
    pending = {
        f"{folder}/{s.batch_id or s.token}.parquet"
        for s in state.submissions
        if s.state is not State.COLLECTED
    }
    # A file gets its name a moment before its submission counts as collected.
    files = [path for path in pipeline.files.list(folder, ".parquet") if path not in pending]
    with joins.tables(pipeline.files, {"results": (files, RESULTS_SCHEMA)}) as connection:
        [(amount,)] = connection.execute("SELECT sum(cost_usd) FROM results").fetchall()
    return ZERO if amount is None else Decimal(amount)


def _turnarounds(state: Progress) -> list[float]:
    return [
        # Two clocks, the API's and the ledger's: never less than nothing.
        max(0.0, s.ended_at - s.accepted_at)
        for s in state.submissions
        if s.batch_id is not None and s.accepted_at is not None and s.ended_at is not None
    ]


def _pilot(verdict: Mapping[str, Any] | None) -> Pilot | None:
    if verdict is None:
        return None
    return Pilot(
        open=verdict["open"],
        reasons=tuple(verdict["reasons"]),
        sample=verdict["sample"],
        error_rate=verdict["error_rate"],
        truncated_rate=verdict["truncated_rate"],
        projected_usd=Decimal(str(verdict["projected_usd"])) if verdict["judged"] else None,
    )


def _set_aside(pipeline: Pipeline, night: Night) -> tuple[SetAside, ...]:
    if not night.published:
        return ()
    groups = dead_letter.summarize(pipeline, night.job, night.partition)
    return tuple(SetAside(**vars(group)) for group in groups[:MOST_GROUPS])


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
