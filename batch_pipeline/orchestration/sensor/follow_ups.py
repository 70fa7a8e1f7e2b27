"""Makes the run requests by which a tick brings nights forward, and reads how earlier ones ended.

Where a job's backfills have several partitions in a run, follow-ups have as many: otherwise a
backfill over a year would be followed by a run for each night.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from batch_pipeline.jobs.partitions import partitions
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.dagster_partitions import partitions_of, tags_of_runs_over
from batch_pipeline.orchestration.names import (
    FOLLOW_UP_TAG,
    JOB_TAG,
    KIND_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
    asset_key,
    dagster_job,
)
from batch_pipeline.orchestration.runs import MOST_FORMER
from batch_pipeline.orchestration.sensor import run_requests
from batch_pipeline.orchestration.sensor.lost_runs import is_lost
from batch_pipeline.orchestration.sensor.run_requests import EarlierRun, Plan, WantedRun

FAILED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
# Nights of one request, whose markers are one tag: PostgreSQL indexes no text of more than 2.7 kB.
MOST_IN_RANGE = 100
# Nights for which a tick looks whether they were asked for before.
MOST_LOOKED_AT = 500


def requests(
    instance: dg.DagsterInstance, spec: JobSpec, plan: Plan, most: int
) -> tuple[list[dg.RunRequest], dict[str, str]]:
    """At most `most` requests for the wanted runs, and by partition why others are not requested.

    First attempts share a run, as many nights as a run of a backfill has. A night whose run changed
    nothing gets a run of its own, so that it cannot keep others back.
    """
    in_a_run = min(spec.backfill.partitions_per_run, MOST_IN_RANGE)
    firsts: list[WantedRun] = []
    found: list[dg.RunRequest] = []
    rests: dict[str, str] = {}
    for run in plan.wanted:
        if len(found) + len(firsts) >= min(most * in_a_run, max(most, MOST_LOOKED_AT)):
            break
        problem = problem_with(spec, run.partition)
        if problem is not None:
            rests[run.partition] = problem
            continue
        attempt = run_requests.attempt(earlier(instance, spec, run), run.marker, time.time())
        if isinstance(attempt, str):
            rests[run.partition] = f"{run.kind}: {attempt}"
        elif attempt == 1:
            firsts.append(run)
        else:
            found.append(_request(spec, [run], attempt))
    found += [_request(spec, each, 1) for each in together(spec, firsts, in_a_run)]
    return found[:most], rests


def together(spec: JobSpec, runs: Sequence[WantedRun], most: int) -> list[list[WantedRun]]:
    """Runs of the same assets whose partitions follow one another, at most `most` in one."""
    alike: dict[tuple[str, ...], dict[str, WantedRun]] = {}
    for run in runs:
        alike.setdefault(run.assets, {})[run.partition] = run
    return [
        [by_partition[key] for key in keys]
        for by_partition in alike.values()
        for keys in partitions.in_ranges(spec.partitions, by_partition, most)
    ]


def problem_with(spec: JobSpec, partition: str) -> str | None:
    """Why no run can have a partition: a request for it would end the tick, and with it all nights.

    The night is of partitions that the job declared formerly.
    """
    problem = partitions.problem_with(spec.partitions, partition, datetime.now(UTC))
    return problem and f"{problem}. Declare it again until its night is complete"


def earlier(instance: dg.DagsterInstance, spec: JobSpec, run: WantedRun) -> list[EarlierRun]:
    """Follow-ups of a night that have ended, newest first."""
    found: list[tuple[float, EarlierRun]] = []
    for tags in tags_of_runs_over(spec, run.partition):
        filters = dg.RunsFilter(tags={JOB_TAG: spec.name, KIND_TAG: run.kind.value, **tags})
        for record in instance.get_run_records(filters, limit=MOST_FORMER):
            marker = _markers(record.dagster_run, spec).get(run.partition)
            if marker is None:
                continue
            ended = EarlierRun(
                marker=marker,
                failed=record.dagster_run.status in FAILED,
                ended_at=record.end_time or record.update_timestamp.timestamp(),
                lost=is_lost(instance, record.dagster_run),
            )
            found.append((record.create_timestamp.timestamp(), ended))
    return [ended for _, ended in sorted(found, key=lambda each: each[0], reverse=True)]


def _markers(run: dg.DagsterRun, spec: JobSpec) -> dict[str, str]:
    """The marker of each night that a follow-up was asked for; none for other runs."""
    keys, markers = partitions_of(run.tags, spec), run.tags.get(FOLLOW_UP_TAG, "").split()
    return dict(zip(keys, markers, strict=True)) if len(keys) == len(markers) else {}


def _request(spec: JobSpec, runs: Sequence[WantedRun], attempt: int) -> dg.RunRequest:
    first, last = runs[0], runs[-1]
    markers = " ".join(run.marker for run in runs)
    # A run key is used once for ever, even if its run fails: hence the attempt.
    key = f"{first.kind}/{first.partition}/{markers}/{attempt}"
    one = len(runs) == 1
    over = {RANGE_START_TAG: first.partition, RANGE_END_TAG: last.partition}
    return dg.RunRequest(
        run_key=key,
        job_name=dagster_job(spec.name, first.kind),
        partition_key=first.partition if one else None,
        asset_selection=[asset_key(spec.name, name) for name in first.assets],
        tags={FOLLOW_UP_TAG: markers, **({} if one else over)},
    )
