"""Reads from the ledger the nights that a tick of the sensor looks at; does not call the API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from batch_pipeline.flow import caching
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.deadline import takeover
from batch_pipeline.flow.deadline.takeover import Course
from batch_pipeline.flow.gates import budget
from batch_pipeline.flow.gates.night_gates import verdict_applies
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning.new_shards import ShardLimits
from batch_pipeline.flow.reuse import window
from batch_pipeline.flow.status import night_state, progress
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights, shards
from batch_pipeline.ledger.admission import admission
from batch_pipeline.ledger.admission.decision import able_to_send
from batch_pipeline.ledger.admission.night_state import Facts
from batch_pipeline.ledger.admission.queue import Queues, read_queues
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard, ShardState
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import LIVE, State, Submission
from batch_pipeline.orchestration.sensor.run_requests import PilotStage, UnfinishedNight

# How long a tick reports a night that failed; `status` always does.
FAILED_SHOWN_SECONDS = 7 * 86_400.0

# Whether submission of a partition was asked for since a time (seconds since the epoch).
Asked = Callable[[str, float], bool]


def unfinished_nights(
    connection: Connection, job: str, owner: str | None, unshown: set[str]
) -> list[Night]:
    """Nights with an input that are not complete, oldest first; `owner` None: of all owners.

    A night that was completed elsewhere (by the command line) is unfinished too, while Dagster has
    its submission and not its results: those partitions are `unshown`. So is a complete night
    of which a batch that had been given up is at the API after all: that is to be collected.
    """
    late = submissions.nights_with(connection, *LIVE)
    return [
        night
        for night in nights.list_nights(connection, job=job, owner=owner)
        if night.snapshot_id is not None
        and (night.completed_at is None or night.partition in unshown or night.id in late)
    ]


def failed_nights(connection: Connection, job: str, owner: str | None = None) -> list[Night]:
    """Nights that failed lately before they had an input; `owner` None: of all owners.

    Nothing of them is under way, and a person should know why.
    """
    since = now(connection) - FAILED_SHOWN_SECONDS
    return [
        night
        for night in nights.list_nights(connection, job=job, owner=owner)
        if night.snapshot_id is None and night.failure is not None and night.failure["at"] >= since
    ]


def read_night(
    connection: Connection, pipeline: Pipeline, spec: JobSpec, night: Night, asked: Asked
) -> tuple[UnfinishedNight, Course]:
    """A night as it is now; `asked` is consulted where the ledger does not tell."""
    state = progress.of_night(connection, night.id)
    planned = shards.telling_shards(connection, night)
    facts = _facts(connection, pipeline, spec, state, planned, asked)
    senders, elsewhere = able_to_send(connection, night, pipeline.senders_of(connection, night))
    queue = read_queues(connection, night, senders, spec.limits.max_queued_requests)
    limits = ShardLimits.of(spec, pipeline.queue_limit(connection, spec))
    found = as_unfinished(
        state, planned, facts, queue, limits,
        realtime=spec.mode == "realtime", sent_elsewhere=elsewhere is not None,
    )  # fmt: skip
    course = takeover.course_of(connection, pipeline, spec, state)
    left = found.pilot is PilotStage.JUDGED and _calls_left(connection, state)
    calls_due = found.calls_due or course.due or left
    if elsewhere is not None and not (found.next_requests or calls_due):
        facts = replace(facts, at_work=elsewhere.reason)
    forecast = "" if course.forecast is None else f": {course.forecast.reason}"
    summary = f"{found.summary}{forecast}"
    return replace(found, facts=facts, calls_due=calls_due, summary=summary), course


def _facts(
    connection: Connection,
    pipeline: Pipeline,
    spec: JobSpec,
    state: Progress,
    planned: Sequence[Shard],
    asked: Asked,
) -> Facts:
    """What may stand in the way of a night's submission, room at the queue left aside."""
    assert state.snapshot is not None
    short = budget.shortfall(connection, pipeline, spec, state.night) if state.waiting else None
    facts = night_state.facts_of(state, spec.alerts, Declaration.of(spec))
    probe = admission.probe_may_go(connection, state.night.owner)
    return replace(
        facts,
        paused=None if probe else facts.paused,
        # A step that failed is tried again.
        failed=None,
        # A late batch of a complete night is to be collected, and what it leaves to be sent.
        complete=False,
        # A missing verdict is no obstacle: the run that is requested judges the pilot first.
        gates=replace(facts.gates, judged=True),
        # What is at the API keeps nothing back but what waits for its cache.
        at_work=_waits_for_cache(connection, pipeline, spec, state, planned),
        queue_full=None,
        waits_for=window.waits_for(connection, spec, state.night) if state.waiting else None,
        short_of_budget=None if short is None else short.as_fact(),
        asked=not state.waiting
        or state.night.asked_at is not None
        or any(not shard.pilot for shard in planned)
        or asked(state.night.partition, state.snapshot.taken_at),
    )


def _waits_for_cache(
    connection: Connection,
    pipeline: Pipeline,
    spec: JobSpec,
    state: Progress,
    planned: Sequence[Shard],
) -> str | None:
    waiting = [s for s in planned if s.state is ShardState.WAITING and s.engine == "batch"]
    if not waiting:
        return None
    first = next((shard for shard in waiting if shard.warms is not None), waiting[0])
    senders = pipeline.senders_of(connection, state.night)
    queues = read_queues(connection, state.night, senders, spec.limits.max_queued_requests)
    return caching.waits_for(connection, spec, state.night, first, queues.at_once)


def _calls_left(connection: Connection, state: Progress) -> bool:
    """Whether real-time shards wait, or their caller has died."""
    abandoned = any(s.state is State.CALLING and s.lease_until <= state.at for s in state.live)
    return abandoned or shards.next_to_go(connection, state.night.id, "realtime") is not None


def as_unfinished(
    state: Progress,
    planned: Sequence[Shard],
    facts: Facts,
    queue: Queues,
    limits: ShardLimits,
    *,
    realtime: bool,
    sent_elsewhere: bool = False,
) -> UnfinishedNight:
    """What a tick decides on; `planned` are the shards that tell how a night stands.

    `realtime`: what is open goes in real time, which needs no room at the queue. `sent_elsewhere`:
    none of the accounts may send the batches that wait.
    """
    night = state.night
    stage = pilot_stage(state, planned)
    to_plan = _to_plan(state, limits)
    next_requests = None if sent_elsewhere else _waiting_requests(planned, stage, queue)
    if next_requests is None:
        next_requests = to_plan if stage is PilotStage.JUDGED and not realtime else 0
    return UnfinishedNight(
        partition=night.partition,
        # Planning and collecting raise the revision; sending and ending show in the counts. Each
        # probe of a paused account, and the end of its pause, are a new start too.
        marker=f"{night.revision}.{state.batches}.{state.batches_ended}{_tried(state)}",
        facts=facts,
        queue=queue,
        pilot=stage,
        next_requests=next_requests,
        waiting=state.waiting,
        to_collect=state.collectable,
        settled_up=state.sent_everything and night.published and night.held_at is None,
        summary=state.describe(),
        calls_due=stage is PilotStage.JUDGED and realtime and to_plan > 0,
    )


def _tried(state: Progress) -> str:
    at = state.account.probe_at or state.account.lifted_at
    return "" if at is None else f".{at:.0f}"


def pilot_stage(state: Progress, planned: Sequence[Shard]) -> PilotStage:
    """Where a night's pilot is; a verdict on an earlier input or declaration does not count."""
    if verdict_applies(state.night.pilot, state.snapshot):
        return PilotStage.JUDGED
    samples = [shard for shard in planned if shard.pilot]
    if not samples or samples[-1].state is not ShardState.CLAIMED:
        # Not planned yet, waiting to go out, or collected and not judged.
        return PilotStage.MOVABLE
    holders = [s for s in state.live if s.shard_id == samples[-1].id]
    at_work = any(_is_answered_now(s, state.at) for s in holders)
    return PilotStage.BUSY if at_work else PilotStage.MOVABLE


def _is_answered_now(submission: Submission, now: float) -> bool:
    """Whether the pilot's answers are on their way: at the API, or in another process's hands."""
    if submission.state is State.CALLING:
        return submission.lease_until > now
    return submission.state is not State.ENDED or submission.until_download(now) > 0


def _waiting_requests(planned: Sequence[Shard], stage: PilotStage, queue: Queues) -> int | None:
    """The size of the waiting batch that would go next; 0: a pilot's is on its way, None: none
    waits. A batch that is larger than the queue limit is cut anew by the next run."""
    if stage is PilotStage.BUSY:
        return 0
    waiting = [
        shard
        for shard in planned
        if shard.state is ShardState.WAITING
        and shard.engine == "batch"
        and (shard.pilot or stage is PilotStage.JUDGED)
    ]
    return min(waiting[0].requests, queue.limit) if waiting else None


def _to_plan(state: Progress, limits: ShardLimits) -> int:
    """The size of the next shard that would be made of open requests; 0: none is due."""
    due = progress.wants_plan(state, limits.requests)
    return min(state.night.unplanned, limits.requests) if due else 0
