"""What is read of Dagster's runs: what they execute, which are unfinished, how others ended."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import dagster as dg

from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.dagster_partitions import partitions_of, tags_of_runs_over
from batch_pipeline.orchestration.names import (
    ASSETS,
    COLLECTED_RESULTS,
    JOB_TAG,
    KIND_TAG,
    PARTITION_TAG,
    SUBMITTED_BATCHES,
    Kind,
    asset_key,
    op_name,
)

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
# Of one night and kind: more than any rest between attempts needs.
MOST_FORMER = 25
# What Dagster calls the job of runs that are launched from an asset's page.
ASSET_PAGE_JOB = "__ASSET_JOB"


def unfinished(instance: dg.DagsterInstance, spec: JobSpec) -> set[tuple[str, Kind]]:
    """Partitions and kinds of a job that have an unfinished run, by a person or by the sensor."""
    filters = dg.RunsFilter(statuses=UNFINISHED)
    return kinds_of(instance.get_runs(filters), spec)


def kinds_of(runs: Iterable[dg.DagsterRun], spec: JobSpec) -> set[tuple[str, Kind]]:
    """Partition and kind of each run of a job, of each partition where a run has a range.

    A run that was launched from an asset's page has none of this package's tags: the assets that it
    selects tell its kind.
    """
    found: set[tuple[str, Kind]] = set()
    for run in runs:
        kinds = _kinds(run, spec.name)
        if kinds:
            found |= {(key, kind) for key in partitions_of(run.tags, spec) for kind in kinds}
    return found


def _kinds(run: dg.DagsterRun, job: str) -> list[Kind]:
    if run.tags.get(JOB_TAG) == job:
        return [Kind(run.tags[KIND_TAG])]
    selected = run.asset_selection or ()
    return [kind for kind in Kind if any(asset_key(job, name) in selected for name in ASSETS[kind])]


def selected_of(run: dg.DagsterRun, chosen: Collection[dg.AssetKey], job: str) -> list[str]:
    """The submitting assets of a run whose Dagster job has the assets `chosen`."""
    only = run.step_keys_to_execute
    return [
        name
        for name in ASSETS[Kind.SUBMIT]
        if asset_key(job, name) in chosen and (not only or _has_step_of(only, op_name(job, name)))
    ]


def _has_step_of(steps: Collection[str], op: str) -> bool:
    """Whether one of a run's steps is an asset's, or one of those that its work is spread over."""
    return any(step == op or step.startswith(f"{op}.") for step in steps)


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


def was_terminated(
    instance: dg.DagsterInstance, spec: JobSpec, partition: str, let_go_at: float = 0.0
) -> bool:
    """Whether a person terminated the last run that submitted a partition, and has not let the
    night go on since."""
    # Dagster reports a run as canceled only where a person asked for that.
    submit = {JOB_TAG: spec.name, KIND_TAG: Kind.SUBMIT.value}
    looked_at: list[tuple[dg.RunsFilter, int]] = []
    for tags in tags_of_runs_over(spec, partition):
        # A range may begin before a partition and end before it too: more runs are looked at.
        most = 1 if PARTITION_TAG in tags else MOST_FORMER
        looked_at.append((dg.RunsFilter(tags={**submit, **tags}), most))
        looked_at.append((dg.RunsFilter(job_name=ASSET_PAGE_JOB, tags=tags), MOST_FORMER))
    return last_was_canceled(
        (record.create_timestamp.timestamp(), record.dagster_run.status in CANCELED)
        for filters, most in looked_at
        for record in instance.get_run_records(filters, limit=most)
        if (partition, Kind.SUBMIT) in kinds_of([record.dagster_run], spec)
        and record.create_timestamp.timestamp() > let_go_at
    )


def last_was_canceled(runs: Iterable[tuple[float, bool]]) -> bool:
    """Whether the newest of a night's submitting runs was canceled.

    Of each run: when it was created, and whether it was canceled. A person who terminates a run
    wants nothing more to be sent until another is launched.
    """
    return max(runs, default=(0.0, False))[1]
