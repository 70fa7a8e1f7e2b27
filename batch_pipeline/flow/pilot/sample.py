"""The pilot: a sample goes through the whole path first, and its verdict gates the rest.

Its good answers are ordinary answers of the night: kept, and not bought again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from batch_pipeline.flow.answers import answer_paths
from batch_pipeline.flow.batches.submission import submit_waiting
from batch_pipeline.flow.gates import breaker, budget
from batch_pipeline.flow.gates.night_gates import holds, read_gates
from batch_pipeline.flow.outcomes import Status
from batch_pipeline.flow.pilot import verdict as verdicts
from batch_pipeline.flow.pilot.verdict import Answered, Took, Verdict
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import plan
from batch_pipeline.flow.planning.plan import View
from batch_pipeline.flow.realtime.calls import send_calls
from batch_pipeline.flow.results import lost_results
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights, shards, submissions
from batch_pipeline.ledger.admission import Waiting
from batch_pipeline.ledger.night_state import PILOT_AT_API, running
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard, ShardState
from batch_pipeline.ledger.submissions import State, Submission
from batch_pipeline.pricing.bounds import Bounds
from batch_pipeline.pricing.prices import Mode, ModelPrice
from batch_pipeline.pricing.tokens import TOKENS, TokenUsage

# A pilot is never more than this part of a night.
LARGEST_PART = 10


def sample_size(wanted: int, units: int, open_units: int) -> int:
    """At most a tenth of the night, and of what is still to be bought."""
    return min(wanted, units // LARGEST_PART, open_units)


def run_pilot(
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    price: ModelPrice,
) -> dict[str, Any] | Waiting:
    """Bring the night's pilot as far as it goes now: the verdict, or why it waits."""
    while True:
        night, snapshot = plan.current(pipeline, night)
        verdict = night.pilot
        if verdict is not None and holds(verdict, snapshot):
            return verdict if verdict["open"] else _judged_again(pipeline, spec, night, verdict)
        night = plan.take_back_too_large(pipeline, spec, night)
        seen = plan.view(pipeline, night)
        pilot = _latest(pipeline, seen)
        if pilot is None:
            _plan(pipeline, spec, seen)
        elif pilot.state is ShardState.COLLECTED:
            _decide(pipeline, spec, seen, price)
        else:
            waiting = _send(pipeline, spec, seen.night, pilot)
            if waiting is not None:
                return waiting


def _latest(pipeline: Pipeline, seen: View) -> Shard | None:
    """The newest pilot of this snapshot."""
    mine = _pilots(pipeline, seen, ShardState.WAITING, ShardState.CLAIMED, ShardState.COLLECTED)
    return mine[-1] if mine else None


def _pilots(pipeline: Pipeline, seen: View, *states: ShardState) -> list[Shard]:
    """The pilots of this snapshot: the sample, and what was drawn or asked again after it."""
    with pipeline.ledger.read() as connection:
        return shards.pilot_shards(connection, seen.snapshot.id, *states)


def _plan(pipeline: Pipeline, spec: JobSpec, seen: View) -> None:
    units = seen.snapshot.units
    wanted = sample_size(_fitting(pipeline, spec, spec.pilot.size), units, units)
    if wanted:
        wanted = sample_size(wanted, units, plan.count_open(pipeline, seen))
    if wanted:
        plan.plan_pilot(pipeline, seen, spec, wanted, _bounds(pipeline, spec, seen))
    else:
        reason = "no pilot" if spec.pilot.size == 0 else "too few documents for a pilot"
        _store(pipeline, seen.night, verdicts.without_sample(seen.snapshot, reason))


def _send(pipeline: Pipeline, spec: JobSpec, night: Night, pilot: Shard) -> Waiting | None:
    if pilot.engine == "batch":
        if pilot.state is ShardState.WAITING:
            limits = budget.limits(pipeline, spec, night)
            submitted = submit_waiting(pipeline, night, limits, read_gates(spec))
            if not submitted.batches:
                return submitted.waiting
        return _collect(pipeline, spec, night, pilot)
    waiting = send_calls(pipeline, spec, night, pilot)
    return waiting or _collect(pipeline, spec, night, pilot)


def _collect(pipeline: Pipeline, spec: JobSpec, night: Night, pilot: Shard) -> Waiting | None:
    with pipeline.ledger.read() as connection:
        ended = [
            submission
            for submission in submissions.of_night(connection, night.id, State.ENDED)
            if submission.shard_id == pilot.id
        ]
    if not ended:
        return Waiting(running(PILOT_AT_API), pilot.requests)
    watch = breaker.Watch(pipeline, spec.alerts, night)
    lost_results.collect(pipeline, night, ended[0], spec.retry)
    watch.collected()
    budget.note_if_passed(pipeline, spec, night, ended[0])
    return None


def _decide(pipeline: Pipeline, spec: JobSpec, seen: View, price: ModelPrice) -> None:
    with pipeline.ledger.read() as connection:
        collected = submissions.of_night(connection, seen.night.id, State.COLLECTED)
    sampled = {shard.id for shard in _pilots(pipeline, seen, ShardState.COLLECTED)}
    every = [s for s in collected if s.shard_id in sampled and not s.duplicate]
    table = pipeline.files.dataset(answer_paths(seen.night, every)).to_table(
        columns=["unit", "id", "status", "final", "error_message", *TOKENS]
    )
    rest: Mode = "realtime" if spec.mode == "realtime" else "batch"
    answers = verdicts.latest(_answered(row, price, rest) for row in table.to_pylist())
    cut_off = sum(not a.final and a.status == Status.TRUNCATED for a in answers)
    asked_again = cut_off and spec.retry.truncated_max_tokens is not None
    # What a larger `max_tokens` heals must not close the gate, and whether it heals is to be known
    # before the night is bought.
    bounds = _bounds(pipeline, spec, seen)
    size = _fitting(pipeline, spec, cut_off)
    if asked_again and plan.plan_more_room(pipeline, seen, spec, size, bounds):
        return
    billed = sum((s.cost_usd or Decimal(0) for s in every), Decimal(0))
    verdict = verdicts.judge(spec.pilot, seen.snapshot, answers, billed, _took(every))
    if verdict is None:
        # The API was not itself: another sample, of what is still open.
        _plan(pipeline, spec, plan.view(pipeline, seen.night))
    else:
        _store(pipeline, seen.night, verdict)


def _fitting(pipeline: Pipeline, spec: JobSpec, requests: int) -> int:
    """As many of these requests as one pilot may have: by batch no more than the queue takes."""
    if spec.pilot.via != "batch":
        return requests
    return min(requests, plan.queue_limit_of(pipeline, spec))


def _bounds(pipeline: Pipeline, spec: JobSpec, seen: View) -> Bounds:
    with pipeline.ledger.read() as connection:
        return budget.bounds(connection, spec, seen.night, seen.snapshot)


def _answered(row: dict[str, Any], price: ModelPrice, rest: Mode) -> Answered:
    """A row of the pilot's answers; `rest` is the way that the rest of the night goes."""
    usage = TokenUsage(**{name: row.pop(name) for name in TOKENS})
    return Answered(**row, usage=usage, rest_usd=price.cost(usage, mode=rest))


def _took(collected: Sequence[Submission]) -> Took:
    """How long the sample took, which is the first of a pilot's submissions."""
    first = collected[0]
    if first.engine == "realtime":
        latency = (first.progress or {}).get("latency_ms") or {}
        return Took(latency_p50_ms=latency.get("p50"), latency_p95_ms=latency.get("p95"))
    if first.ended_at is None or first.accepted_at is None:
        return Took()
    return Took(turnaround_seconds=max(0.0, first.ended_at - first.accepted_at))


def _judged_again(
    pipeline: Pipeline, spec: JobSpec, night: Night, verdict: dict[str, Any]
) -> dict[str, Any]:
    """A closed verdict by the limits that are declared now: what was measured stays."""
    reasons = verdicts.why_closed(spec.pilot, verdict)
    judged = {**verdict, "open": not reasons, "reasons": reasons}
    if judged != verdict:
        with pipeline.ledger.write() as connection:
            nights.update_night(connection, night.id, pilot=judged)
    return judged


def _store(pipeline: Pipeline, night: Night, verdict: Verdict) -> None:
    with pipeline.ledger.write() as connection:
        nights.update_night(connection, night.id, pilot=asdict(verdict))
