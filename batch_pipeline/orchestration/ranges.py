"""Which partitions a run has: the one of its tag, or a range, as runs of a backfill may have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batch_pipeline.jobs.partitions import partitions
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.names import PARTITION_TAG, RANGE_END_TAG, RANGE_START_TAG


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
