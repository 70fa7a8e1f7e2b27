"""A job's partitions as Dagster's; the keys are those of `batch_pipeline.jobs.partitions`."""

from __future__ import annotations

import dagster as dg

from batch_pipeline.jobs.partitions import SINGLE_KEY
from batch_pipeline.jobs.spec import JobSpec

Partitions = dg.DailyPartitionsDefinition | dg.StaticPartitionsDefinition


def partitions_definition(spec: JobSpec) -> Partitions:
    """One partition a day, or the single one of a job that declares none."""
    declared = spec.partitions
    if declared is None:
        return dg.StaticPartitionsDefinition([SINGLE_KEY])
    return dg.DailyPartitionsDefinition(
        start_date=declared.start.isoformat(),
        timezone=declared.timezone,
        end_offset=declared.end_offset,
    )
