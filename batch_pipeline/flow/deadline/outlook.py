"""Reads from the ledger what the forecast of a night's deadline is made from; asks no API.

Belongs here: what was measured (how long batches took, how fast calls were), and what is left of a
night. `forecast` decides what follows from it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.flow.deadline.forecast import (
    ASSUMED_CANCEL_SECONDS,
    Flying,
    Outlook,
    Speed,
    Turnaround,
)
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import shards
from batch_pipeline.ledger.admission.queue import read_queues
from batch_pipeline.ledger.database import ledger, tables
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import ShardState
from batch_pipeline.ledger.submissions import submissions, takeovers
from batch_pipeline.ledger.submissions.submissions import IN_QUEUE, State, Submission

# Batches and calls this far back, and at most this number of them, tell about the next ones.
RECENT_SECONDS = 14 * 86_400.0
RECENT = 200
# Four of five batches took no longer; a single straggler says nothing about the others.
USUAL_SHARE = 0.8
# A cancel that seems to take longer was noticed late, since no process polled.
LONGEST_CANCEL_SECONDS = 1_200.0
# From this number on, a night's own batches tell more about it than those of other nights.
OWN_BATCHES = 3


def of_night(
    connection: Connection, pipeline: Pipeline, spec: JobSpec, state: Progress
) -> Outlook | None:
    """What a forecast of the night's deadline is made from; None where it has no deadline."""
    night = state.night
    if spec.mode != "auto" or night.deadline_at is None:
        return None
    taken = takeovers.of_night(connection, night.id)
    waiting = shards.waiting_by_engine(connection, night.id)
    # What a night can do without is neither hurried nor waited for.
    optional = shards.optional_shards(connection, night.id)
    waiting_optional = sum(
        shard.requests
        for shard in (
            shards.list_shards(connection, night.id, ShardState.WAITING) if optional else ()
        )
        if shard.id in optional and shard.engine == "batch"
    )
    calls = [s for s in state.live if s.engine == "realtime"]
    coming = [s for s in state.live if s.id in taken]
    senders = pipeline.senders_of(connection, night)
    queues = read_queues(connection, night, senders, spec.limits.max_queued_requests)
    return Outlook(
        now=state.at,
        deadline=night.deadline_at,
        unsent=waiting.get("batch", 0) - waiting_optional + night.open_requests,
        calling=waiting.get("realtime", 0)
        + sum(_unanswered(s) for s in calls)
        + sum(s.requests for s in coming),
        flying=[
            Flying(s.id, s.requests, s.accepted_at or state.at, takable=s.state is State.ACCEPTED)
            for s in state.live
            if s.state in IN_QUEUE and s.id not in taken and s.shard_id not in optional
        ],
        room=max(0, queues.room),
        queue=queues.at_once,
        turnaround=_turnaround(connection, night),
        speed=measured_speed(connection, night.job, night.owner, spec.realtime.concurrency),
        unplanned=night.open_requests,
        slowest=_slowest(connection, state, taken),
        moved=night.realtime_since is not None,
        poll_seconds=pipeline.settings.poll_seconds,
        cancel_seconds=_measured_cancel(connection, night.owner),
        optional=[s.id for s in state.live if s.state is State.ACCEPTED and s.shard_id in optional],
    )


def _slowest(connection: Connection, state: Progress, taken: Collection[int]) -> float:
    """Seconds that the slowest batch had without ending, those that were taken over included."""
    of_taken = submissions.find(connection, tables.submission.c.id.in_(taken)) if taken else []
    flying = [s for s in state.live if s.state is State.ACCEPTED]
    return max(
        (
            (batch.cancel_requested_at or state.at) - batch.accepted_at
            for batch in (*flying, *of_taken)
            if batch.accepted_at is not None
        ),
        default=0.0,
    )


def _unanswered(calls: Submission) -> int:
    """The number of requests without an answer at the last checkpoint."""
    return calls.requests - int((calls.progress or {}).get("answered", 0))


def _measured_cancel(connection: Connection, owner: str) -> float:
    """Seconds from a cancel until the end was noticed, of the owner's latest take-overs.

    Of take-overs alone: after any other cancel it may be days before a process polls.
    """
    taken = tables.submission.c.id.in_(sa.select(tables.takeover.c.submission_id))
    took = [
        batch.ended_at - batch.cancel_requested_at
        for batch in _latest(connection, owner, "batch", taken)
        if batch.ended_at is not None and batch.cancel_requested_at is not None
    ]
    if not took:
        return ASSUMED_CANCEL_SECONDS
    return min(usual_turnaround(took).seconds, LONGEST_CANCEL_SECONDS)


def measured_turnaround(connection: Connection, owner: str) -> Turnaround:
    """What the latest batches of an owner took, of all its jobs and accounts."""
    return usual_turnaround([_took(batch) for batch in _latest_batches(connection, owner)])


def usual_turnaround(seconds: Sequence[float]) -> Turnaround:
    """The time within which most batches were back; an assumption where none was measured."""
    if not seconds:
        return Turnaround()
    rank = math.ceil(USUAL_SHARE * len(seconds)) - 1
    return Turnaround(sorted(seconds)[rank], len(seconds))


def measured_speed(connection: Connection, job: str, owner: str, concurrency: int) -> Speed:
    """The speed of real time with `concurrency` calls at once, by the job's latest calls.

    A few calls are not made faster by more that could be made beside them.
    """
    of_job = sa.select(tables.night.c.id).where(tables.night.c.job == job)
    # Calls that were closed early tell nothing about how long they would have taken.
    whole = tables.submission.c.cancel_requested_at.is_(None)
    mine = tables.submission.c.night_id.in_(of_job)
    calls = _latest(connection, owner, "realtime", mine, whole)
    seconds = [_took(s) * min(concurrency, s.requests) / s.requests for s in calls if s.requests]
    return Speed.of(concurrency, sorted(seconds)[len(seconds) // 2] if seconds else None)


def _turnaround(connection: Connection, night: Night) -> Turnaround:
    batches = _latest_batches(connection, night.owner)
    own = [batch for batch in batches if batch.night_id == night.id]
    return usual_turnaround([_took(b) for b in (own if len(own) >= OWN_BATCHES else batches)])


def _latest_batches(connection: Connection, owner: str) -> list[Submission]:
    """Batches that ended by themselves: one that was cancelled would have taken longer."""
    submission = tables.submission.c
    return _latest(connection, owner, "batch", submission.cancel_requested_at.is_(None))


def _latest(
    connection: Connection, owner: str, engine: str, *conditions: sa.ColumnElement[bool]
) -> list[Submission]:
    submission = tables.submission.c
    of_owner = sa.select(tables.night.c.id).where(tables.night.c.owner == owner)
    query = (
        sa.select(submission.id)
        .where(
            submission.night_id.in_(of_owner),
            submission.intent_at > ledger.now(connection) - RECENT_SECONDS,
            submission.engine == engine,
            submission.ended_at.is_not(None),
            *conditions,
        )
        .order_by(submission.intent_at.desc())
        .limit(RECENT)
    )
    return submissions.find(connection, submission.id.in_(list(connection.scalars(query))))


def _took(submission: Submission) -> float:
    """Seconds from acceptance (of calls: from the claim) to the end."""
    assert submission.ended_at is not None
    # Two clocks, the API's and the ledger's: never less than nothing.
    return max(0.0, submission.ended_at - (submission.accepted_at or submission.intent_at))
