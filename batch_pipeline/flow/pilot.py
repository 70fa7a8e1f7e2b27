"""The pilot: a sample goes through the whole path first, and its verdict gates the rest.

Its good answers are ordinary answers of the night: kept, and not bought again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection

from batch_pipeline.flow import breaker, budget, gone, planning
from batch_pipeline.flow.answers import TOKENS
from batch_pipeline.flow.calls import send_calls
from batch_pipeline.flow.outcomes import Status
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import View
from batch_pipeline.flow.standing_answers import answer_paths
from batch_pipeline.flow.submission import submit_waiting
from batch_pipeline.money.bounds import Bounds
from batch_pipeline.money.prices import ModelPrice, TokenUsage
from batch_pipeline.spec import JobSpec, PilotSpec
from batch_pipeline.state import approvals, nights, submissions
from batch_pipeline.state.admission import MaySend, Waiting
from batch_pipeline.state.approvals import Approval, Gate
from batch_pipeline.state.nights import Night, Shard, ShardState, Snapshot
from batch_pipeline.state.submissions import State

# A pilot is never more than this part of a night.
LARGEST_PART = 10
EXAMPLES = 3
# Of a pilot that the API has hardly worked on, nothing can be said.
LEAST_JUDGED = 0.5


@dataclass(frozen=True)
class Verdict:
    """What the pilot measured and whether the rest of the night may go.

    Rates are of `judged`, the sampled requests that the API worked on; `examples` are up to three
    ids with what went wrong.
    """

    open: bool
    reasons: tuple[str, ...]
    sample: int
    judged: int
    error_rate: float
    truncated_rate: float
    mean_input_tokens: float
    mean_output_tokens: float
    cost_usd: float
    projected_usd: float
    examples: tuple[str, ...]
    declaration_hash: str
    content_hash: str


@dataclass(frozen=True)
class Answered:
    """What one request of the pilot came to; its tokens, and what it costs in a batch.

    An answer that was cut off is asked for with more room before the verdict, where the job says
    so: it counts as it is then, and what both cost counts.
    """

    unit: str
    id: str
    status: str
    final: bool
    error_message: str | None
    usage: TokenUsage
    batch_usd: Decimal


def gate(night: Night, shard: Shard, overruled: Sequence[Approval] = ()) -> str | None:
    """Why a shard may not go: it waits for a verdict, or that is no and not overruled."""
    if shard.pilot:
        return None
    if night.pilot is None:
        return "the pilot has not been judged yet"
    if not lets_go(night.pilot, overruled):
        return f"the pilot's gate is closed: {'; '.join(night.pilot['reasons'])}"
    return None


def lets_go(verdict: dict[str, Any], overruled: Sequence[Approval]) -> bool:
    """Whether the rest of the night may go: the verdict is good, or a person said so."""
    return bool(verdict["open"]) or approvals.covers(
        overruled, Gate.PILOT, verdict["declaration_hash"], verdict["content_hash"]
    )


def may_send(spec: JobSpec) -> MaySend:
    """Everything of the flow that has a say for a shard: the pilot's verdict, then the breaker."""
    breaks = breaker.gate(spec.alerts)

    def decide(connection: Connection, night: Night, shard: Shard) -> str | None:
        closed = gate(night, shard, approvals.of_night(connection, night.id))
        return closed or breaks(connection, night, shard)

    return decide


def holds(verdict: dict[str, Any] | None, snapshot: Snapshot) -> bool:
    """Whether a verdict is about this night still: a good one for its declaration, a bad one for
    this very input, so that corrected data get a pilot of their own."""
    if verdict is None or verdict["declaration_hash"] != snapshot.declaration_hash:
        return False
    return bool(verdict["open"]) or verdict["content_hash"] == snapshot.content_hash


def sample_size(wanted: int, units: int, open_units: int) -> int:
    """At most a tenth of the night, and of what is still to be bought."""
    return min(wanted, units // LARGEST_PART, open_units)


def judge(
    spec: PilotSpec, snapshot: Snapshot, answers: Sequence[Answered], billed_usd: Decimal
) -> Verdict | None:
    """The verdict on a collected pilot; None where too little of it was worked on.

    The projection is what the sample was billed and, for the rest, its mean at the batch price.
    """
    # Cut off and still open: `retry.truncated_max_tokens` was taken away meanwhile.
    judged = [a for a in answers if a.final or a.status == Status.TRUNCATED]
    if len(judged) < LEAST_JUDGED * len(answers):
        return None
    good = (Status.SUCCEEDED, Status.TRUNCATED)
    errors = sum(answer.status not in good for answer in judged) / len(judged)
    truncated = sum(answer.status == Status.TRUNCATED for answer in judged) / len(judged)
    reasons = _reasons(spec, errors, truncated)
    usage = sum((answer.usage for answer in judged), TokenUsage())
    mean_usd = sum((answer.batch_usd for answer in judged), Decimal(0)) / len(judged)
    projected = billed_usd + mean_usd * (snapshot.units - len(answers))
    return Verdict(
        open=not reasons,
        reasons=tuple(reasons),
        sample=len(answers),
        judged=len(judged),
        error_rate=errors,
        truncated_rate=truncated,
        mean_input_tokens=usage.prompt_tokens / len(judged),
        mean_output_tokens=usage.output_tokens / len(judged),
        cost_usd=float(billed_usd),
        projected_usd=round(float(projected), 6),
        examples=tuple(
            f"{answer.id}: {answer.error_message}"
            for answer in judged
            if answer.status != Status.SUCCEEDED
        )[:EXAMPLES],
        declaration_hash=snapshot.declaration_hash,
        content_hash=snapshot.content_hash,
    )


def latest(answers: Iterable[Answered]) -> list[Answered]:
    """The last answer of each request, in the order of the first; tokens and cost are summed."""
    found: dict[str, Answered] = {}
    for answer in answers:
        former = found.get(answer.unit)
        found[answer.unit] = answer if former is None else _added(former, answer)
    return list(found.values())


def _added(former: Answered, answer: Answered) -> Answered:
    usage, usd = former.usage + answer.usage, former.batch_usd + answer.batch_usd
    return replace(answer, usage=usage, batch_usd=usd)


def _reasons(spec: PilotSpec, error_rate: float, truncated_rate: float) -> list[str]:
    """Why the limits keep the gate closed; none: it is open."""
    reasons = []
    if error_rate > spec.max_error_rate:
        reasons.append(f"error rate {error_rate:.1%} is over {spec.max_error_rate:.1%}")
    if truncated_rate > spec.max_truncated_rate:
        reasons.append(
            f"{truncated_rate:.1%} of the answers were cut off, over "
            f"{spec.max_truncated_rate:.1%}: raise max_tokens"
        )
    return reasons


def run_pilot(
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    price: ModelPrice,
) -> dict[str, Any] | Waiting:
    """Bring the night's pilot as far as it goes now: the verdict, or why it waits."""
    while True:
        night, snapshot = planning.current(pipeline, night)
        verdict = night.pilot
        if verdict is not None and holds(verdict, snapshot):
            return verdict if verdict["open"] else _judged_again(pipeline, spec, night, verdict)
        seen = planning.view(pipeline, night)
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
    mine = _pilots(pipeline, seen, ShardState.WAITING, ShardState.HELD, ShardState.COLLECTED)
    return mine[-1] if mine else None


def _pilots(pipeline: Pipeline, seen: View, *states: ShardState) -> list[Shard]:
    """The pilots of this snapshot: the sample, and what was drawn or asked again after it."""
    with pipeline.ledger.read() as connection:
        return nights.pilot_shards(connection, seen.snapshot.id, *states)


def _plan(pipeline: Pipeline, spec: JobSpec, seen: View) -> None:
    wanted = sample_size(spec.pilot.size, seen.snapshot.units, planning.count_open(pipeline, seen))
    if wanted:
        planning.plan_pilot(pipeline, seen, spec, wanted, _bounds(pipeline, spec, seen))
    else:
        reason = "no pilot" if spec.pilot.size == 0 else "too few documents for a pilot"
        _store(pipeline, seen.night, _without_sample(seen.snapshot, reason))


def _send(pipeline: Pipeline, spec: JobSpec, night: Night, pilot: Shard) -> Waiting | None:
    if pilot.engine == "batch":
        if pilot.state is ShardState.WAITING:
            limits = budget.limits(pipeline, spec, night)
            submitted = submit_waiting(pipeline, night, limits, may_send(spec))
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
        return Waiting("the pilot's batch is being processed", pilot.requests)
    with breaker.watched(pipeline, spec.alerts, night):
        gone.collect(pipeline, night, ended[0], spec.retry)
    budget.note_if_passed(pipeline, spec, night, ended[0])
    return None


def _decide(pipeline: Pipeline, spec: JobSpec, seen: View, price: ModelPrice) -> None:
    with pipeline.ledger.read() as connection:
        collected = submissions.of_night(connection, seen.night.id, State.COLLECTED)
    shards = {shard.id for shard in _pilots(pipeline, seen, ShardState.COLLECTED)}
    every = [s for s in collected if s.shard_id in shards and not s.is_duplicate]
    table = pipeline.files.dataset(answer_paths(seen.night, every)).to_table(
        columns=["unit", "id", "status", "final", "error_message", *TOKENS]
    )
    answers = latest(_answered(row, price) for row in table.to_pylist())
    cut_off = sum(not a.final and a.status == Status.TRUNCATED for a in answers)
    asked_again = cut_off and spec.retry.truncated_max_tokens is not None
    # What a larger `max_tokens` heals must not close the gate, and whether it heals is to be known
    # before the night is bought.
    bounds = _bounds(pipeline, spec, seen)
    if asked_again and planning.plan_more_room(pipeline, seen, spec, cut_off, bounds):
        return
    billed = sum((s.cost_usd or Decimal(0) for s in every), Decimal(0))
    verdict = judge(spec.pilot, seen.snapshot, answers, billed)
    if verdict is None:
        # The API was not itself: another sample, of what is still open.
        _plan(pipeline, spec, planning.view(pipeline, seen.night))
    else:
        _store(pipeline, seen.night, verdict)


def _bounds(pipeline: Pipeline, spec: JobSpec, seen: View) -> Bounds:
    with pipeline.ledger.read() as connection:
        return budget.bounds(connection, spec, seen.night, seen.snapshot)


def _answered(row: dict[str, Any], price: ModelPrice) -> Answered:
    usage = TokenUsage(**{name: row.pop(name) for name in TOKENS})
    return Answered(**row, usage=usage, batch_usd=price.cost(usage, mode="batch"))


def _judged_again(
    pipeline: Pipeline, spec: JobSpec, night: Night, verdict: dict[str, Any]
) -> dict[str, Any]:
    """A closed verdict by the limits that are declared now: what was measured stays."""
    reasons = _reasons(spec.pilot, verdict["error_rate"], verdict["truncated_rate"])
    judged = {**verdict, "open": not reasons, "reasons": reasons}
    if judged != verdict:
        with pipeline.ledger.write() as connection:
            nights.update_night(connection, night.id, pilot=judged)
    return judged


def _store(pipeline: Pipeline, night: Night, verdict: Verdict) -> None:
    with pipeline.ledger.write() as connection:
        nights.update_night(connection, night.id, pilot=asdict(verdict))


def _without_sample(snapshot: Snapshot, reason: str) -> Verdict:
    return Verdict(
        open=True,
        reasons=(reason,),
        sample=0,
        judged=0,
        error_rate=0.0,
        truncated_rate=0.0,
        mean_input_tokens=0.0,
        mean_output_tokens=0.0,
        cost_usd=0.0,
        projected_usd=0.0,
        examples=(),
        declaration_hash=snapshot.declaration_hash,
        content_hash=snapshot.content_hash,
    )
