"""The nightly schedule: when a night begins."""

from __future__ import annotations

import dagster as dg

from batch_pipeline.errors import UsageError
from batch_pipeline.jobs import partitions
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.names import Kind, dagster_job, schedule_name


def build_schedule(spec: JobSpec) -> dg.ScheduleDefinition | None:
    """Ticks in the time zone of the partitions; None where the job declares no cron.

    Stopped until a person starts it: it spends money.
    """
    if spec.schedule is None:
        return None

    @dg.schedule(
        name=schedule_name(spec.name),
        cron_schedule=spec.schedule,
        execution_timezone=spec.partitions.timezone if spec.partitions else "UTC",
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
