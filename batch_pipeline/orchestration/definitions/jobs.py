"""The two Dagster jobs that bring a job's nights forward, and its nightly schedule."""

from __future__ import annotations

import dagster as dg

from batch_pipeline.errors import UsageError
from batch_pipeline.jobs.partitions import partitions
from batch_pipeline.jobs.partitions.declared_partitions import (
    Declared,
    PartitionNames,
    PartitionsSpec,
)
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration import run_tags
from batch_pipeline.orchestration.definitions.executors import AssetJob
from batch_pipeline.orchestration.names import (
    ASSETS,
    EVERY_DUE_NIGHT_BEGAN,
    INPUT_DATASET,
    JOB_TAG,
    KIND_TAG,
    NO_NIGHT_IS_STOPPED,
    PRIORITY_TAG,
    SUBMITTED_BATCHES,
    Kind,
    asset_key,
    dagster_job,
    schedule_name,
)

_ABOUT = {
    Kind.SUBMIT: "Input, pilot and submission of a night: what schedules and backfills target.",
    Kind.COLLECT: "Results of ended batches; publishes the night once it is complete.",
}
# Paid results are fetched before more is sent: a backfill over a year must not keep them waiting.
_PRIORITY = {Kind.SUBMIT: "0", Kind.COLLECT: "10"}


def build_jobs(spec: JobSpec) -> dict[Kind, AssetJob]:
    """The job up to submission and the job from the results on, by kind."""
    return {
        kind: AssetJob(
            name=dagster_job(spec.name, kind),
            selection=_selection(spec, kind),
            description=_ABOUT[kind],
            tags={
                **run_tags.of_run(spec),
                JOB_TAG: spec.name,
                KIND_TAG: kind.value,
                PRIORITY_TAG: _PRIORITY[kind],
            },
        )
        for kind in Kind
    }


def _selection(spec: JobSpec, kind: Kind) -> dg.AssetSelection:
    """The assets of a kind with the checks that their steps make, without the sensor's checks."""
    assets = dg.AssetSelection.assets(*(asset_key(spec.name, name) for name in ASSETS[kind]))
    if kind is Kind.COLLECT:
        return assets
    checks = [(SUBMITTED_BATCHES, NO_NIGHT_IS_STOPPED)]
    if spec.schedule is not None:
        checks.append((INPUT_DATASET, EVERY_DUE_NIGHT_BEGAN))
    keys = [dg.AssetCheckKey(asset_key(spec.name, asset), check) for asset, check in checks]
    return assets - dg.AssetSelection.checks(*keys)


def build_schedule(spec: JobSpec) -> dg.ScheduleDefinition | None:
    """The schedule, in the time zone of the partitions; None where the job declares no cron.

    Stopped until a person starts it: it spends money.
    """
    if spec.schedule is None:
        return None

    @dg.schedule(
        name=schedule_name(spec.name),
        cron_schedule=spec.schedule,
        execution_timezone=partitions.timezone_of(spec.partitions),
        job_name=dagster_job(spec.name, Kind.SUBMIT),
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=_about_schedule(spec.partitions),
    )
    def nightly(
        context: dg.ScheduleEvaluationContext,
    ) -> dg.RunRequest | list[dg.RunRequest] | dg.SkipReason:
        tick = context.scheduled_execution_time
        try:
            keys = partitions.due_keys(spec.partitions, tick)
        except UsageError as nothing_yet:
            return dg.SkipReason(str(nothing_yet))
        found = [
            dg.RunRequest(run_key=f"{key}@{tick.isoformat()}", partition_key=key) for key in keys
        ]
        return found[0] if len(found) == 1 else found

    return nightly


def _about_schedule(declared: Declared) -> str:
    match declared:
        case PartitionsSpec():
            return f"Runs the last ended {declared.every}."
        case PartitionNames():
            return "Runs each partition."
        case None:
            return "Runs the one partition."
