"""From the ledger to what a sensor tick decides on; asks nothing of the API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from batch_pipeline.flow.dataset.requests import Declaration
from batch_pipeline.flow.deadline import takeover
from batch_pipeline.flow.deadline.takeover import Course
from batch_pipeline.flow.gates import budget
from batch_pipeline.flow.pilot import sample
from batch_pipeline.flow.planning.plan import ShardLimits
from batch_pipeline.flow.status import progress
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import AlertsSpec, JobSpec
from batch_pipeline.ledger import accounts, approvals, ledger, nights, shards, submissions
from batch_pipeline.ledger.admission import ROOM_WANTED_SECONDS
from batch_pipeline.ledger.budget import Shortfall
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard, ShardState
from batch_pipeline.ledger.submissions import IN_QUEUE, LIVE, State, Submission
from batch_pipeline.orchestration.decisions import PilotStage, Room, Standing
from batch_pipeline.settings import Settings

# Whether submission of a partition was asked for since a time (seconds since the epoch).
Asked = Callable[[str, float], bool]


@dataclass(frozen=True)
class AccountView:
    """What all nights of an account share at the moment of a tick."""

    room: Room
    limits: ShardLimits
    # What is open goes in real time, which needs no room in the queue.
    realtime: bool
    declaration_hash: str
    alerts: AlertsSpec
    # The ceiling that keeps a night's next shard from going now.
    short: Callable[[Night], Shortfall | None]
    # How a night stands towards its deadline.
    course: Callable[[Progress], Course]
    # Nights of other jobs that want room at the queue, as (partition, id) and name.
    wanting: tuple[tuple[tuple[str, int], str], ...]
    now: float


def view_account(
    connection: Connection, settings: Settings, spec: JobSpec, account: str
) -> AccountView:
    """Room in the queue for this job, and who else wants it."""
    at = ledger.now(connection)
    every = nights.list_nights(connection, account=account)
    mine = {night.id for night in every if night.job == spec.name}
    queued = submissions.of_account(connection, account, *IN_QUEUE)
    left = settings.max_queued_requests - sum(s.requests for s in queued)
    if spec.limits.max_queued_requests is not None:
        used = sum(s.requests for s in queued if s.night_id in mine)
        left = min(left, spec.limits.max_queued_requests - used)
    full = accounts.get_account(connection, account).wait_until > at
    return AccountView(
        room=Room(max(left, 0), "the API says that its queue is full" if full else None),
        limits=ShardLimits.of(spec, settings.max_queued_requests),
        realtime=spec.mode == "realtime",
        declaration_hash=Declaration.of(spec).hash,
        alerts=spec.alerts,
        short=lambda night: budget.shortfall(connection, settings, spec, night),
        course=lambda state: takeover.course_of(connection, settings, spec, state),
        wanting=tuple(
            ((night.partition, night.id), f"{night.job} {night.partition}")
            for night in every
            if night.id not in mine
            and night.held_at is None
            and night.wanted_room_at > at - ROOM_WANTED_SECONDS
        ),
        now=at,
    )


def unfinished_nights(
    connection: Connection, job: str, account: str | None, unshown: set[str]
) -> list[Night]:
    """Nights with an input that are not complete, oldest first; of all accounts without one.

    A night that was completed elsewhere (by the command line) is unfinished too, while Dagster has
    its submission and not its results: those partitions are `unshown`. So is a complete one of
    which a batch has come to light that had been given up: it is to be collected.
    """
    late = submissions.nights_with(connection, *LIVE)
    return [
        night
        for night in nights.list_nights(connection, job=job, account=account)
        if night.snapshot_id is not None
        and (night.completed_at is None or night.partition in unshown or night.id in late)
    ]


def read_standing(
    connection: Connection, view: AccountView, night: Night, asked: Asked
) -> tuple[Standing, Course]:
    """How a night stands; `asked` is consulted where the ledger does not tell."""
    state = progress.of_night(connection, night.id)
    telling = shards.telling_shards(connection, night)
    assert state.snapshot is not None
    wanted = (
        not state.waiting
        or any(not shard.pilot for shard in telling)
        or asked(night.partition, state.snapshot.taken_at)
    )
    course = view.course(state)
    found = standing_of(state, telling, view, asked=wanted)
    left = found.pilot is PilotStage.JUDGED and _calls_left(connection, state, view.now)
    calls_due = found.calls_due or course.due or left
    summary = (
        found.summary if course.forecast is None else f"{found.summary}: {course.forecast.reason}"
    )
    return replace(found, calls_due=calls_due, summary=summary), course


def _calls_left(connection: Connection, state: Progress, now: float) -> bool:
    """Whether real-time shards wait, or their caller has died."""
    abandoned = any(s.state is State.CALLING and s.lease_until <= now for s in state.live)
    return abandoned or shards.next_to_go(connection, state.night.id, "realtime") is not None


def standing_of(
    state: Progress, shards: Sequence[Shard], view: AccountView, *, asked: bool
) -> Standing:
    night = state.night
    stage = pilot_stage(state, shards, view.now)
    place = (night.partition, night.id)
    older = [name for other, name in view.wanting if other < place]
    made = state.batches
    return Standing(
        partition=night.partition,
        # Planning and collecting raise the revision; sending and ending show in the counts.
        marker=f"{night.revision}.{made}.{state.batches_ended}",
        asked=asked,
        blocked=_blocked(state, view),
        pilot=stage,
        next_requests=_next_requests(state, shards, stage, view),
        waiting=state.waiting,
        to_collect=state.to_collect,
        settled_up=state.sent_everything and night.published and night.held_at is None,
        older_first=older[0] if older else None,
        summary=state.describe(),
        calls_due=stage is PilotStage.JUDGED and view.realtime and _to_plan(state, view) > 0,
    )


def verdict_of(state: Progress) -> dict[str, Any] | None:
    """The pilot's verdict, if it is about this night's present input and declaration."""
    verdict = state.night.pilot
    if state.snapshot is None or not sample.holds(verdict, state.snapshot):
        return None
    return verdict


def pilot_stage(state: Progress, shards: Sequence[Shard], now: float) -> PilotStage:
    if verdict_of(state) is not None:
        return PilotStage.JUDGED
    samples = [shard for shard in shards if shard.pilot]
    if not samples or samples[-1].state is not ShardState.HELD:
        # Not planned yet, waiting to go out, or collected and not judged.
        return PilotStage.MOVABLE
    holders = [s for s in state.live if s.shard_id == samples[-1].id]
    return PilotStage.BUSY if any(_at_work(s, now) for s in holders) else PilotStage.MOVABLE


def _at_work(submission: Submission, now: float) -> bool:
    """Whether the pilot's answers are on their way: at the API, or in another process's hands."""
    if submission.state is State.CALLING:
        return submission.lease_until > now
    return submission.state is not State.ENDED


def _next_requests(
    state: Progress, shards: Sequence[Shard], stage: PilotStage, view: AccountView
) -> int:
    """The size of what would go to the queue next; 0: nothing would."""
    waiting = [s for s in shards if s.state is ShardState.WAITING and s.engine == "batch"]
    if stage is not PilotStage.JUDGED:
        samples = [shard for shard in waiting if shard.pilot]
        return samples[0].requests if samples and stage is PilotStage.MOVABLE else 0
    if waiting:
        return waiting[0].requests
    return 0 if view.realtime else _to_plan(state, view)


def _to_plan(state: Progress, view: AccountView) -> int:
    """The size of the next shard that would be made of open requests; 0: none is due."""
    full_shard = view.limits.requests
    due = progress.wants_plan(state, full_shard)
    return min(state.night.open_requests, full_shard) if due else 0


def _blocked(state: Progress, view: AccountView) -> str | None:
    """Why nothing may go out until a person acts, or until what is in flight has been billed."""
    night = state.night
    verdict = verdict_of(state)
    tripped = state.breaker(view.alerts)
    assert state.snapshot is not None
    reason: str | None = None
    if night.held_at is not None:
        reason = (
            "held after a cancel; `batch-pipeline run "
            f"{night.job} --partition {night.partition} --resume` lifts it"
        )
    elif not state.waiting:
        pass
    elif state.account.paused_reason is not None:
        reason = f"account {state.account.name} is paused: {state.account.paused_reason}"
    elif night.refused is not None:
        reason = f"the API refused it ({night.refused}); correct it and launch it again"
    elif state.snapshot.declaration_hash != view.declaration_hash:
        reason = "the declaration changed; materialize input_dataset to use it"
    elif verdict is not None and not approvals.lets_go(verdict, state.approvals):
        reason = f"the pilot's gate is closed: {'; '.join(verdict['reasons'])}"
    elif tripped is not None:
        reason = str(tripped)
    elif (short := view.short(night)) is not None:
        reason = str(short)
    return reason
