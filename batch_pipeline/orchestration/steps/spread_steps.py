"""The steps of an asset whose work is spread over workers (the ops are in `definitions.spread`).

A run over a range of partitions is not spread: its first step works night by night.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import dagster as dg

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow import night_input, steps
from batch_pipeline.flow.night_input import InputTaken
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status import alerts, night_state, outage
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.admission.night_state import may_go
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.orchestration.names import (
    COLLECTED_RESULTS,
    INPUT_DATASET,
    SUBMITTED_BATCHES,
    Kind,
)
from batch_pipeline.orchestration.resources import PipelineResource
from batch_pipeline.orchestration.steps import (
    asset_steps,
    collect_steps,
    step_partitions,
    submit_steps,
    upstream_asset,
)
from batch_pipeline.orchestration.steps.step_partitions import Event, Result

Context = dg.AssetExecutionContext
IN_PROCESS = "in_process"


@dataclass(frozen=True)
class Spread:
    """The three parts of spread work, each for one night.

    `begin` prepares the work and returns how many workers to start, `share` is what each worker
    does, `end` does what is left and yields the results.
    """

    begin: Callable[[Context, Pipeline, JobSpec, str], int]
    share: Callable[[Context, Pipeline, JobSpec, str], None]
    end: step_partitions.Work


def begin(
    context: Context, resource: PipelineResource, spec: JobSpec, work: str
) -> Iterator[Event | dg.DynamicOutput[None]]:
    """Yield an output for each worker to start; in a run over a range, do all the work instead."""
    if not context.has_partition_key:
        yield from _whole(context, resource, spec, work)
        return
    partition = context.partition_key
    with _one_night(context, resource, spec, partition) as pipeline:
        workers = WORKS[work].begin(context, pipeline, spec, partition)
    log = asset_steps.log_of(context)
    if workers > 1 and context.job_def.executor_def.name == IN_PROCESS:
        log.warning(
            "%s: the executor %s runs the %d shares one after the other, in one process: `spread` "
            "gains nothing with it",
            partition,
            IN_PROCESS,
            workers,
        )
    for number in range(1, workers + 1):
        yield dg.DynamicOutput(None, mapping_key=str(number))


def share(context: Context, resource: PipelineResource, spec: JobSpec, work: str) -> None:
    """Do a worker's share: all that the worker can claim before others do."""
    partition = context.partition_key
    with _one_night(context, resource, spec, partition) as pipeline:
        WORKS[work].share(context, pipeline, spec, partition)


def end(context: Context, resource: PipelineResource, spec: JobSpec, work: str) -> Iterator[Result]:
    """Do what is left of the work and yield its results; nothing in a run over a range."""
    if not context.has_partition_key:
        return
    found = step_partitions.results(context, resource, spec, [WORKS[work].end])
    for result in found:
        assert isinstance(result, dg.MaterializeResult | dg.AssetCheckResult), "of one partition"
        yield result


@contextmanager
def _one_night(
    context: Context, resource: PipelineResource, spec: JobSpec, partition: str
) -> Iterator[Pipeline]:
    at_work = asset_steps.at_work(context, resource, spec, partition)
    with asset_steps.failure_noted(context), at_work as pipeline:
        yield pipeline


def _whole(
    context: Context, resource: PipelineResource, spec: JobSpec, work: str
) -> Iterator[Event]:
    if work == Kind.COLLECT:
        yield from collect_steps.run(context, resource, spec)
    else:
        yield from submit_steps.run(context, resource, spec, work)


def _begin_input(context: Context, pipeline: Pipeline, spec: JobSpec, partition: str) -> int:
    night = asset_steps.open_night(context, pipeline, spec, INPUT_DATASET, partition)

    def begin() -> int:
        upstream_asset.take(context, pipeline, spec, partition)
        return night_input.begin_input(pipeline, spec, night, again=True).workers

    return asset_steps.patiently(context, pipeline, spec, partition, begin)


def _read_share(context: Context, pipeline: Pipeline, spec: JobSpec, partition: str) -> None:
    night = steps.open_night(pipeline, spec, partition)

    def read() -> int:
        return night_input.read_share(pipeline, spec, night)

    read_pieces = asset_steps.patiently(context, pipeline, spec, partition, read)
    asset_steps.log_of(context).info("%s: read %d pieces of the input", partition, read_pieces)


def _end_input(
    context: Context, pipeline: Pipeline, spec: JobSpec, partition: str
) -> Iterator[Result]:
    night = asset_steps.open_night(context, pipeline, spec, INPUT_DATASET, partition)
    start = asset_steps.start_of(context.run)

    def take() -> InputTaken:
        return night_input.end_input(pipeline, spec, night, start=start)

    yield from submit_steps.input_taken(context, pipeline, spec, partition, take)


def _begin_sending(context: Context, pipeline: Pipeline, spec: JobSpec, partition: str) -> int:
    """One worker for every two batches, or for every two checkpoints of real-time calls."""
    night = asset_steps.open_night(context, pipeline, spec, SUBMITTED_BATCHES, partition)
    asset_steps.require_input(night)
    state = steps.progress(pipeline, night)
    alerts.look(pipeline, spec.alerts, state)
    submit_steps.fail_if_gated(spec, state)
    if not may_go(replace(night_state.facts_of(state, spec.alerts), asked=True)):
        return 0
    realtime = spec.mode == "realtime"
    most = spec.realtime.checkpoint_every if realtime else spec.limits.max_requests_per_batch
    return _worth(spec, math.ceil(state.waiting / most) // 2)


def _send_share(context: Context, pipeline: Pipeline, spec: JobSpec, partition: str) -> None:
    night = steps.open_night(pipeline, spec, partition)
    observes = context.op_execution_context.get_mapping_key() == "1"
    try:
        submit_steps.submit(context, pipeline, spec, night, observes=observes)
    except ApiFailure as failure:
        # `end` reports what waits, and for what.
        outage.note_of_any(pipeline, night.sent_by, failure)


def _begin_collecting(context: Context, pipeline: Pipeline, spec: JobSpec, partition: str) -> int:
    night = asset_steps.open_night(context, pipeline, spec, COLLECTED_RESULTS, partition)
    if night.snapshot_id is None:
        return 0
    collect_steps.poll(context, pipeline, night)
    with pipeline.ledger.read() as connection:
        ended = submissions.of_night(connection, night.id, State.ENDED)
    return _worth(spec, len(ended) // 2)


def _collect_share(_: Context, pipeline: Pipeline, spec: JobSpec, partition: str) -> None:
    night = steps.open_night(pipeline, spec, partition)
    steps.collect_ended(pipeline, spec, night)


def _worth(spec: JobSpec, most: int) -> int:
    """How many workers to start where there is work for `most`; 0 rather than 1: `end` is one."""
    workers = min(spec.spread, most)
    return workers if workers > 1 else 0


WORKS: dict[str, Spread] = {
    INPUT_DATASET: Spread(_begin_input, _read_share, _end_input),
    SUBMITTED_BATCHES: Spread(_begin_sending, _send_share, submit_steps.WORKS[SUBMITTED_BATCHES]),
    Kind.COLLECT: Spread(_begin_collecting, _collect_share, collect_steps.collect_night),
}
