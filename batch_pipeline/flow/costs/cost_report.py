"""Assembles the cost report of a night from the ledger and the files, and writes it.

Belongs here: where each number comes from. Its arithmetic and its pages are in `reporting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow.compute as pc
from sqlalchemy import Connection

from batch_pipeline import telemetry
from batch_pipeline.flow import paths, publishing
from batch_pipeline.flow.answers.answers import next_suffix
from batch_pipeline.flow.costs import (
    answer_sums,
    asked_otherwise,
    avoided,
    deadline_cost,
    expectations,
)
from batch_pipeline.flow.costs.answer_sums import Priced
from batch_pipeline.flow.costs.estimate_ways import way_of
from batch_pipeline.flow.costs.tokens import tokens_without_api
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.gates.prices import price_at, price_of_variant, stated_prices
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results import dead_letters, results_folder
from batch_pipeline.flow.status import progress as progress_of
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.partitions.declared_partitions import Declared
from batch_pipeline.jobs.partitions.partitions import order_of
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights, shards, snapshots
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.cache_use import CacheSums
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.ledger.sums import of_models
from batch_pipeline.pricing.caching import break_even
from batch_pipeline.pricing.prices import ModelPrice
from batch_pipeline.pricing.tokens import Lifetime, TokenUsage
from batch_pipeline.reporting.distribution import Distribution
from batch_pipeline.reporting.report import report_document, report_html
from batch_pipeline.reporting.report.account_cost import AccountCost
from batch_pipeline.reporting.report.avoided import Avoided
from batch_pipeline.reporting.report.report import (
    ZERO,
    Approval,
    Billed,
    Caching,
    Costs,
    Duplicates,
    Gone,
    NightCost,
    Pilot,
    PricedModel,
    Report,
    SetAside,
)
from batch_pipeline.reporting.report.report_json import to_json
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# How many groups of dead letters a report shows; `dead-letter list` has all of them.
MOST_GROUPS = 20
# How many nights the trend shows, this one included.
MOST_NIGHTS = 30


def build_report(pipeline: Pipeline, spec: JobSpec, night: Night) -> Report:
    """The report of the night as it stands; does not call the API.

    Raises UsageError where there is no price any more for a model that was billed.
    """
    with pipeline.ledger.read() as connection:
        state = progress_of.of_night(connection, night.id)
        state = progress_of.with_all(connection, state)
        declared = _declarations(connection, state)
        others = _other_models(connection, state)
        trend = _trend(connection, spec.partitions, state.night)
        expected = expectations.of_night(connection, state.night)
        hurried = shards.shards_for_deadline(connection, night.id)
        by_account = _accounts(connection, state)
    night = state.night
    if state.snapshot is None:
        current = Declaration.of(spec)
    else:
        current = Declaration.from_json(state.snapshot.declaration)
    stated = state.submissions[-1].stated_prices if state.submissions else stated_prices(spec)
    price = price_at(current, _first_intent(state), stated)
    priced = _priced(state, declared, others)
    sums = answer_sums.of_night(pipeline, night, priced)
    otherwise, cascade = asked_otherwise.billed(pipeline, spec, night, priced, declared)
    caches = asked_otherwise.cached(state.cached) if state.caching else ()
    used = {declaration.model_id for declaration in declared.values()}
    used |= {model for models in others.values() for model in models}
    return Report(
        job=night.job,
        partition=night.partition,
        account=night.owner,
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
        reused=state.reused,
        batches=state.batches,
        retries=sums.retries,
        explained=sums.explained,
        continued=sums.continued,
        costs=Costs(
            batch_usd=state.cost_usd["batch"],
            realtime_usd=state.cost_usd["realtime"],
            counterfactual_usd=sum((m.counterfactual_usd for m in sums.models), ZERO),
            attributed_usd=_attributed(pipeline, state),
        ),
        duplicates=_duplicates(state),
        gone=Gone(state.gone_requests, state.gone_usd_bound),
        estimated_cost_usd=sum((s.estimated_usd for s in state.submissions), ZERO),
        fees=tuple(Billed(f.kind, f.name, f.quantity, f.usd) for f in state.fees),
        tokens=TokenUsage(**state.usage),
        pilot=_pilot(night.pilot),
        turnaround=Distribution.of_seconds(_turnarounds(state)),
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
        models=sums.models,
        prompt_tokens=sums.prompt_tokens,
        output_tokens=sums.output_tokens,
        wasted=sums.wasted,
        differences=expectations.differences(state, expected, sums, price),
        trend=trend,
        caching=_caching(state, current, stated),
        deadline=deadline_cost.of_night(pipeline, state, priced, hurried),
        not_escalated={str(cause): count for cause, count in state.stands.items()},
        filtered_by={} if state.snapshot is None else state.snapshot.filtered_by,
        accounts=by_account,
        avoided=(*_avoided(pipeline, spec, state, current, price), *otherwise, *caches),
        cascade=cascade,
    )


def _avoided(
    pipeline: Pipeline,
    spec: JobSpec,
    state: Progress,
    declaration: Declaration,
    price: ModelPrice,
) -> tuple[Avoided, ...]:
    """What the night did not buy, at the tokens that its own answers measured, where it has any."""
    if state.snapshot is None or not state.snapshot.avoided:
        return ()
    night = state.night
    tokens = tokens_without_api(pipeline, spec, night.partition, price, night.owner)
    return avoided.priced(state.snapshot, declaration, tokens, price, way_of(spec))


@telemetry.traced("report")
def write_report(pipeline: Pipeline, spec: JobSpec, night: Night) -> Report:
    """Build the report and write its three files, the JSON last: it is the signal of completion.

    Nothing is written unless the results folder shows this very night: folder and report are a
    pair, whatever the account. A night that is completed, or taken up again, meanwhile is reported
    anew, because an outdated `complete` would be believed.
    """
    while True:
        if pipeline.refreshed(night).published:
            results_folder.repair(pipeline, night)
        report = build_report(pipeline, spec, night)
        target = (report.job, report.partition)
        if not pipeline.refreshed(night).published:
            log.info("%s %s: no report written, the results are not of this night", *target)
            return report
        markdown, html = report_document.render(report), report_html.render(report)
        pipeline.files.write(paths.report(*target, ".md"), markdown.encode())
        pipeline.files.write(paths.report(*target, ".html"), html.encode())
        with pipeline.files.staged() as staged:
            staged.write_bytes(to_json(report).encode())
            pipeline.files.make_durable(staged)
            with (
                publishing.prepared(pipeline, night, [staged]) as publish,
                pipeline.ledger.write() as connection,
            ):
                current = nights.get_night(connection, night.id)
                completed_at = None if current.completed_at is None else _time(current.completed_at)
                same = completed_at == report.completed_at and not current.rebuilding
                if current.published and same:
                    publish(connection, [(staged, paths.report(*target, ".json"))])
                    return report


def _accounts(connection: Connection, state: Progress) -> tuple[AccountCost, ...]:
    """What each account has sent of the night, those that sent nothing that was taken in left
    out."""
    sent = [s for s in state.submissions if s.state not in (State.ABSENT, State.REFUSED)]
    found = []
    for name in sorted({s.account for s in sent}):
        own = [s for s in sent if s.account == name]
        found.append(
            AccountCost(
                name=name,
                organisation=accounts.get_account(connection, name).organisation_name,
                batches=sum(s.batch_id is not None for s in own),
                requests=sum(s.requests for s in own),
                usd=sum((_billed(s) for s in own), ZERO),
            )
        )
    return tuple(found)


def _billed(submission: Submission) -> Decimal:
    """What a submission was billed so far: of calls that are made, by their last checkpoint."""
    calls = Decimal((submission.progress or {}).get("cost_usd", 0))
    return submission.published_usd + calls if submission.cost_usd is None else submission.cost_usd


def _declarations(connection: Connection, state: Progress) -> dict[int, Declaration]:
    """The declaration of each collected submission, by the submission's id."""
    by_id = {shard.id: shard for shard in shards.list_shards(connection, state.night.id)}
    by_snapshot: dict[int, Declaration] = {}
    found = {}
    for submission in _collected(state):
        snapshot_id = by_id[submission.shard_id].snapshot_id
        if snapshot_id not in by_snapshot:
            declared = snapshots.get_snapshot(connection, snapshot_id).declaration
            by_snapshot[snapshot_id] = Declaration.from_json(declared)
        found[submission.id] = by_snapshot[snapshot_id]
    return found


def _collected(state: Progress) -> list[Submission]:
    return [s for s in state.submissions if s.has_answers]


def _duplicates(state: Progress) -> Duplicates:
    found = [s for s in _collected(state) if s.duplicate]
    return Duplicates(len(found), sum((s.cost_usd or ZERO for s in found), ZERO))


def _first_intent(state: Progress) -> datetime:
    """The time whose prices the report names; each submission is priced at its own time."""
    return _time(min((s.intent_at for s in state.submissions), default=state.night.created_at))


def _other_models(connection: Connection, state: Progress) -> dict[int, tuple[str, ...]]:
    """The models beside the declared one that each collected submission asked, by its id."""
    found = of_models(connection, [submission.id for submission in _collected(state)])
    return {submission_id: tuple(sorted(models)) for submission_id, models in found.items()}


def _priced(
    state: Progress,
    declared: Mapping[int, Declaration],
    others: Mapping[int, tuple[str, ...]],
) -> list[Priced]:
    """Collected submissions with the prices of the time at which they were sent, so that savings do
    not come from a change of prices."""
    return [
        Priced(
            submission,
            declared[submission.id].model_id,
            price_at(
                declared[submission.id], _time(submission.intent_at), submission.stated_prices
            ),
            others.get(submission.id, ()),
        )
        for submission in _collected(state)
    ]


def _trend(connection: Connection, declared: Declared, night: Night) -> tuple[NightCost, ...]:
    """The job's latest nights of this account up to this one, oldest first."""
    every = nights.list_nights(connection, job=night.job, owner=night.owner)
    order = {each.id: order_of(declared, each.partition, each.created_at) for each in every}
    latest = sorted(
        (each for each in every if order[each.id] <= order[night.id]),
        key=lambda each: order[each.id],
    )[-MOST_NIGHTS:]
    found = []
    for each in latest:
        state = progress_of.of_night(connection, each.id)
        found.append(
            NightCost(
                partition=each.partition,
                batch_usd=state.cost_usd["batch"],
                realtime_usd=state.cost_usd["realtime"],
                settled=state.settled,
                succeeded=state.succeeded,
                complete=state.complete,
            )
        )
    return tuple(found)


def _attributed(pipeline: Pipeline, state: Progress) -> Decimal:
    """The sum of `cost_usd` over the rows of the results whose submissions are collected."""
    if not state.night.published:
        return ZERO
    folder = paths.results(state.night.job, state.night.partition)
    pending = {
        f"{folder}/{s.batch_id or s.token}{next_suffix(s)}.parquet"
        for s in state.submissions
        if s.state is not State.COLLECTED
    }
    # A file of the results gets its name shortly before its submission counts as collected.
    files = [path for path in pipeline.files.list(folder, ".parquet") if path not in pending]
    columns = (pipeline.files.read_columns(path, ["cost_usd"]) for path in files)
    sums = (pc.sum(table.column("cost_usd")).as_py() for table in columns)
    return sum((amount for amount in sums if amount is not None), ZERO)


def _turnarounds(state: Progress) -> list[float]:
    return [
        # The times are of two clocks, the API's and the ledger's: the difference may be negative.
        max(0.0, s.ended_at - s.accepted_at)
        for s in state.submissions
        if s.batch_id is not None and s.accepted_at is not None and s.ended_at is not None
    ]


def _caching(
    state: Progress, current: Declaration, stated: Mapping[str, Any] | None
) -> Caching | None:
    if not state.caching:
        return None

    def pays_from(model_id: str, used: CacheSums) -> float | None:
        asked = replace(current, model_id=model_id)
        price = price_of_variant(asked, current, _first_intent(state), stated)
        lifetime: Lifetime = "5m" if used.written_5m_tokens > used.written_1h_tokens else "1h"
        return break_even(price.batch.prices[0], lifetime)

    return Caching(
        used=state.cached,
        prefix_tokens=None if state.prefix is None else state.prefix.tokens,
        summary=state.caching,
        break_even=pays_from(current.model_id, state.cached),
        models={name: (used, pays_from(name, used)) for name, used in state.caches.items()},
    )


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
        near_duplicates=(verdict.get("near_duplicates") or {}).get("reason"),
        escalated_rate=verdict.get("escalated_rate", 0.0),
        routes=tuple(verdict.get("routes", ())),
    )


def _set_aside(pipeline: Pipeline, night: Night) -> tuple[SetAside, ...]:
    if not night.published:
        return ()
    return tuple(dead_letters.summarize(pipeline, night.job, night.partition)[:MOST_GROUPS])


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
