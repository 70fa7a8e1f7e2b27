"""A job's partitions in Dagster: their definition, and which of them a run has.

A run has one partition, or a range of them if a backfill started it; its tags say which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import dagster as dg

from batch_pipeline.jobs.partitions import partitions
from batch_pipeline.jobs.partitions.declared_partitions import PartitionsSpec
from batch_pipeline.jobs.partitions.time_windows import Every
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.names import PARTITION_TAG, RANGE_END_TAG, RANGE_START_TAG

Partitions = dg.TimeWindowPartitionsDefinition | dg.StaticPartitionsDefinition

_DEFINITIONS: dict[Every, Callable[..., dg.TimeWindowPartitionsDefinition]] = {
    "hour": dg.HourlyPartitionsDefinition,
    "day": dg.DailyPartitionsDefinition,
    "week": dg.WeeklyPartitionsDefinition,
    "month": dg.MonthlyPartitionsDefinition,
}


def partitions_definition(spec: JobSpec) -> Partitions:
    """The job's partitions, or the single one of a job that declares none.

    The keys are those of `batch_pipeline.jobs.partitions.partitions`.
    """
    declared = spec.partitions
    if not isinstance(declared, PartitionsSpec):
        names = [partitions.SINGLE_KEY] if declared is None else declared.names
        return dg.StaticPartitionsDefinition(list(names))
    return _DEFINITIONS[declared.every](
        start_date=declared.dagster_start,
        timezone=declared.timezone,
        end_offset=declared.end_offset,
    )


def backfill_policy(spec: JobSpec) -> dg.BackfillPolicy | None:
    """How many partitions a run of a backfill has; None: one, which is Dagster's default."""
    most = spec.backfill.partitions_per_run
    return None if most == 1 else dg.BackfillPolicy.multi_run(most)


def partitions_of(tags: Mapping[str, str], spec: JobSpec) -> list[str]:
    """The partitions of a run by its tags; none where it has none that the job declares."""
    one = tags.get(PARTITION_TAG)
    if one is not None:
        return [one]
    first, last = tags.get(RANGE_START_TAG), tags.get(RANGE_END_TAG)
    if first is None or last is None:
        return []
    return partitions.keys_in_range(spec.partitions, first, last)


def is_range(tags: Mapping[str, str]) -> bool:
    return PARTITION_TAG not in tags and RANGE_START_TAG in tags


def tags_of_runs_over(spec: JobSpec, partition: str) -> list[dict[str, str | Sequence[str]]]:
    """Tags of the runs that may have a partition: its own, or the start of a range.

    A range is no longer than a run of a backfill may be, as the job is declared now.
    """
    found: list[dict[str, str | Sequence[str]]] = [{PARTITION_TAG: partition}]
    most = spec.backfill.partitions_per_run
    if most > 1:
        starts = partitions.keys_up_to(spec.partitions, partition, most)
        found.append({RANGE_START_TAG: starts})
    return found
