"""Nights that were due and have not begun: a check of `input_dataset`, and an alert.

The schedule's ticks are compared with the ledger, by the sensor: a schedule that is off, a daemon
that was down or a run that was never launched leave nothing behind that could be red. Freshness of
an asset does not show it, since it sees the newest materialization of any partition alone.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status import alerts
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.alerts import NewAlert
from batch_pipeline.orchestration import runs
from batch_pipeline.orchestration.checks import evaluations
from batch_pipeline.orchestration.checks.due_nights import LOOK_BACK, DueNight, due_nights
from batch_pipeline.orchestration.names import (
    EVERY_DUE_NIGHT_BEGAN,
    INPUT_DATASET,
    Kind,
    asset_key,
    schedule_name,
)
from batch_pipeline.wording import moment

CODE = "never_started"
# A night has begun when its input was taken. Retries of the input and a queue of runs take less.
GRACE_SECONDS = 3_600.0
MOST_NAMED = 10


@dataclass(frozen=True)
class Missing:
    """The nights that were due since the job's first one, and those of them that never began.

    `schedule` says what may be wrong with the schedule, and `is_used` whether it was ever started.
    """

    due: int
    missing: tuple[DueNight, ...]
    verdict: str
    schedule: str = "none"
    is_used: bool = True


def find(instance: dg.DagsterInstance, pipeline: Pipeline, spec: JobSpec) -> Missing | None:
    """The due nights of a job, by its ledger; None before its first night, or without a schedule.

    A job without partitions has one night, which is due once; so is each of those with names.
    """
    if spec.schedule is None:
        return None
    with pipeline.ledger.read() as connection:
        every = nights.list_nights(connection, job=spec.name)
    if not every:
        return None
    now = datetime.fromtimestamp(time.time() - GRACE_SECONDS, UTC)
    first = datetime.fromtimestamp(min(night.created_at for night in every), UTC)
    due = due_nights(spec, max(first, now - LOOK_BACK), now)
    begun = {night.partition for night in every if night.snapshot_id is not None}
    missing = never_began(due, begun)
    if not missing:
        return Missing(len(due), (), _verdict(()))
    # A run that is about to take the input may wait in the queue for long.
    missing = never_began(missing, _running(instance, spec))
    is_on = _is_on(instance, spec)
    verdict, schedule = _verdict(missing), _schedule(spec, is_on)
    return Missing(len(due), missing, verdict, schedule, is_used=is_on is not None)


def look(instance: dg.DagsterInstance, pipeline: Pipeline, spec: JobSpec) -> dg.AssetCheckResult:
    """What the check finds now."""
    found = find(instance, pipeline, spec)
    return _result(found or Missing(0, (), "no night was due yet"))


def never_began(due: Sequence[DueNight], begun: Collection[str]) -> tuple[DueNight, ...]:
    return tuple(night for night in due if night.partition not in begun)


def tell(pipeline: Pipeline, spec: JobSpec, found: Missing) -> None:
    """Alert of each missing night once. The alert stands with the job's newest night, since a night
    that never began has no row of its own."""
    if not found.missing:
        return
    with pipeline.ledger.read() as connection:
        newest = nights.list_nights(connection, job=spec.name)[-1]
    alerts.tell(
        pipeline,
        [
            NewAlert(
                night_id=newest.id,
                cause=f"{CODE} {spec.name} {night.partition}",
                code=CODE,
                message=f"{_line(night)}; {found.schedule}",
                account_wide=True,
            )
            for night in found.missing
        ],
    )


def evaluation(spec: JobSpec, found: Missing) -> dg.AssetCheckEvaluation:
    """The check's result, for the sensor to report."""
    check = dg.AssetCheckKey(asset_key(spec.name, INPUT_DATASET), EVERY_DUE_NIGHT_BEGAN)
    return evaluations.of_result(check, _result(found))


def _result(found: Missing) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not found.missing,
        severity=dg.AssetCheckSeverity.ERROR if found.is_used else dg.AssetCheckSeverity.WARN,
        description=found.verdict,
        metadata={
            "verdict": found.verdict,
            "nights_due": found.due,
            "nights_missing": len(found.missing),
            "partitions": ", ".join(n.partition for n in found.missing[:MOST_NAMED]) or "none",
            "schedule": found.schedule,
        },
    )


def _running(instance: dg.DagsterInstance, spec: JobSpec) -> set[str]:
    """Partitions with an unfinished run up to submission."""
    return {key for key, kind in runs.unfinished(instance, spec) if kind is Kind.SUBMIT}


def _verdict(missing: Sequence[DueNight]) -> str:
    if not missing:
        return "every due night has begun"
    named = "; ".join(_line(night) for night in missing[:MOST_NAMED])
    more = len(missing) - MOST_NAMED
    return named + (f"; and {more:,} more" if more > 0 else "")


def _line(night: DueNight) -> str:
    return f"{night.partition} was due at {moment(night.at)} and has no input"


def _is_on(instance: dg.DagsterInstance, spec: JobSpec) -> bool | None:
    """Whether the job's schedule is on; None where it has never been started."""
    # An instance without schedules, as tests have it, has started none.
    every = instance.all_instigator_state() if instance.schedule_storage else []
    states = [state for state in every if state.instigator_name == schedule_name(spec.name)]
    return any(state.is_running for state in states) if states else None


def _schedule(spec: JobSpec, is_on: bool | None) -> str:
    """What may be wrong with the schedule, and what to do."""
    name = schedule_name(spec.name)
    launch = f"launch {spec.name}_submit for what is missing"
    if is_on is None:
        return f"the schedule {name} has never been started: start it, and {launch}"
    if is_on:
        return f"the schedule {name} is on: see its ticks and runs, and {launch}"
    return f"the schedule {name} is off: start it, and {launch}"
