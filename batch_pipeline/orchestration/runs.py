"""What the sensor reads of Dagster's runs: which are unfinished, and how earlier ones ended."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from batch_pipeline.orchestration.lost_runs import is_lost
from batch_pipeline.orchestration.names import (
    ASSETS,
    COLLECTED_RESULTS,
    FOLLOW_UP_TAG,
    JOB_TAG,
    KIND_TAG,
    PARTITION_TAG,
    SUBMITTED_BATCHES,
    Kind,
    asset_key,
)
from batch_pipeline.orchestration.run_requests import EarlierRun, last_was_canceled

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.MANAGED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.SUSPENDED,
    dg.DagsterRunStatus.CANCELING,
]
CANCELED = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)
FAILED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
# What Dagster calls the job of runs that are launched from an asset's page.
ASSET_PAGE_JOB = "__ASSET_JOB"
# Of one night and kind: more than any rest between attempts needs.
MOST_FORMER = 25


def unfinished(instance: dg.DagsterInstance, job: str) -> set[tuple[str, Kind]]:
    """Partitions and kinds of a job that have an unfinished run, by a person or by the sensor."""
    filters = dg.RunsFilter(statuses=UNFINISHED)
    return kinds_of(instance.get_runs(filters), job)


def kinds_of(runs: Iterable[dg.DagsterRun], job: str) -> set[tuple[str, Kind]]:
    """Partition and kind of each run of a job.

    A run that was launched from an asset's page has none of this package's tags: the assets that it
    selects tell its kind.
    """
    found: set[tuple[str, Kind]] = set()
    for run in runs:
        partition = run.tags.get(PARTITION_TAG)
        if partition is None:
            continue
        if run.tags.get(JOB_TAG) == job:
            found.add((partition, Kind(run.tags[KIND_TAG])))
            continue
        for kind in Kind:
            if any(asset_key(job, name) in (run.asset_selection or ()) for name in ASSETS[kind]):
                found.add((partition, kind))
    return found


def submission_asked(instance: dg.DagsterInstance, job: str, partition: str, since: float) -> bool:
    """Whether `submitted_batches` was materialized for a partition at or after a time.

    The asset materializes also where nothing could go out: it stands for the order to submit.
    """
    filters = dg.AssetRecordsFilter(
        asset_key=asset_key(job, SUBMITTED_BATCHES),
        asset_partitions=[partition],
        after_timestamp=since,
    )
    return bool(instance.fetch_materializations(filters, limit=1).records)


def unshown(instance: dg.DagsterInstance, job: str) -> set[str]:
    """Partitions with a materialization of the submission in Dagster, and none of the results."""
    submitted = instance.get_materialized_partitions(asset_key(job, SUBMITTED_BATCHES))
    return submitted - instance.get_materialized_partitions(asset_key(job, COLLECTED_RESULTS))


def earlier(instance: dg.DagsterInstance, job: str, partition: str, kind: Kind) -> list[EarlierRun]:
    """Follow-ups of a night that have ended, newest first."""
    filters = dg.RunsFilter(
        tags={JOB_TAG: job, KIND_TAG: kind.value, PARTITION_TAG: partition},
    )
    return [
        EarlierRun(
            marker=record.dagster_run.tags[FOLLOW_UP_TAG],
            failed=record.dagster_run.status in FAILED,
            ended_at=record.end_time or record.update_timestamp.timestamp(),
            lost=is_lost(record.dagster_run),
        )
        for record in instance.get_run_records(filters, limit=MOST_FORMER)
        if FOLLOW_UP_TAG in record.dagster_run.tags
    ]


def was_terminated(
    instance: dg.DagsterInstance, job: str, partition: str, resumed_at: float
) -> bool:
    """Whether a person terminated the last run that submitted a partition, and has not let the
    night go on since."""
    # Dagster reports a run as canceled only where a person asked for that.
    launched_here = dg.RunsFilter(
        tags={JOB_TAG: job, KIND_TAG: Kind.SUBMIT.value, PARTITION_TAG: partition}
    )
    from_asset_page = dg.RunsFilter(job_name=ASSET_PAGE_JOB, tags={PARTITION_TAG: partition})
    return last_was_canceled(
        (record.create_timestamp.timestamp(), record.dagster_run.status in CANCELED)
        for filters, most in ((launched_here, 1), (from_asset_page, MOST_FORMER))
        for record in instance.get_run_records(filters, limit=most)
        if (partition, Kind.SUBMIT) in kinds_of([record.dagster_run], job)
        and record.create_timestamp.timestamp() > resumed_at
    )
