"""Meeting a deadline: what would miss it as a batch goes in real time instead.

Belongs here: doing it. What is to be done is decided in `forecast`, from what `outlook` reads.

Requests that are not sent change over in one transaction: their shards are dropped, they are open
again, and the next plan makes real-time shards of them. For a batch at the API the real-time price
is reserved first and its cancel noted; then it is cancelled, and once its end has been collected,
what it did not answer is open like anything else. The ledger has each of these steps, and the next
process goes on from there: a crash in between costs nothing but time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow.deadline import forecast, outlook
from batch_pipeline.flow.deadline.forecast import Forecast, Outlook
from batch_pipeline.flow.gates import budget, night_gates
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import plan
from batch_pipeline.flow.planning.new_shards import ShardLimits
from batch_pipeline.flow.status import progress as progress_of
from batch_pipeline.flow.status.progress import KEPT_AS_BATCHES, NOT_TAKEN_OVER, Progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights, shards, snapshots
from batch_pipeline.ledger.admission import admission
from batch_pipeline.ledger.admission.budget import Shortfall, shortfall, spendings
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard, ShardState
from batch_pipeline.ledger.submissions import takeovers, transitions
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.pricing.bounds import ModelBounds
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# Real-time shards for a deadline are cut to take about this long: what has come back from batches
# is looked at between two of them.
SHARD_SECONDS = 120.0


@dataclass(frozen=True)
class Course:
    """How a night stands towards its deadline, and what that demands now.

    `outlook` and `forecast` are None where there is no deadline to meet. `cancels` are batches
    whose price is reserved and whose cancel the API has not taken yet.
    """

    state: Progress
    outlook: Outlook | None = None
    forecast: Forecast | None = None
    cancels: tuple[Submission, ...] = ()

    @property
    def to_realtime(self) -> int:
        """Requests not sent yet that go in real time now."""
        return 0 if self.forecast is None else self.forecast.to_realtime

    @property
    def take_over(self) -> tuple[int, ...]:
        """Submissions to take over now.

        Before the pilot is judged the whole night waits for its batch: that is taken over as soon
        as batches are too slow for the rest of the night.
        """
        if self.forecast is None or self.outlook is None:
            return ()
        if self.judged or not self.forecast.acts:
            return self.forecast.take_over
        return tuple(flying.id for flying in self.outlook.flying if flying.takable)

    @property
    def judged(self) -> bool:
        """Whether the pilot has its verdict, so that the rest may go."""
        return night_gates.verdict_applies(self.state.night.pilot, self.state.snapshot)

    @property
    def due(self) -> bool:
        """Whether a run would have something to do for the deadline now."""
        return bool(self.cancels or self.take_over or self.to_realtime)


def course(pipeline: Pipeline, spec: JobSpec, night: Night) -> Course:
    """The course of a night as the ledger has it now; changes nothing."""
    with pipeline.ledger.read() as connection:
        state = progress_of.of_night(connection, night.id)
        return course_of(connection, pipeline, spec, state)


def course_of(connection: Connection, pipeline: Pipeline, spec: JobSpec, state: Progress) -> Course:
    """As `course`, of a night whose progress was read in the same transaction."""
    seen = outlook.of_night(connection, pipeline, spec, state)
    if seen is None:
        return Course(state)
    taken = takeovers.of_night(connection, state.night.id)
    cancels = [
        submission
        for submission in state.live
        if submission.state is State.ACCEPTED
        and submission.id in taken
        and taken[submission.id].cancelled_at is None
    ]
    return Course(state, seen, forecast.decide(seen), tuple(cancels))


def meet(pipeline: Pipeline, spec: JobSpec, night: Night) -> None:
    """Take over batches that would miss the deadline, and store the forecast with the night.

    Requests that are not sent yet are left to the next plan. A batch whose real-time price does not
    fit the budget runs on.
    """
    if spec.mode != "auto" or pipeline.refreshed(night).deadline_at is None:
        return
    found = course(pipeline, spec, night)
    if found.forecast is None:
        return
    if spec.pilot.via == "batch" and found.forecast.acts and not found.judged:
        _move_pilot(pipeline, found)
    _give_up_optional(pipeline, found)
    wanted = set(found.take_over)
    refused: str | None = None
    for submission in found.state.live:
        if submission.id in wanted:
            refused = _reserve(pipeline, spec, night, submission) or refused
    for submission in course(pipeline, spec, night).cancels:
        _cancel(pipeline, submission)
    note(pipeline, found)
    _store_once(pipeline, night, NOT_TAKEN_OVER, refused)


def is_late_for_batches(found: Course) -> bool:
    """Whether a batch that is sent now is expected to miss the night's deadline."""
    return found.outlook is not None and forecast.is_late(found.outlook)


def wants_batches(pipeline: Pipeline, spec: JobSpec, found: Course, limits: ShardLimits) -> bool:
    """Whether open requests are to be cut into shards of batches now.

    If only a part of them goes to real time, or if their real-time price may not fit under a
    ceiling, they are planned for batches first: `change_over` then moves single shards.
    """
    unplanned = found.state.night.open_requests
    if not found.to_realtime:
        return progress_of.wants_plan(found.state, limits.requests)
    in_parts = found.to_realtime < unplanned
    if in_parts or not unplanned:
        return unplanned > 0
    with pipeline.ledger.read() as connection:
        senders = pipeline.senders_of(connection, found.state.night)
    return budget.tightest(spec, senders) is not None


def change_over(
    pipeline: Pipeline,
    spec: JobSpec,
    found: Course,
    to_realtime: int,
    limits: ShardLimits,
    bounds: ModelBounds,
) -> None:
    """Plan real-time shards of `to_realtime` requests that are not sent yet.

    Where these are more than the open ones, waiting batch shards are dropped for them; shards whose
    real-time price does not fit under a ceiling stay batches. Where another process has changed the
    night meanwhile nothing is done: the next step looks again.
    """
    night = found.state.night
    assert found.outlook is not None
    short: Shortfall | None = None
    with pipeline.ledger.write() as connection:
        waiting = [
            shard
            for shard in shards.list_shards(connection, night.id, ShardState.WAITING)
            if shard.engine == "batch" and not shard.optional
        ]
        wanted = last_shards(waiting, to_realtime - night.open_requests)
        declared = budget.ceilings(spec, pipeline.senders_of(connection, night))
        spent = list(spendings(connection, night, declared))
        moved: list[Shard] = []
        usd = Decimal(0)
        for shard in wanted:
            usd += budget.realtime_usd(bounds, shard)
            short = shortfall(spent, shard.requests, usd)
            if short is not None:
                break
            moved.append(shard)
        # A ceiling may leave nothing to move.
        moves = short is None or bool(moved) or night.open_requests > 0
        changed = moves and shards.move_to_realtime(connection, night, moved)
    _store_once(pipeline, night, KEPT_AS_BATCHES, None if short is None else str(short))
    if not changed:
        return
    plan.plan_all(
        pipeline,
        plan.view(pipeline, night),
        _for_calls(limits, found.outlook, spec),
        bounds,
        spec.retry,
        "realtime",
        for_deadline=True,
        unsure=False,
    )


def _give_up_optional(pipeline: Pipeline, found: Course) -> None:
    """Give up what the night can do without and what would be too late: shards that wait are
    dropped, and batches are cancelled shortly before the deadline. The former answers stand then.
    """
    seen, night = found.outlook, found.state.night
    if seen is None:
        return
    if forecast.is_late(seen):
        with pipeline.ledger.write() as connection:
            shards.drop_optional(connection, night.id)
    late = seen.optional if forecast.must_end(seen) else ()
    for submission in found.state.live:
        if submission.id in late and submission.cancel_requested_at is None:
            with pipeline.ledger.write() as connection:
                transitions.request_cancel(connection, submission)
            _cancel(pipeline, submission)


def last_shards(waiting: Sequence[Shard], requests: int) -> list[Shard]:
    """The fewest shards from the end that have at least `requests` requests together.

    The first ones stay batches: they are the next to be sent, and so the first to end.
    """
    found: list[Shard] = []
    for shard in reversed(waiting):
        if requests <= 0:
            break
        found.append(shard)
        requests -= shard.requests
    return found


def _move_pilot(pipeline: Pipeline, found: Course) -> None:
    """Let the night's pilot go in real time from now on; one that waits as a batch is dropped."""
    night = found.state.night
    assert night.snapshot_id is not None
    with pipeline.ledger.write() as connection:
        pilots = shards.pilot_shards(connection, night.snapshot_id, ShardState.WAITING)
        waiting = [shard for shard in pilots if shard.engine == "batch"]
        if waiting or night.realtime_since is None:
            shards.move_to_realtime(connection, night, waiting)


def _for_calls(limits: ShardLimits, outlook: Outlook, spec: JobSpec) -> ShardLimits:
    """The limits of real-time shards: what is answered within `SHARD_SECONDS`."""
    fitting = int(outlook.speed.requests_per_second * SHARD_SECONDS)
    return replace(limits, requests=min(limits.requests, max(fitting, spec.realtime.concurrency)))


def _reserve(pipeline: Pipeline, spec: JobSpec, night: Night, submission: Submission) -> str | None:
    """Reserve what a batch may cost in real time, and note its cancel; returns why not, or None."""
    with pipeline.ledger.read() as connection:
        shard = shards.get_shard(connection, submission.shard_id)
        snapshot = snapshots.get_snapshot(connection, shard.snapshot_id)
        bounds = budget.bounds_of(connection, spec, night, snapshot)
    usd = budget.realtime_usd(bounds, shard)
    limits = budget.limits(pipeline, spec, night)
    with pipeline.ledger.write() as connection:
        refused = admission.reserve_takeover(
            connection, night, submission, usd, limits, night_gates.read_gates(spec)
        )
    if refused is not None:
        return refused.reason
    log.warning(
        "%s %s: batch %s would miss the deadline: real time takes it over",
        night.job,
        night.partition,
        submission.batch_id,
    )
    return None


def _cancel(pipeline: Pipeline, submission: Submission) -> None:
    """Cancel a batch whose real-time price is reserved; the next step tries a failed one again."""
    assert submission.batch_id is not None
    try:
        pipeline.api_of(submission.account).cancel_batch(submission.batch_id)
    except ApiFailure as failure:
        # Often the batch has just ended: then the next poll finds that.
        log.warning("batch %s could not be cancelled: %s", submission.batch_id, failure)
        return
    with pipeline.ledger.write() as connection:
        takeovers.mark_cancelled(connection, submission.id)


def note(pipeline: Pipeline, found: Course) -> None:
    """Store a forecast that has changed with the night, for `status` and Dagster to show."""
    night, seen = found.state.night, found.forecast
    if seen is None:
        return
    said = {"reason": seen.reason, "ends_at": seen.ends_at, "meets": seen.meets}
    if _store(pipeline, night, said) and found.due:
        log.info("%s %s: %s", night.job, night.partition, seen.reason)


def _store_once(pipeline: Pipeline, night: Night, what: str, why: str | None) -> None:
    """Store with the night, and log once, why requests stay batches that miss the deadline."""
    if _store(pipeline, night, {what: why}) and why is not None:
        log.warning("%s %s: %s: %s", night.job, night.partition, what.replace("_", " "), why)


def _store(pipeline: Pipeline, night: Night, said: Mapping[str, Any]) -> bool:
    """Add to the forecast that is stored with the night; False: nothing in it changes."""
    known = pipeline.refreshed(night).forecast or {}
    # `ends_at` alone is no change: it differs by fractions of a second each time, and the reason
    # has it to the minute.
    if all(known.get(name) == value for name, value in said.items() if name != "ends_at"):
        return False
    with pipeline.ledger.write() as connection:
        known = nights.get_night(connection, night.id).forecast or {}
        nights.update_night(connection, night.id, forecast={**known, **said})
    return True
