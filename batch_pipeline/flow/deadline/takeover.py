"""Meeting a deadline: what would miss it as a batch goes in real time instead.

Belongs here: the deeds. What is to be done is decided in `forecast`, from what `outlook` reads.

Requests that are not sent change over in one transaction: their shards are dropped, they are open
again, and the next plan makes real-time shards of them. For a batch at the API the real-time price
is reserved first and its cancel noted; then it is cancelled, and once its end has been collected,
what it did not answer is open like anything else. Each step is found in the ledger by whoever comes
next, so that a crash in between costs nothing but time.
"""

from __future__ import annotations

import logging
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
from batch_pipeline.flow.planning.plan import ShardLimits
from batch_pipeline.flow.status import progress as progress_of
from batch_pipeline.flow.status.progress import KEPT_AS_BATCHES, NOT_TAKEN_OVER, Progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import admission, nights, shards, snapshots, takeovers
from batch_pipeline.ledger.budget import Shortfall, shortfall, spendings
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard, ShardState
from batch_pipeline.ledger.submissions import State, Submission
from batch_pipeline.pricing.bounds import Bounds
from batch_pipeline.settings import Settings

log = logging.getLogger(__name__)

# A real-time shard is answered in about so long: what comes back from other batches is looked at
# in between.
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

        A pilot's batch that everything waits for is one as soon as batches are too slow for the
        rest.
        """
        if self.forecast is None or self.outlook is None:
            return ()
        if self.judged or not self.forecast.acts:
            return self.forecast.take_over
        return tuple(flying.id for flying in self.outlook.flying if flying.takable)

    @property
    def judged(self) -> bool:
        """Whether the pilot has its verdict, so that the rest may go."""
        return night_gates.holds(self.state.night.pilot, self.state.snapshot)

    @property
    def due(self) -> bool:
        """Whether a run has something to do now, for the deadline's sake."""
        return bool(self.cancels or self.take_over or self.to_realtime)


def course(pipeline: Pipeline, spec: JobSpec, night: Night) -> Course:
    """The course of a night as the ledger has it now; changes nothing."""
    with pipeline.ledger.read() as connection:
        state = progress_of.of_night(connection, night.id)
        return course_of(connection, pipeline.settings, spec, state)


def course_of(connection: Connection, settings: Settings, spec: JobSpec, state: Progress) -> Course:
    """As `course`, of a night that is known already."""
    seen = outlook.of_night(connection, settings, spec, state)
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
    """Take over the batches that the deadline does not let wait, and note how the night stands.

    What is not sent is left to the next plan. A batch whose real-time price does not fit the budget
    runs on.
    """
    if spec.mode != "auto" or pipeline.refreshed(night).deadline_at is None:
        return
    found = course(pipeline, spec, night)
    if found.forecast is None:
        return
    if spec.pilot.via == "batch" and found.forecast.acts and not found.judged:
        _hurry_pilot(pipeline, found)
    wanted = set(found.take_over)
    refused: str | None = None
    for submission in found.state.live:
        if submission.id in wanted:
            refused = _reserve(pipeline, spec, night, submission) or refused
    for submission in course(pipeline, spec, night).cancels:
        _cancel(pipeline, submission)
    note(pipeline, found)
    _say(pipeline, night, NOT_TAKEN_OVER, refused)


def wants_batches(pipeline: Pipeline, spec: JobSpec, found: Course, limits: ShardLimits) -> bool:
    """Whether open requests are to be cut into shards of batches now.

    If only a part of them goes to real time, or if their real-time price may not fit under a
    ceiling, they are planned for batches first: the change-over then takes single shards.
    """
    unplanned = found.state.night.open_requests
    if not found.to_realtime:
        return progress_of.wants_plan(found.state, limits.requests)
    in_parts = found.to_realtime < unplanned
    return unplanned > 0 and (in_parts or budget.ceilings(pipeline.settings, spec).any)


def change_over(
    pipeline: Pipeline, spec: JobSpec, found: Course, limits: ShardLimits, bounds: Bounds
) -> None:
    """Plan what the course gives to real time, dropping shards of batches that wait if need be.

    Shards whose real-time price does not fit under a ceiling stay batches. Where another process
    has changed the night meanwhile nothing is done: it is looked at again.
    """
    night, outlook = found.state.night, found.outlook
    assert outlook is not None
    short: Shortfall | None = None
    with pipeline.ledger.write() as connection:
        waiting = [
            shard
            for shard in shards.list_shards(connection, night.id, ShardState.WAITING)
            if shard.engine == "batch"
        ]
        wanted = last_shards(waiting, found.to_realtime - night.open_requests)
        spent = list(spendings(connection, night, budget.ceilings(pipeline.settings, spec)))
        moved: list[Shard] = []
        usd = Decimal(0)
        for shard in wanted:
            usd += budget.realtime_usd(bounds, shard)
            short = shortfall(spent, shard.requests, usd)
            if short is not None:
                break
            moved.append(shard)
        nothing = short is not None and not moved and not night.open_requests
        changed = nothing or shards.move_to_realtime(connection, night, moved)
    _say(pipeline, night, KEPT_AS_BATCHES, None if short is None else str(short))
    if nothing or not changed:
        return
    plan.plan_all(
        pipeline,
        plan.view(pipeline, night),
        _for_calls(limits, outlook, spec),
        bounds,
        spec.retry,
        "realtime",
        for_deadline=True,
    )


def last_shards(waiting: Sequence[Shard], requests: int) -> list[Shard]:
    """The fewest shards from the end that hold so many requests: the first go on as batches."""
    found: list[Shard] = []
    for shard in reversed(waiting):
        if requests <= 0:
            break
        found.append(shard)
        requests -= shard.requests
    return found


def _hurry_pilot(pipeline: Pipeline, found: Course) -> None:
    """From now on the night's pilot goes in real time too; one that waits as a batch is dropped."""
    night = found.state.night
    assert night.snapshot_id is not None
    with pipeline.ledger.write() as connection:
        pilots = shards.pilot_shards(connection, night.snapshot_id, ShardState.WAITING)
        waiting = [shard for shard in pilots if shard.engine == "batch"]
        if waiting or night.realtime_since is None:
            shards.move_to_realtime(connection, night, waiting)


def _for_calls(limits: ShardLimits, outlook: Outlook, spec: JobSpec) -> ShardLimits:
    fitting = int(outlook.speed.requests_per_second * SHARD_SECONDS)
    return replace(limits, requests=min(limits.requests, max(fitting, spec.realtime.concurrency)))


def _reserve(pipeline: Pipeline, spec: JobSpec, night: Night, submission: Submission) -> str | None:
    """Reserve what a batch may cost in real time, and note its cancel; why not, or None."""
    with pipeline.ledger.read() as connection:
        shard = shards.get_shard(connection, submission.shard_id)
        snapshot = snapshots.get_snapshot(connection, shard.snapshot_id)
        bounds = budget.bounds(connection, spec, night, snapshot)
    usd = budget.realtime_usd(bounds, shard)
    limits = budget.limits(pipeline, spec, night)
    with pipeline.ledger.write() as connection:
        refused = admission.reserve_takeover(
            connection, night, submission, usd, limits, night_gates.read_gates(spec)
        )
    if refused is None:
        log.warning(
            "%s %s: batch %s would miss the deadline: real time takes it over",
            night.job,
            night.partition,
            submission.batch_id,
        )
    return None if refused is None else refused.reason


def _cancel(pipeline: Pipeline, submission: Submission) -> None:
    """Cancel a batch whose price is reserved; where that fails it is tried again."""
    assert submission.batch_id is not None
    try:
        pipeline.api.cancel_batch(submission.batch_id)
    except ApiFailure as failure:
        # It may just have ended.
        log.warning("batch %s could not be cancelled: %s", submission.batch_id, failure)
        return
    with pipeline.ledger.write() as connection:
        takeovers.mark_cancelled(connection, submission.id)


def note(pipeline: Pipeline, found: Course) -> None:
    """Keep what was forecast for those who look at the night, where it says something new."""
    night, seen = found.state.night, found.forecast
    if seen is None:
        return
    said = {"reason": seen.reason, "ends_at": seen.ends_at, "meets": seen.meets}
    if _keep(pipeline, night, said) and found.due:
        log.info("%s %s: %s", night.job, night.partition, seen.reason)


def _say(pipeline: Pipeline, night: Night, what: str, why: str | None) -> None:
    """Keep, and log once, why something stays with batches although the deadline passes."""
    if _keep(pipeline, night, {what: why}) and why is not None:
        log.warning("%s %s: %s: %s", night.job, night.partition, what.replace("_", " "), why)


def _keep(pipeline: Pipeline, night: Night, said: Mapping[str, Any]) -> bool:
    """Add to the night's forecast; False: it says so already."""
    known = pipeline.refreshed(night).forecast or {}
    # When all is expected moves with every look; the reason tells it by the minute.
    if all(known.get(name) == value for name, value in said.items() if name != "ends_at"):
        return False
    with pipeline.ledger.write() as connection:
        known = nights.get_night(connection, night.id).forecast or {}
        nights.update_night(connection, night.id, forecast={**known, **said})
    return True
