"""What a run does beside the calls that it makes in real time: it collects, and says how far it is.

A night of batches leaves its run at once and is followed by the sensor; one in real time is worked
through in the run, which is therefore what a person watches, and what they terminate.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import dagster as dg

from batch_pipeline.flow import steps as flow
from batch_pipeline.flow.batches.submission import Submitted
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status import alerts
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.nights import Night
from batch_pipeline.orchestration import metadata
from batch_pipeline.orchestration.names import SUBMITTED_BATCHES, asset_key

# Observations are kept for ever: one a minute, and only where something has changed.
OBSERVE_SECONDS = 60.0


def submit_and_call(
    context: dg.AssetExecutionContext, pipeline: Pipeline, spec: JobSpec, night: Night
) -> Submitted:
    """Submit what may go; calls in real time go on until none is left, retry rounds included."""
    meanwhile = _meanwhile(context, pipeline, spec, night)
    while True:
        submitted = flow.submit(pipeline, spec, night, meanwhile)
        if not submitted.answers:
            return submitted
        flow.collect_ended(pipeline, spec, night)


def _meanwhile(
    context: dg.AssetExecutionContext, pipeline: Pipeline, spec: JobSpec, night: Night
) -> Callable[[], None]:
    observed_at, observed = time.monotonic(), ""

    def meanwhile() -> None:
        nonlocal observed_at, observed
        flow.collect_ended(pipeline, spec, night)
        if time.monotonic() - observed_at < OBSERVE_SECONDS:
            return
        observed_at = time.monotonic()
        state = flow.progress(pipeline, night)
        alerts.look(pipeline, spec.alerts, state)
        headline = metadata.headline(state)
        if headline == observed:
            return
        observed = headline
        context.log_event(
            dg.AssetObservation(
                asset_key=asset_key(spec.name, SUBMITTED_BATCHES),
                partition=context.partition_key,
                description=headline,
                metadata=metadata.of_submission(state, None, spec.alerts),
            )
        )

    return meanwhile
