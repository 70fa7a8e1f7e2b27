"""What every asset does around its step of the flow: open the night, give signs of life, retry,
and record failures."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

import dagster as dg

from batch_pipeline import logs
from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import ApiError, BatchPipelineError, StorageError
from batch_pipeline.flow import steps
from batch_pipeline.flow.control import approval
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status import failures, outage
from batch_pipeline.jobs.partitions.due_times import Start
from batch_pipeline.jobs.partitions.partitions import check_key
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.processes import heartbeat
from batch_pipeline.orchestration import dagster_failures, run_tags, runs
from batch_pipeline.orchestration.dagster_partitions import partitions_definition
from batch_pipeline.orchestration.names import (
    APPROVE_TAG,
    BACKFILL_TAG,
    FAILED_TAG,
    FOLLOW_UP_TAG,
    KIND_TAG,
    OUTAGE_TAG,
    SCHEDULE_TAG,
    SUBMITTED_BATCHES,
    USER_TAG,
    Kind,
    Part,
    op_name,
    work_of,
)
from batch_pipeline.orchestration.resources import PipelineResource
from batch_pipeline.safe_text import SafeLogger
from batch_pipeline.storage import storage_errors

# Seconds after which an input that could not be taken is tried again: storage that fails for a
# moment at 1 o'clock must not cost the night. Dagster's own retries would pause without a sign of
# life, and such a run would be started again beside itself.
INPUT_PAUSES = (60.0, 180.0, 420.0)
# How long a step waits for an API that does not answer. Its run fails then, and the sensor asks for
# another one.
PATIENCE_SECONDS = 3600.0

Taken = TypeVar("Taken")


def log_of(context: dg.AssetExecutionContext) -> SafeLogger:
    """The log of a step, with data of users and of the API as they may be shown."""
    return SafeLogger(context.log)


@contextmanager
def at_work(
    context: dg.AssetExecutionContext, resource: PipelineResource, spec: JobSpec, partition: str
) -> Iterator[Pipeline]:
    """Yield the pipeline of a step for a partition, once the API answers.

    The run gives signs of life while it waits for the API and within the block.
    """
    with dagster_failures.failing_clearly(), resource.pipeline() as pipeline:
        # Dagster's launchpad takes keys of no partition: the hour that summer time skips.
        check_key(spec.partitions, partition, datetime.now(UTC))
        lease = pipeline.settings.lease_seconds
        _refuse_other_partitions(context, spec)
        _tag_run(context, spec)
        try:
            with (
                _recorded(context, pipeline, spec, partition),
                heartbeat.alive(pipeline.ledger, context.run.run_id, lease),
            ):
                outage.wait_for_api(pipeline, spec, partition, patience=PATIENCE_SECONDS)
                yield pipeline
        except Exception as error:
            if failures.passes(error, pipeline.settings.home):
                # Dagster's own storage may be on the disk that is full.
                with contextlib.suppress(Exception):
                    context.instance.add_run_tags(context.run.run_id, {OUTAGE_TAG: "true"})
            known = storage_errors.explain(error, pipeline.settings.home)
            if known is None or isinstance(error, BatchPipelineError | ApiFailure):
                raise
            raise known from error


@contextmanager
def _recorded(
    context: dg.AssetExecutionContext, pipeline: Pipeline, spec: JobSpec, partition: str
) -> Iterator[None]:
    """Record in the ledger why a step of a night fails.

    A Failure is not recorded: its message is about the run, and a gate that it reports has an alert
    of its own. Nor is the error of a step that Dagster retries: the step has not failed yet.
    """
    again = context.op_def.retry_policy
    retried = again is not None and context.op_execution_context.retry_number < again.max_retries
    work, part = work_of(spec.name, context.op_def.name)

    def is_of_run(error: Exception) -> bool:
        return isinstance(error, dg.Failure) or (retried and dagster_failures.may_pass(error))

    with (
        logs.context(run=context.run.run_id),
        failures.recorded(
            pipeline,
            spec,
            partition,
            step=work,
            by=f"run {context.run.run_id}",
            asks=SUBMITTED_BATCHES in selected_assets(context, spec.name),
            apart=is_of_run,
            # A run over a range is not spread: its first step does it all.
            is_done=part in (None, Part.END) or not context.has_partition_key,
        ),
    ):
        yield


@contextmanager
def failure_noted(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Tag the run if its step raises and is not retried.

    The sensor takes a failed run without this tag for one that lost a worker, and repeats it.
    """
    try:
        yield
    except Exception as error:
        again = context.op_def.retry_policy
        retries = 0 if again is None else again.max_retries
        for_good = isinstance(error, dg.Failure) and not error.allow_retries
        if for_good or context.op_execution_context.retry_number >= retries:
            context.instance.add_run_tags(context.run.run_id, {FAILED_TAG: context.op_def.name})
        raise


def _refuse_other_partitions(context: dg.AssetExecutionContext, spec: JobSpec) -> None:
    """Fail where the post-processing of a folder above has given the asset other partitions."""
    declared = partitions_definition(spec)
    # Those of the specs: the definition's own are None where a check alone is run.
    if any(asset.partitions_def != declared for asset in context.assets_def.specs):
        raise dg.Failure(
            f"The partitions of {spec.name} were changed after it was built, so that Dagster and "
            "the command line would mean different nights: remove partitions_def from the "
            "post_processing of the folders above, and declare `partitions` in the job.",
            allow_retries=False,
        )


def _tag_run(context: dg.AssetExecutionContext, spec: JobSpec) -> None:
    """Give a run that was launched from an asset's page the tags that the job's own runs have."""
    tags = run_tags.of_run(spec)
    missing = {key: tag for key, tag in tags.items() if key not in context.run.tags}
    if missing:
        context.instance.add_run_tags(context.run.run_id, missing)


def patiently(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    spec: JobSpec,
    partition: str,
    work: Callable[[], Taken],
) -> Taken:
    """Return what `work` returns; it is tried again after errors of API or storage.

    To be called within `at_work`.
    """
    for pause in INPUT_PAUSES:
        try:
            return work()
        except Exception as error:
            passing = isinstance(error, ApiError | ApiFailure | StorageError)
            if not passing and storage_errors.explain(error, pipeline.settings.home) is None:
                raise
            log_of(context).warning("tried again in %.0f s: %s", pause, error)
            if isinstance(error, ApiFailure):
                outage.note_of_any(pipeline, pipeline.likely_owner(spec).accounts, error)
        time.sleep(pause)
        outage.wait_for_api(pipeline, spec, partition, patience=PATIENCE_SECONDS)
    return work()


def open_night(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    spec: JobSpec,
    asset: str,
    partition: str,
) -> Night:
    """The night of a partition.

    A run that a person or a schedule launched lifts a pause and a refusal, and gives the approval
    of its tag, once: in its first step, which is no share of work that is spread.
    """
    if APPROVE_TAG in context.run.tags and context.run.tags.get(KIND_TAG) == Kind.COLLECT:
        raise dg.Failure(
            f"The run tag {APPROVE_TAG} lets a night be sent: give it to {spec.name}_submit.",
            allow_retries=False,
        )
    night = steps.open_night(pipeline, spec, partition)
    selected = selected_assets(context, spec.name)
    first = selected[:1] == [asset] and _is_first(context, spec)
    if first and SUBMITTED_BATCHES in selected:
        steps.note_asked(pipeline, night)
    if FOLLOW_UP_TAG not in context.run.tags and first:
        if APPROVE_TAG in context.run.tags:
            _approve(context, pipeline, spec, night)
        night = steps.release(pipeline, night, resume=False)
    return night


def _is_first(context: dg.AssetExecutionContext, spec: JobSpec) -> bool:
    """Whether a step is the first of its asset in its run."""
    work, part = work_of(spec.name, context.op_def.name)
    if part is not Part.END:
        return True
    # Executed again from a failure, a run may have the end alone.
    begins = op_name(spec.name, work, Part.BEGIN)
    only = context.run.step_keys_to_execute or [begins]
    return not any(key.endswith(begins) for key in only)


def _approve(
    context: dg.AssetExecutionContext, pipeline: Pipeline, spec: JobSpec, night: Night
) -> None:
    gate, reason = approval.parse(context.run.tags[APPROVE_TAG])
    who = context.run.tags.get(USER_TAG) or f"dagster run {context.run.run_id}"
    given = approval.approve(pipeline, spec, night, gate, reason, who)
    log_of(context).info(
        "%s: the %s gate was approved by %s: %s",
        night.partition,
        given.gate,
        given.approved_by,
        given.reason,
    )


def start_of(run: dg.DagsterRun) -> Start:
    """Who began a night, by the tags that Dagster gives the runs of backfills and schedules."""
    if BACKFILL_TAG in run.tags:
        return Start.BACKFILL
    return Start.SCHEDULE if SCHEDULE_TAG in run.tags else Start.PERSON


def require_input(night: Night) -> None:
    """Fail where the night's input has not been taken."""
    if night.snapshot_id is None:
        raise dg.Failure(
            f"{night.job} {night.partition} has no input yet for owner {night.owner!r}: "
            "materialize input_dataset first.",
            allow_retries=False,
        )


def selected_assets(context: dg.AssetExecutionContext, job: str) -> list[str]:
    """The submitting assets that a run executes, in their order."""
    return runs.selected_of(context.run, context.job_def.asset_layer.selected_asset_keys, job)
