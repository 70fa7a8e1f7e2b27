"""What the steps up to submission do: take the input, try the pilot, send batches to the API.

A night of batches leaves its run at once and is followed by the sensor. A night in real time is
worked through in the run itself: a person watches that run, and terminates it to stop the night.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import dagster as dg

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow import night_input, steps
from batch_pipeline.flow.batches.submission import Submitted
from batch_pipeline.flow.gates import models
from batch_pipeline.flow.night_input import InputTaken
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status import account_state, alerts, night_state, outage, warnings
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.admission import admission
from batch_pipeline.ledger.admission.admission import Waiting
from batch_pipeline.ledger.admission.night_state import Kind, states_of
from batch_pipeline.ledger.control import approvals
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.orchestration.asset_metadata import (
    answers_table,
    input_metadata,
    pilot_metadata,
    progress_metadata,
)
from batch_pipeline.orchestration.checks import night_checks
from batch_pipeline.orchestration.names import (
    INPUT_DATASET,
    PILOT_GATE,
    PILOT_SAMPLE,
    SUBMITTED_BATCHES,
    asset_key,
    upstream_keys,
)
from batch_pipeline.orchestration.resources import PipelineResource
from batch_pipeline.orchestration.steps import asset_steps, step_partitions, upstream_asset
from batch_pipeline.settings import is_simulated

# Observations are kept for ever: one a minute, and only where something has changed.
OBSERVE_SECONDS = 60.0


def run(
    context: dg.AssetExecutionContext, resource: PipelineResource, spec: JobSpec, asset: str
) -> Iterator[step_partitions.Event]:
    """What the step of an asset comes to."""
    works = _works(context, spec, asset)
    yield from step_partitions.results(context, resource, spec, works)


def _works(
    context: dg.AssetExecutionContext, spec: JobSpec, asset: str
) -> list[step_partitions.Work]:
    """What a step does for each of its partitions: the work of its asset, or in a run over a range
    that of all assets of the run, in the first step."""
    if not step_partitions.is_range(context):
        return [WORKS[asset]]
    selected = asset_steps.selected_assets(context, spec.name)
    return [WORKS[name] for name in selected] if asset == selected[0] else []


def _take_input(
    context: dg.AssetExecutionContext, pipeline: Pipeline, spec: JobSpec, partition: str
) -> Iterator[step_partitions.Result]:
    night = asset_steps.open_night(context, pipeline, spec, INPUT_DATASET, partition)
    start = asset_steps.start_of(context.run)

    def take() -> InputTaken:
        upstream_asset.take(context, pipeline, spec, partition)
        return night_input.take_input(pipeline, spec, night, again=True, start=start)

    yield from input_taken(context, pipeline, spec, partition, take)


def input_taken(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    spec: JobSpec,
    partition: str,
    take: Callable[[], InputTaken],
) -> Iterator[step_partitions.Result]:
    """Take a night's input by `take`, tried again where API or storage fail; what came of it."""

    def work() -> tuple[list[str], InputTaken]:
        return models.notices(spec, pipeline.api_for(spec)), take()

    with pipeline.ledger.read() as connection:
        began = now(connection)
    notices, taken = asset_steps.patiently(context, pipeline, spec, partition, work)
    selected = asset_steps.selected_assets(context, spec.name)
    if taken.snapshot.taken_at >= began and SUBMITTED_BATCHES not in selected:
        # To take another input spends nothing, and is no leave to spend.
        steps.note_asked(pipeline, taken.night, wanted=False)
    table = input_metadata.of_table(pipeline, spec, taken.snapshot, partition)
    keys = upstream_keys(spec)
    upstream = input_metadata.upstream(context.instance, keys, partition)
    asset_steps.log_of(context).info("%s: %s", partition, taken.note)
    for notice in notices:
        asset_steps.log_of(context).warning("%s: %s", spec.name, notice)
    yield dg.MaterializeResult(
        asset_key=asset_key(spec.name, INPUT_DATASET),
        metadata={**input_metadata.of_input(spec, taken, notices), **upstream, **table},
        # Whether the night's documents changed, for what Dagster calls stale downstream.
        data_version=dg.DataVersion(taken.snapshot.content_hash),
    )


def _try_pilot(
    context: dg.AssetExecutionContext, pipeline: Pipeline, spec: JobSpec, partition: str
) -> Iterator[step_partitions.Result]:
    key = asset_key(spec.name, PILOT_SAMPLE)
    night = asset_steps.open_night(context, pipeline, spec, PILOT_SAMPLE, partition)
    asset_steps.require_input(night)
    try:
        verdict = steps.run_pilot(pipeline, spec, night)
    except ApiFailure as failure:
        outage.note_of_any(pipeline, night.sent_by, failure)
        verdict = admission.unanswered(night, failure, night.open_requests)
    state = steps.progress(pipeline, night)
    alerts.look(pipeline, spec.alerts, state)
    given = state.approvals
    if isinstance(verdict, Waiting):
        asset_steps.log_of(context).info("%s: the pilot waits: %s", partition, verdict)
        yield dg.MaterializeResult(asset_key=key, metadata=pilot_metadata.of_waiting_pilot(verdict))
        return
    lets_go = approvals.lets_go(verdict, given)
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name=PILOT_GATE,
        # An overruled pilot stays red; one that was reviewed is green.
        passed=verdict["open"] and lets_go,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            **pilot_metadata.of_gate(partition, verdict, given),
            **night_checks.pilot_limits(spec),
        },
    )
    if not lets_go:
        # After the check's result, which is stored all the same: the asset must not look done.
        fail_if_gated(spec, state)
    simulated = is_simulated(night.owner)
    yield dg.MaterializeResult(
        asset_key=key,
        metadata=answers_table.below_headline(
            pilot_metadata.of_pilot(verdict, given, simulated=simulated),
            answers_table.of_night(pipeline, spec, partition),
        ),
    )


def _send(
    context: dg.AssetExecutionContext, pipeline: Pipeline, spec: JobSpec, partition: str
) -> Iterator[step_partitions.Result]:
    night = asset_steps.open_night(context, pipeline, spec, SUBMITTED_BATCHES, partition)
    asset_steps.require_input(night)
    before = steps.progress(pipeline, night)
    alerts.look(pipeline, spec.alerts, before)
    fail_if_gated(spec, before)
    try:
        steps.meet_deadline(pipeline, spec, night)
        waiting = submit(context, pipeline, spec, night).waiting
    except ApiFailure as failure:
        outage.note_of_any(pipeline, night.sent_by, failure)
        waiting = admission.unanswered(night, failure, night.open_requests)
    state = steps.progress(pipeline, night)
    alerts.look(pipeline, spec.alerts, state)
    log = asset_steps.log_of(context)
    log.info("%s: %s", partition, state.describe())
    if waiting.state is not None:
        log.info("%s: %s", partition, waiting)
    for warning in warnings.of(state, spec.alerts):
        log.warning("%s: %s", partition, warning.message)
    yield dg.MaterializeResult(
        asset_key=asset_key(spec.name, SUBMITTED_BATCHES),
        metadata=progress_metadata.of_submission(
            state, waiting.state, spec.alerts, account_state.look(pipeline, state.night.owner)
        ),
    )


WORKS: dict[str, step_partitions.Work] = {
    INPUT_DATASET: _take_input,
    PILOT_SAMPLE: _try_pilot,
    SUBMITTED_BATCHES: _send,
}


def fail_if_gated(spec: JobSpec, state: Progress) -> None:
    """Fail where the pilot's gate or the breaker is closed: a run of the submission alone has no
    check that would stop it."""
    for found in states_of(night_state.facts_of(state, spec.alerts)):
        if found.kind in (Kind.PILOT_CLOSED, Kind.BREAKER_OPEN):
            error = night_state.error_of(state.night, found, state.waiting)
            page = pilot_metadata.of_page(state.night.pilot or {})
            raise dg.Failure(str(error), metadata=page, allow_retries=False)


def submit(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    *,
    observes: bool = True,
) -> Submitted:
    """Submit what may go. Real-time calls are made until none is left, retry rounds included.

    Of several workers of a night one `observes` how far it is.
    """
    wait = OBSERVE_SECONDS if observes else math.inf
    meanwhile = _observing(context, pipeline, spec, night, wait)
    while True:
        submitted = steps.submit(pipeline, spec, night, meanwhile)
        if not submitted.answers:
            return submitted
        steps.collect_ended(pipeline, spec, night)


def _observing(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    wait: float,
) -> Callable[[], None]:
    """A function for the time in which real-time calls are made: collects and observes, the latter
    every `wait` seconds."""
    observed_at, observed = time.monotonic(), ""

    def meanwhile() -> None:
        nonlocal observed_at, observed
        steps.collect_ended(pipeline, spec, night)
        if time.monotonic() - observed_at < wait:
            return
        observed_at = time.monotonic()
        state = steps.progress(pipeline, night)
        alerts.look(pipeline, spec.alerts, state)
        headline = progress_metadata.headline(state)
        if headline == observed:
            return
        observed = headline
        context.log_event(
            dg.AssetObservation(
                asset_key=asset_key(spec.name, SUBMITTED_BATCHES),
                partition=night.partition,
                description=headline,
                metadata=progress_metadata.of_submission(
                    state, None, spec.alerts, account_state.look(pipeline, state.night.owner)
                ),
            )
        )

    return meanwhile
