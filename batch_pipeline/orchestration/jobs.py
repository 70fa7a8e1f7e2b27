"""A job's partitions in Dagster, its two Dagster jobs, and its nightly schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from batch_pipeline.errors import UsageError
from batch_pipeline.jobs import partitions
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration import asset_options
from batch_pipeline.orchestration.checks import missing_nights, stopped_nights
from batch_pipeline.orchestration.names import (
    ASSETS,
    INPUT_DATASET,
    JOB_TAG,
    KIND_TAG,
    PRIORITY_TAG,
    SUBMITTED_BATCHES,
    Kind,
    asset_key,
    dagster_job,
    schedule_name,
)

if TYPE_CHECKING:
    # What `define_asset_job` returns has no public name.
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )

    AssetJob = UnresolvedAssetJobDefinition

Partitions = dg.DailyPartitionsDefinition | dg.StaticPartitionsDefinition

_ABOUT = {
    Kind.SUBMIT: "Input, pilot and submission of a night: what schedules and backfills target.",
    Kind.COLLECT: "Results of ended batches; publishes the night once it is complete.",
}
# Paid results are fetched before more is sent: a backfill over a year must not keep them waiting.
_PRIORITY = {Kind.SUBMIT: "0", Kind.COLLECT: "10"}


def partitions_definition(spec: JobSpec) -> Partitions:
    """One partition a day, or the single one of a job that declares none.

    The keys are those of `batch_pipeline.jobs.partitions`.
    """
    declared = spec.partitions
    if declared is None:
        return dg.StaticPartitionsDefinition([partitions.SINGLE_KEY])
    return dg.DailyPartitionsDefinition(
        start_date=declared.start.isoformat(),
        timezone=declared.timezone,
        end_offset=declared.end_offset,
    )


def build_jobs(spec: JobSpec) -> dict[Kind, AssetJob]:
    """Two jobs: one up to submission, one from the results on."""
    return {
        kind: dg.define_asset_job(
            name=dagster_job(spec.name, kind),
            selection=_selection(spec, kind),
            description=_ABOUT[kind],
            tags={
                **spec.run_tags,
                JOB_TAG: spec.name,
                KIND_TAG: kind.value,
                PRIORITY_TAG: _PRIORITY[kind],
            },
            # The steps follow one another: a process each would only add their starting times.
            executor_def=dg.in_process_executor,
        )
        for kind in Kind
    }


def _selection(spec: JobSpec, kind: Kind) -> dg.AssetSelection:
    """A kind's assets with the checks that they make, without what the sensor checks."""
    assets = dg.AssetSelection.assets(*(asset_key(spec.name, name) for name in ASSETS[kind]))
    if kind is Kind.COLLECT:
        return assets
    checks = [(SUBMITTED_BATCHES, stopped_nights.CHECK)]
    if spec.schedule is not None:
        checks.append((INPUT_DATASET, missing_nights.CHECK))
    keys = [dg.AssetCheckKey(asset_key(spec.name, asset), check) for asset, check in checks]
    return assets - dg.AssetSelection.checks(*keys)


def build_schedule(spec: JobSpec) -> dg.ScheduleDefinition | None:
    """Ticks in the time zone of the partitions; None where the job declares no cron.

    Stopped until a person starts it: it spends money.
    """
    if spec.schedule is None:
        return None

    @dg.schedule(
        name=schedule_name(spec.name),
        cron_schedule=spec.schedule,
        execution_timezone=asset_options.time_zone(spec),
        job_name=dagster_job(spec.name, Kind.SUBMIT),
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Runs the last ended day." if spec.partitions else "Runs the one partition.",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        tick = context.scheduled_execution_time
        try:
            key = partitions.default_key(spec.partitions, tick)
        except UsageError as nothing_yet:
            return dg.SkipReason(str(nothing_yet))
        return dg.RunRequest(run_key=f"{key}@{tick.isoformat()}", partition_key=key)

    return nightly
