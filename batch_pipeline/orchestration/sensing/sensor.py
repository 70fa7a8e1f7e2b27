"""The sensor: polls the API, observes what changed, asks for runs that bring nights forward.

Thin on purpose: what to ask for is decided in `run_requests`, from what `unfinished_nights` reads.
No run and no worker is occupied while a batch is processed; the sensor notices its end.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import dagster as dg

from batch_pipeline import logs
from batch_pipeline.flow.control.actions import GOES_ON
from batch_pipeline.flow.deadline import takeover
from batch_pipeline.flow.deadline.takeover import Course
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status import (
    account_state,
    alerts,
    failures,
    night_state,
    progress,
    warnings,
)
from batch_pipeline.flow.status.account_state import AccountState
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import ticks
from batch_pipeline.ledger.control import actions
from batch_pipeline.ledger.submissions import listed_batches
from batch_pipeline.orchestration import failures_shown, runs
from batch_pipeline.orchestration.checks import all_nights, stopped_nights
from batch_pipeline.orchestration.names import (
    SUBMITTED_BATCHES,
    Kind,
    asset_key,
)
from batch_pipeline.orchestration.sensing import (
    account_polls,
    chains,
    follow_ups,
    lost_runs,
    run_requests,
    unfinished_nights,
)
from batch_pipeline.orchestration.sensing.account_polls import OpenPipeline
from batch_pipeline.orchestration.sensing.run_requests import Plan, UnfinishedNight
from batch_pipeline.orchestration.shown import progress_shown
from batch_pipeline.safe_text import get_logger, one_line
from batch_pipeline.storage.remote import patience

log = get_logger(__name__)

# Dagster ends a tick after 60 s and forgets what it found; the rest is left to the next one.
TICK_SECONDS = 40.0
# Run requests of one tick; the others are made in the next ones.
MOST_REQUESTS = 50
MOST_LINES = 10
# Nights in the cursor, which Dagster stores with every tick.
MOST_NIGHTS = 500


@dataclass(frozen=True)
class Seen:
    """The nights that a tick had the time to read, oldest first, and their progress; `left` others
    it had not. `failed` are nights that failed before they had an input."""

    nights: tuple[UnfinishedNight, ...]
    states: dict[str, Progress]
    left: int = 0
    failed: tuple[Progress, ...] = ()


NOTHING_SEEN = Seen((), {})


def tick(
    context: dg.SensorEvaluationContext, open_pipeline: OpenPipeline, spec: JobSpec
) -> dg.SensorResult:
    """One evaluation of the sensor: all unfinished nights of the job's present owner."""
    with (
        failures_shown.without_secrets(),
        logs.context(job=spec.name),
        patience(TICK_SECONDS),
        open_pipeline() as pipeline,
        failures.of_storage_told(pipeline, f"{spec.name}: a tick of its sensor"),
    ):
        result, seen, trouble = _tick(context, pipeline, open_pipeline, spec)
        checked = _with_checks(context, pipeline, spec, result, seen)
        with pipeline.ledger.write() as connection:
            ticks.note(connection, spec.name, trouble)
        return checked


def _with_checks(
    context: dg.SensorEvaluationContext,
    pipeline: Pipeline,
    spec: JobSpec,
    result: dg.SensorResult,
    seen: Seen | None,
) -> dg.SensorResult:
    """A tick's result with the checks of all nights together; `seen` None: it could not look."""
    before, after = read_cursor(context.cursor), read_cursor(result.cursor)
    if seen is NOTHING_SEEN and all_nights.STOPPED not in before:
        # A fresh installation has nothing to report.
        seen = None
    stopped = (
        None
        if seen is None
        else stopped_nights.of_states(spec, [*seen.failed, *seen.states.values()], seen.left)
    )
    found = all_nights.look(context.instance, pipeline, spec, stopped, before)
    reason = None if result.skip_reason is None else result.skip_reason.skip_message
    return dg.SensorResult(
        run_requests=result.run_requests,
        skip_reason=None if reason is None else "\n".join(filter(None, (reason, found.line))),
        asset_events=[*result.asset_events, *found.events],
        cursor=json.dumps({**after, **found.kept}) if found.kept else result.cursor,
    )


def _tick(
    context: dg.SensorEvaluationContext,
    pipeline: Pipeline,
    open_pipeline: OpenPipeline,
    spec: JobSpec,
) -> tuple[dg.SensorResult, Seen | None, str | None]:
    """The tick's result, what it saw of the nights (None: it could not look), and what troubled it.

    Nights are looked at, and alerts sent, whatever the API says.
    """
    deadline = time.monotonic() + TICK_SECONDS
    instance = context.instance
    lost_runs.report_dead(instance, pipeline.ledger, spec.name, pipeline.settings.lease_seconds)
    again = [
        request
        for request in lost_runs.repeat_requests(instance, spec)[:MOST_REQUESTS]
        if follow_ups.problem_with(spec, str(request.partition_key)) is None
        and not _was_terminated(instance, pipeline, spec, str(request.partition_key))
    ]
    unshown = runs.unshown(instance, spec.name)
    if not again and not _anything_begun(pipeline, spec, unshown):
        nothing = "no night is under way"
        return dg.SensorResult(skip_reason=nothing, cursor=context.cursor), NOTHING_SEEN, None
    polled = account_polls.poll(open_pipeline, spec)
    owner = polled.owner.name
    # Alerts of nights that failed before they had an input are looked at with those of the others.
    failed = _failed(pipeline, spec, owner)
    seen = _look(instance, pipeline, spec, owner, unshown, deadline)
    alerts.look(pipeline, spec.alerts, *failed, *seen.states.values())
    if polled.useless:
        again = []
    unfinished = runs.unfinished(instance, spec)
    unfinished |= {(str(request.partition_key), Kind.SUBMIT) for request in again}
    plan = run_requests.plan(seen.nights, unfinished)
    most = 0 if polled.useless else MOST_REQUESTS - len(again)
    requests, rests = follow_ups.requests(instance, spec, plan, most)
    with pipeline.ledger.read() as connection:
        links = chains.due(connection, spec, owner)
    begun = chains.requests(spec, links, unfinished, most - len(requests))
    requests = [*again, *requests, *begun]
    accounts = account_state.look(pipeline, owner)
    events, observed = _observations(spec, seen, plan, accounts, read_cursor(context.cursor))
    lines = [*polled.troubles]
    lines += [f"{state.night.partition}: {_why_failed(spec, state)}" for state in failed]
    lines += _lines(seen.nights, plan, rests)
    lines += map(str, accounts if seen.nights else ())
    reason = "\n".join(map(one_line, lines)) or "no night is under way"
    result = dg.SensorResult(
        run_requests=requests,
        asset_events=events,
        cursor=write_cursor(observed),
        skip_reason=None if requests else reason,
    )
    trouble = "; ".join(polled.troubles) or None
    return result, replace(seen, failed=tuple(failed)), trouble


def _failed(pipeline: Pipeline, spec: JobSpec, owner: str) -> list[Progress]:
    with pipeline.ledger.read() as connection:
        return [
            progress.of_night(connection, night.id)
            for night in unfinished_nights.failed_nights(connection, spec.name, owner)
        ]


def _why_failed(spec: JobSpec, state: Progress) -> str:
    return str(night_state.of_progress(state, spec.alerts))


def _anything_begun(pipeline: Pipeline, spec: JobSpec, unshown: set[str]) -> bool:
    """Whether there is anything to poll: a fresh installation without a key must not fail."""
    with pipeline.ledger.read() as connection:
        unfinished = unfinished_nights.unfinished_nights(connection, spec.name, None, unshown)
        return bool(
            unfinished
            or unfinished_nights.failed_nights(connection, spec.name)
            or listed_batches.watched(connection)
            or chains.due(connection, spec)
        )


def _look(
    instance: dg.DagsterInstance,
    pipeline: Pipeline,
    spec: JobSpec,
    owner: str,
    unshown: set[str],
    deadline: float,
) -> Seen:
    """Read the nights, oldest first, as far as the time allows."""
    asked = functools.partial(_asked, instance, pipeline, spec)
    found: list[UnfinishedNight] = []
    courses: list[Course] = []
    with pipeline.ledger.read() as connection:
        every = unfinished_nights.unfinished_nights(connection, spec.name, owner, unshown)
        for night in every:
            if time.monotonic() > deadline:
                break
            seen, course = unfinished_nights.read_night(connection, pipeline, spec, night, asked)
            if run_requests.might_submit(seen):
                terminated = _was_terminated(instance, pipeline, spec, night.partition)
                seen = replace(seen, facts=replace(seen.facts, terminated=terminated))
            found.append(seen)
            courses.append(course)
    for course in courses:
        takeover.note(pipeline, course)
    states = {course.state.night.partition: course.state for course in courses}
    return Seen(tuple(found), states, len(every) - len(found))


def _asked(
    instance: dg.DagsterInstance, pipeline: Pipeline, spec: JobSpec, partition: str, since: float
) -> bool:
    """Whether submission was asked for since a time: by a run, or by a person who lets it go on."""
    return runs.submission_asked(instance, spec.name, partition, since) or (
        _let_go_at(pipeline, spec, partition) >= since
    )


def _was_terminated(
    instance: dg.DagsterInstance, pipeline: Pipeline, spec: JobSpec, partition: str
) -> bool:
    let_go_at = _let_go_at(pipeline, spec, partition)
    return runs.was_terminated(instance, spec, partition, let_go_at)


def _let_go_at(pipeline: Pipeline, spec: JobSpec, partition: str) -> float:
    """When a person last let a night go on by `<job>_control`; 0.0: never."""
    with pipeline.ledger.read() as connection:
        return actions.latest(connection, spec.name, partition, GOES_ON)


def _observations(
    spec: JobSpec,
    seen: Seen,
    plan: Plan,
    accounts: Sequence[AccountState],
    before: dict[str, str],
) -> tuple[list[dg.AssetObservation], dict[str, str]]:
    """An observation of each night that changed since the cursor was written.

    It keeps the causes of warnings too, so that each is logged once. Answers collected are left out
    of what counts as a change: the run that collects observes them.
    """
    events = []
    observed: dict[str, str] = {}
    for night in seen.nights:
        state = seen.states[night.partition]
        waits = plan.waits.get(night.partition)
        now = digest(
            state.waiting,
            state.in_flight,
            state.batches,
            state.batches_ended,
            night.blocked and night.blocked.kind,
            state.night.realtime_since,
            (state.night.forecast or {}).get("meets"),
        )
        found = {digest(warning.cause): warning for warning in warnings.of(state, spec.alerts)}
        observed[night.partition] = now = " ".join([now, *found])
        known = before.get(night.partition, "")
        if known == now:
            continue
        for cause, warning in found.items():
            # Those that are alerts have been logged as such.
            if cause not in known.split() and not warning.alerts:
                log.warning("%s %s: warning: %s", spec.name, night.partition, warning.message)
        waiting = f"; waits: {waits}" if waits else ""
        events.append(
            dg.AssetObservation(
                asset_key=asset_key(spec.name, SUBMITTED_BATCHES),
                partition=night.partition,
                description=one_line(f"{progress_shown.headline(state)}{waiting}"),
                metadata=progress_shown.of_submission(state, waits, spec.alerts, accounts),
            )
        )
    return events, observed


def _lines(nights: Sequence[UnfinishedNight], plan: Plan, rests: dict[str, str]) -> list[str]:
    """Where the nights stand, a line each."""
    lines = []
    for night in nights[:MOST_LINES]:
        waits = rests.get(night.partition) or plan.waits.get(night.partition)
        lines.append(f"{night.partition}: {night.summary}" + (f" ({waits})" if waits else ""))
    if len(nights) > MOST_LINES:
        lines.append(f"and {len(nights) - MOST_LINES} more nights")
    return lines


def read_cursor(text: str | None) -> dict[str, str]:
    """What was last observed of each unfinished night, by partition.

    A cursor that cannot be read counts as empty: what is to be done follows from the ledger, so
    that a lost cursor costs some repeated observations and nothing else.
    """
    try:
        data = json.loads(text or "{}")
    except json.JSONDecodeError:
        return {}
    if not isinstance(data, dict):
        return {}
    return {str(key): str(value) for key, value in data.items()}


def write_cursor(observed: Mapping[str, str]) -> str:
    """The newest nights, if there are too many for a cursor."""
    return json.dumps(dict(sorted(observed.items())[-MOST_NIGHTS:]))


def digest(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
