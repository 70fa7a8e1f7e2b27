"""Finds runs that lost a worker and requests them again, where Dagster does not do so itself.

Dagster notices a dead worker only while the code server that started it lives, and retries a run
only if its daemon lives at that moment and its backfill has not ended. Every tick of the sensor
looks for the others: a run without a sign of life is reported as failed, and a run that failed
because its worker died is requested again, until a run ends without losing a worker. Otherwise a
night that a person, a schedule or a backfill asked for would stop where its worker died.

Under an executor that gives each step a process of its own, perhaps on another machine, a run may
lose the worker of one step. Dagster calls that a failed step, or waits for the step for ever. So a
step that fails by an error of its own tags its run (`FAILED_TAG`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.execution.stats import StepEventStatus

from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.database.ledger import Ledger, now
from batch_pipeline.ledger.processes import heartbeat
from batch_pipeline.orchestration import dagster_partitions
from batch_pipeline.orchestration.names import (
    APPROVE_TAG,
    ASSETS,
    FAILED_TAG,
    FOLLOW_UP_TAG,
    JOB_TAG,
    KIND_TAG,
    OUTAGE_TAG,
    REPEATS_TAG,
    USER_TAG,
    Kind,
    asset_key,
    dagster_job,
)
from batch_pipeline.orchestration.runs import selected_of
from batch_pipeline.orchestration.sensor.run_requests import lost_rest

FAILURE_REASON_TAG = "dagster/failure_reason"
# A step failed: in the run's own process it has said why.
STEP_FAILURE = "STEP_FAILURE"
# A run that cannot even be built would fail again.
NOT_BUILT = "JOB_INITIALIZATION_FAILURE"
IN_PROCESS = "in_process"
# Executors whose steps start at once; those of others wait for a worker, a pod, a machine.
ON_ONE_MACHINE = ("multiprocess", "multi_or_in_process_executor")
# From the start of a run or of a step to its first sign of life, in which it imports the flow.
IMPORT_SECONDS = 15.0
# Leases between two steps of a run on one machine: its own process lives, or all is dead.
GAP_LEASES = 10
# How long a step may wait for a worker. After that, its task or the run's own process counts as
# lost; if the queue was only long, the night begins anew.
LONGEST_WAIT_SECONDS = 3600.0
# Runs that died longer ago are left to a person: the sensor, or Dagster, has been off since.
WATCHED = timedelta(days=7)
# They take about 24 hours with the rests between them: such a worker does not die by accident.
MOST_REPEATS = 100
# How often a partition may have been materialized since its range was lost.
MATERIALIZED_AGAIN = 10


@dataclass(frozen=True)
class Launched:
    """A run that a person, a schedule or a backfill launched, or one that repeats it.

    `root` is the first of the runs that repeat one another, `assets` are those it materializes,
    `lost` says that its worker died.
    """

    partition: str
    run_id: str
    root: str
    created_at: float
    lost: bool
    ended_at: float
    assets: tuple[str, ...]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Repeat:
    """A lost run that is to be requested again, for the `number`-th time."""

    run: Launched
    number: int


def repeats(launched: Sequence[Launched], at: float) -> list[Repeat]:
    """The lost runs to repeat: the newest run of a partition, if it was lost and has rested.

    `launched` are all runs of the partitions concerned, unfinished ones included: a run that
    was launched after a lost one has taken its place.
    """
    runs_of: dict[str, list[Launched]] = {}
    for run in sorted(launched, key=_created_at):
        runs_of.setdefault(run.partition, []).append(run)
    found = []
    for _, runs in sorted(runs_of.items()):
        last = runs[-1]
        if not last.lost:
            continue
        in_a_row = sum(run.root == last.root for run in runs)
        if in_a_row <= MOST_REPEATS and at >= last.ended_at + lost_rest(in_a_row):
            found.append(Repeat(last, in_a_row))
    return found


def _created_at(run: Launched) -> float:
    return run.created_at


def dead(
    started: Mapping[str, float], alive_until: Mapping[str, float], lease_seconds: float, at: float
) -> list[str]:
    """The ids of runs whose worker is dead, of all runs that have started and not ended.

    A worker is dead where neither its start nor its last sign of life is within a lease; times are
    in seconds since the epoch, by run id.
    """
    return [
        run
        for run, started_at in started.items()
        if at > max(alive_until.get(run, 0.0), started_at + lease_seconds)
    ]


def report_dead(
    instance: dg.DagsterInstance, ledger: Ledger, job: str, lease_seconds: float
) -> None:
    """Report runs as failed that have lost a worker, where Dagster itself has not noticed it."""
    filters = dg.RunsFilter(tags={JOB_TAG: job}, statuses=[dg.DagsterRunStatus.STARTED])
    records = {record.dagster_run.run_id: record for record in instance.get_run_records(filters)}
    started = {run: (record.start_time or 0.0) + IMPORT_SECONDS for run, record in records.items()}
    if not started:
        return
    with ledger.read() as connection:
        signs = heartbeat.alive_until(connection, started)
        at = now(connection)
    for run in dead(started, signs, lease_seconds, at):
        found = records[run].dagster_run
        executor = executor_of(instance, found)
        begun = [] if executor == IN_PROCESS else _steps_at_work(instance, run)
        silent_for = at - max(signs.get(run, 0.0), started[run] + lease_seconds)
        if lost_a_worker(executor, begun, silent_for, lease_seconds, at):
            instance.report_run_failed(
                found,
                "A worker of it has given no sign of life for a while: it died, or is frozen. "
                "Nothing is lost: another run goes on from where it stopped.",
            )


def lost_a_worker(
    executor: str,
    begun: Sequence[float],
    silent_for: float,
    lease_seconds: float,
    at: float,
) -> bool:
    """Whether a run has lost a worker; it has given no sign of life for a lease and `silent_for`
    seconds more.

    `begun`: when the run's unfinished steps began, in seconds since the epoch. If it is empty, a
    step waits for a worker.
    """
    if executor == IN_PROCESS:
        return True
    if begun:
        return at > max(begun) + IMPORT_SECONDS + lease_seconds
    if executor in ON_ONE_MACHINE:
        return silent_for > GAP_LEASES * lease_seconds
    return silent_for > LONGEST_WAIT_SECONDS


def executor_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """The name of the executor that a run's plan was made for; in-process where there is none."""
    plan = run.execution_plan_snapshot_id
    if plan is None:
        return IN_PROCESS
    return instance.get_execution_plan_snapshot(plan).executor_name or IN_PROCESS


def _steps_at_work(instance: dg.DagsterInstance, run: str) -> list[float]:
    """When the steps of a run began that have not ended."""
    return [
        step.start_time or 0.0
        for step in instance.get_run_step_stats(run)
        if step.status is StepEventStatus.IN_PROGRESS
    ]


def repeat_requests(instance: dg.DagsterInstance, spec: JobSpec) -> list[dg.RunRequest]:
    """Run requests that repeat the lost runs of a job's submission, a partition each."""
    submit = {JOB_TAG: spec.name, KIND_TAG: Kind.SUBMIT.value}
    since = datetime.now(UTC) - WATCHED
    failed = instance.get_run_records(
        dg.RunsFilter(tags=submit, statuses=[dg.DagsterRunStatus.FAILURE], created_after=since)
    )
    lost = [
        record
        for record in failed
        if is_lost(instance, record.dagster_run) and FOLLOW_UP_TAG not in record.dagster_run.tags
    ]
    if not lost:
        return []
    # The lost runs too: they are the newest of their partitions, or others have taken their place.
    first = min(record.create_timestamp for record in lost) - timedelta(seconds=1)
    later = instance.get_run_records(dg.RunsFilter(tags=submit, created_after=first))
    found = repeats(_launched(instance, later, spec), time.time())
    done = _come_to(instance, spec.name, [repeat.run for repeat in found])
    return [
        _request(spec.name, repeat)
        for repeat in found
        if (repeat.run.run_id, repeat.run.partition) not in done
    ]


def _come_to(
    instance: dg.DagsterInstance, job: str, runs: Sequence[Launched]
) -> set[tuple[str, str]]:
    """Run id and partition of what lost runs over ranges had already materialized."""
    partitions: dict[str, list[str]] = {}
    for run in runs:
        if run.assets and dagster_partitions.is_range(run.tags):
            partitions.setdefault(run.run_id, []).append(run.partition)
    found: set[tuple[str, str]] = set()
    for run in {run.run_id: run for run in runs if run.run_id in partitions}.values():
        wanted = partitions[run.run_id]
        done = dg.AssetRecordsFilter(
            asset_key=asset_key(job, run.assets[-1]),
            asset_partitions=wanted,
            after_timestamp=run.created_at,
        )
        most = MATERIALIZED_AGAIN * len(wanted)
        records = instance.fetch_materializations(done, limit=most).records
        found |= {(run.run_id, str(record.partition_key)) for record in records}
    return found


def is_lost(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run failed because a worker died, or because API or storage was away long.

    Both pass by themselves; an error of a step or of a definition does not.
    """
    if run.status is not dg.DagsterRunStatus.FAILURE:
        return False
    if OUTAGE_TAG in run.tags:
        return True
    reason = run.tags.get(FAILURE_REASON_TAG)
    if reason == STEP_FAILURE and FAILED_TAG not in run.tags:
        # What Dagster calls a step whose process died.
        return executor_of(instance, run) != IN_PROCESS
    return reason not in (STEP_FAILURE, NOT_BUILT)


def _launched(
    instance: dg.DagsterInstance, records: Iterable[dg.RunRecord], spec: JobSpec
) -> list[Launched]:
    """Each partition of each run that was not asked for by the sensor."""
    return [
        Launched(
            partition=partition,
            run_id=record.dagster_run.run_id,
            root=record.dagster_run.tags.get(REPEATS_TAG)
            or record.dagster_run.root_run_id
            or record.dagster_run.run_id,
            created_at=record.create_timestamp.timestamp(),
            lost=is_lost(instance, record.dagster_run),
            ended_at=record.end_time or record.update_timestamp.timestamp(),
            assets=_selected(record.dagster_run, spec.name),
            tags=record.dagster_run.tags,
        )
        for record in records
        if FOLLOW_UP_TAG not in record.dagster_run.tags
        for partition in dagster_partitions.partitions_of(record.dagster_run.tags, spec)
    ]


def _selected(run: dg.DagsterRun, job: str) -> tuple[str, ...]:
    """The assets of a run of the submission; executed again from a failure, it may have few."""
    every = [asset_key(job, name) for name in ASSETS[Kind.SUBMIT]]
    return tuple(selected_of(run, run.asset_selection or every, job))


def _request(job: str, repeat: Repeat) -> dg.RunRequest:
    run = repeat.run
    # An approval that a person gave by the run's tags holds for the run in its place too.
    given = {tag: run.tags[tag] for tag in (APPROVE_TAG, USER_TAG) if tag in run.tags}
    return dg.RunRequest(
        # The partition too: each of a lost range is repeated by itself.
        run_key=f"repeat/{run.root}/{repeat.number}/{run.partition}",
        job_name=dagster_job(job, Kind.SUBMIT),
        partition_key=run.partition,
        asset_selection=[asset_key(job, name) for name in run.assets],
        tags={REPEATS_TAG: run.root, **given},
    )
