"""The pilot: a sample goes through the whole path first, and its verdict gates the rest.

Its good answers are ordinary answers of the night: kept, and not bought again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from batch_pipeline.flow.answers.answers import answer_paths
from batch_pipeline.flow.answers.outcomes import Status, Undecided
from batch_pipeline.flow.answers.schemas import ANSWERS_SCHEMA
from batch_pipeline.flow.batches.submission import submit_waiting
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.gates import breaker, budget
from batch_pipeline.flow.gates.night_gates import read_gates, verdict_applies
from batch_pipeline.flow.pilot import agreement, recording
from batch_pipeline.flow.pilot import verdict as verdicts
from batch_pipeline.flow.pilot.verdict import Answered, AnswerTimes, Verdict
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import plan
from batch_pipeline.flow.planning.plan import View
from batch_pipeline.flow.planning.variants import is_escalated
from batch_pipeline.flow.realtime.calls import send_calls
from batch_pipeline.flow.results import lost_results
from batch_pipeline.flow.results.judging.odd_lines import ResultsIncompleteError
from batch_pipeline.jobs.filters import NearDuplicatesSpec
from batch_pipeline.jobs.sending import PilotSpec
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import shards
from batch_pipeline.ledger.admission import admission
from batch_pipeline.ledger.admission.admission import Waiting
from batch_pipeline.ledger.admission.night_state import (
    PILOT_AT_API,
    RESULTS_MISSING,
    Kind,
    running,
)
from batch_pipeline.ledger.control.approvals import REQUIRED
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard, ShardState
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.pricing.bounds import ModelBounds
from batch_pipeline.pricing.prices import Mode, ModelPrice
from batch_pipeline.pricing.tokens import TOKENS, TokenUsage
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

_COSTS = ("cost_usd", "other_way_usd")
# A pilot is at most a tenth of a night.
UNITS_PER_SAMPLED = 10
# As many are tried where a person reviews them, though a tenth of a small night is less.
LEAST_REVIEWED = 3


def sample_size(pilot: PilotSpec, units: int, open_units: int) -> int:
    """The number of units in a pilot: at most a tenth of the night, and no more than are open.

    Where a person reviews it, there is something to look at and something left to approve, unless
    a single unit is open.
    """
    most = units // UNITS_PER_SAMPLED
    if pilot.review == REQUIRED:
        most = max(most, min(LEAST_REVIEWED, open_units - 1))
    return min(pilot.size, most, open_units)


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
        if verdict is not None and verdict_applies(verdict, snapshot):
            judged = recording.as_declared_now(pipeline, spec, night, snapshot, verdict)
            if verdict_applies(judged, snapshot):
                return judged
            continue
        night = plan.take_back_too_large(pipeline, spec, night)
        seen = plan.view(pipeline, night)
        published = _published(pipeline, night.id)
        pilot = _latest(pipeline, seen, published)
        if pilot is None:
            _plan(pipeline, spec, seen)
        elif pilot.state is ShardState.COLLECTED or pilot.id in published:
            # Lines that cannot be read may take a day: what can be read tells enough.
            waiting = _decide(pipeline, spec, seen, price, in_part=bool(published))
            if waiting is not None:
                return waiting
        else:
            waiting = _send(pipeline, spec, seen.night, pilot)
            if waiting is not None and not _does_without(pipeline, waiting, pilot):
                return waiting


def _latest(pipeline: Pipeline, seen: View, published: set[int]) -> Shard | None:
    """The first pilot of this snapshot that has no answers yet, else the newest: one that the API
    refused was split."""
    found = _pilots(pipeline, seen, ShardState.WAITING, ShardState.CLAIMED, ShardState.COLLECTED)
    done = ShardState.COLLECTED
    left = [pilot for pilot in found if pilot.state is not done and pilot.id not in published]
    return next(iter(left), found[-1] if found else None)


def _pilots(pipeline: Pipeline, seen: View, *states: ShardState) -> list[Shard]:
    """The pilot's shards for this snapshot: the first sample, further samples, and requests that
    were asked again with more room."""
    with pipeline.ledger.read() as connection:
        return shards.pilot_shards(connection, seen.snapshot.id, *states)


def _plan(pipeline: Pipeline, spec: JobSpec, seen: View) -> None:
    """Plan a sample; where the night needs no pilot, store a verdict that says so."""
    units = seen.snapshot.units
    # Open units are counted only where a pilot is wanted: that reads the whole snapshot.
    pilot = spec.pilot.model_copy(update={"size": _fitting(pipeline, spec, spec.pilot.size)})
    wanted = sample_size(pilot, units, units)
    if wanted:
        wanted = sample_size(pilot, units, plan.count_open(pipeline, seen))
    if wanted:
        wanted, pairs = _with_pairs(pipeline, spec, seen, wanted)
        bounds = _bounds(pipeline, spec, seen)
        plan.plan_pilot(pipeline, seen, spec, wanted, bounds, pairs)
    else:
        reason = "no pilot" if spec.pilot.size == 0 else "too few documents for a pilot"
        near = _agreement(spec, seen, (), {})
        verdict = replace(verdicts.without_sample(seen.snapshot, reason), near_duplicates=near)
        recording.store(pipeline, spec, seen, verdict)


def pairs_that_fit(near: NearDuplicatesSpec, wanted: int, most: int) -> int:
    """How many pairs of near duplicates a pilot asks beside a sample of `wanted`, of `most`
    requests together; 0 where these are too few to show that they agree."""
    room = (most - wanted // 2) // 2
    pairs = min(room, agreement.least_pairs(near.min_agreement, unequal=1))
    return pairs if pairs >= agreement.least_pairs(near.min_agreement) else 0


def _with_pairs(
    pipeline: Pipeline, spec: JobSpec, seen: View, wanted: int
) -> tuple[int, list[tuple[str, str]]]:
    """The size of the sample, and pairs of near duplicates that are asked beside it.

    All together are at most a tenth of the night. As many pairs are asked as show the agreement
    although one of them is unequal; where there is no room for as many as show it at best, none is.
    """
    near = spec.near_duplicates
    if near is None or not seen.hold_twins:
        return wanted, []
    most = _fitting(pipeline, spec, seen.snapshot.units // UNITS_PER_SAMPLED)
    pairs = pairs_that_fit(near, wanted, most)
    found = plan.sample_pairs(pipeline, seen, spec, pairs) if pairs else []
    if len(found) < agreement.least_pairs(near.min_agreement):
        return wanted, []
    return max(1, min(wanted, most - 2 * len(found))), found


def _agreement(
    spec: JobSpec,
    seen: View,
    pairs: Sequence[tuple[str, str]],
    answers: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any] | None:
    """What the verdict says of near duplicates that may share answers; None: there are none."""
    declared, near = seen.snapshot.declaration.get("near_duplicates"), spec.near_duplicates
    if declared is None or declared["action"] != "reuse":
        return None
    least = NearDuplicatesSpec().min_agreement if near is None else near.min_agreement
    return agreement.judge(declared, least, pairs, answers)


def _send(pipeline: Pipeline, spec: JobSpec, night: Night, pilot: Shard) -> Waiting | None:
    """Send a pilot and collect it; returns what it waits for, or None once it is collected."""
    if pilot.engine == "batch":
        if pilot.state is ShardState.WAITING:
            limits = budget.limits(pipeline, spec, night)
            submitted = submit_waiting(pipeline, night, limits, read_gates(spec))
            if not submitted.batches and submitted.waiting.state is not None:
                return submitted.waiting
        return _collect(pipeline, spec, night, pilot)
    waiting = send_calls(pipeline, spec, night, pilot)
    return waiting or _collect(pipeline, spec, night, pilot)


def _does_without(pipeline: Pipeline, waiting: Waiting, pilot: Shard) -> bool:
    """Give up a pilot for which no ceiling has room, where its requests have good answers without
    the stronger model; returns whether it is given up. The night decides which answers stand."""
    short = waiting.state is not None and waiting.state.kind is Kind.SHORT_OF_BUDGET
    if not short or not pilot.optional:
        return False
    with pipeline.ledger.write() as connection:
        if submissions.of_night(connection, pilot.night_id, *submissions.LIVE):
            return False
        return bool(shards.drop_optional(connection, pilot.night_id))


def _collect(pipeline: Pipeline, spec: JobSpec, night: Night, pilot: Shard) -> Waiting | None:
    with pipeline.ledger.read() as connection:
        ended = [
            submission
            for submission in submissions.of_night(connection, night.id, State.ENDED)
            if submission.pilot and submission.snapshot_id == pilot.snapshot_id
        ]
        at = now(connection)
    if not ended:
        return Waiting(running(PILOT_AT_API), pilot.requests)
    watch = breaker.Watch(pipeline, spec.alerts, night)
    looked_at: set[int] = set()
    for submission in ended:
        if submission.until_download(at):
            continue
        try:
            lost_results.collect(pipeline, night, submission, spec.retry)
        except ResultsIncompleteError as error:
            log.warning("batch %s: %s", submission.batch_id, error)
            if submission.shard_id not in _published(pipeline, night.id):
                continue
        looked_at.add(submission.id)
        watch.collected()
        budget.note_if_passed(pipeline, spec, night, submission)
    return None if looked_at else Waiting(running(RESULTS_MISSING), pilot.requests)


def _published(pipeline: Pipeline, night_id: int) -> set[int]:
    """The pilots of which answers are published while others are missing."""
    with pipeline.ledger.read() as connection:
        found = submissions.of_night(connection, night_id, State.ENDED)
    return {s.shard_id for s in found if s.pilot and s.published is not None}


def _decide(
    pipeline: Pipeline, spec: JobSpec, seen: View, price: ModelPrice, *, in_part: bool = False
) -> Waiting | None:
    """Judge the pilot and store the verdict, or plan what is to be asked before that.

    Returns what either has to wait for.
    """
    with pipeline.ledger.read() as connection:
        found = submissions.of_night(connection, seen.night.id, State.COLLECTED, State.ENDED)
    sampled = {s.id for s in _pilots(pipeline, seen, ShardState.COLLECTED, ShardState.CLAIMED)}
    every = [s for s in found if s.has_answers and s.shard_id in sampled and not s.duplicate]
    table = pipeline.files.dataset(answer_paths(seen.night, every), ANSWERS_SCHEMA).to_table(
        columns=[
            "unit", "id", "status", "final", "counted", "error_message", "mode", "route",
            "variant", "escalate", *TOKENS, *_COSTS, *(["parsed"] if seen.hold_twins else ()),
        ]
    )  # fmt: skip
    rest: Mode = "realtime" if spec.mode == "realtime" else "batch"
    uncached = spec.caching != "off"
    rows = table.to_pylist()
    parsed = {row["unit"]: row.pop("parsed") for row in rows if "parsed" in row}
    answers = verdicts.latest(_answered(row, price, rest, uncached=uncached) for row in rows)
    # Requests that the API has not worked on, as where the account was paused, are no evidence.
    again = [answer.unit for answer in answers if not answer.counted]
    if spec.retry.truncated_max_tokens is not None:
        # Requests that are cut off and heal with a larger `max_tokens` must not close the gate;
        # whether they heal has to be known before the night is bought.
        again += [
            a.unit
            for a in answers
            if not a.final and a.status == Status.TRUNCATED and a.escalate is None
        ]
    # What was sent back for the API to go on, or with what is wrong with it, is judged by what it
    # comes to.
    again += [
        a.unit
        for a in answers
        if a.status == Status.INVALID_OUTPUT and a.counted and not a.final and a.escalate is None
    ]
    if spec.retry.escalate is not None:
        # The outcomes after the escalation are judged.
        again += [a.unit for a in answers if a.escalate == Undecided.FAILED and not a.escalated]
    if not again and _escalates_unsure(pipeline, spec, seen):
        again = [a.unit for a in answers if a.escalate == Undecided.UNSURE and not a.escalated]
    bounds = _bounds(pipeline, spec, seen)
    again = [] if in_part else again[: _fitting(pipeline, spec, len(again))]
    with pipeline.ledger.read() as connection:
        waiting = admission.resting(connection, seen.night)
    if again and waiting is not None:
        return waiting
    if again and plan.plan_again(pipeline, seen, spec, again, bounds):
        return None
    costs = (s.published_usd if s.cost_usd is None else s.cost_usd for s in every)
    billed = sum(costs, Decimal(0))
    verdict = _verdict(pipeline, spec, seen, answers, parsed, billed, _took(every))
    if verdict is not None:
        recording.store(pipeline, spec, seen, verdict)
        return None
    if in_part:
        return Waiting(running(RESULTS_MISSING))
    if waiting is None:
        # The API worked on too little of the sample: another one is drawn of what is still open.
        _plan(pipeline, spec, plan.view(pipeline, seen.night))
    return waiting


def _escalates_unsure(pipeline: Pipeline, spec: JobSpec, seen: View) -> bool:
    """Whether the stronger model is asked for good answers that are unsure: in a shard of their
    own, without which the pilot is judged where it is late or found no budget."""
    if spec.retry.escalate is None or seen.night.realtime_since is not None:
        return False
    return not any(pilot.optional for pilot in _pilots(pipeline, seen, ShardState.DROPPED))


def _verdict(
    pipeline: Pipeline,
    spec: JobSpec,
    seen: View,
    answers: Sequence[Answered],
    parsed: Mapping[str, str | None],
    billed: Decimal,
    took: AnswerTimes,
) -> Verdict | None:
    """The verdict on all of the pilot's answers; pairs of near duplicates tell of nothing else."""
    pairs, held = plan.asked_pairs(pipeline, seen, parsed)
    final = {
        each.unit: {"status": each.status, "parsed": parsed.get(each.unit)}
        for each in answers
        if each.final
    }
    near = _agreement(spec, seen, pairs, final)
    accepted = near is not None and near["accepted"]
    of_pairs = {unit for pair in pairs for unit in pair}
    sampled = [each for each in answers if each.unit not in of_pairs] or answers
    verdict = verdicts.judge(
        spec.pilot,
        seen.snapshot,
        sampled,
        billed,
        took,
        # Requests that are answered already, or that are not to be asked.
        besides=len(answers) - len(sampled) + (held if accepted else 0),
        routes=_routes(pipeline, seen, answers, twins=not accepted),
        max_share=recording.max_share(spec),
    )
    return None if verdict is None else replace(verdict, near_duplicates=near)


def _routes(
    pipeline: Pipeline, seen: View, answers: Sequence[Answered], *, twins: bool
) -> dict[str | None, verdicts.Route] | None:
    """The routes of a night that the pilot tells of, with what is left of each, held `twins`
    included or not; None: there is but the job's own way."""
    declaration = Declaration.from_json(seen.snapshot.declaration)
    if not declaration.routes:
        return None
    left = plan.open_by_route(pipeline, seen, twins=twins)
    sampled = Counter(answer.route for answer in answers if not answer.final)
    drawn = {answer.route for answer in answers}
    return {
        route: verdicts.Route(asked.model_id, max(0, left.get(route, 0) - sampled[route]))
        for route, asked in declaration.by_route().items()
        if left.get(route) or route in drawn
    }


def _fitting(pipeline: Pipeline, spec: JobSpec, requests: int) -> int:
    """How many of these requests one pilot may have: as a batch no more than the queue takes."""
    if spec.pilot.via != "batch":
        return requests
    return min(requests, plan.queue_limit_of(pipeline, spec))


def _bounds(pipeline: Pipeline, spec: JobSpec, seen: View) -> ModelBounds:
    with pipeline.ledger.read() as connection:
        return budget.bounds_of(connection, spec, seen.night, seen.snapshot)


def _answered(row: dict[str, Any], price: ModelPrice, rest: Mode, *, uncached: bool) -> Answered:
    """A row of the pilot's answers; `rest` is the way that the rest of the night goes.

    `uncached`: what calls find in the prompt cache says nothing of batches, whose requests run at
    the same time. The rest is then projected as if it were not cached.
    """
    usage = TokenUsage(**{name: row.pop(name) for name in TOKENS})
    mode, billed, other_way = (row.pop(name) for name in ("mode", *_COSTS))
    if other_way is None:
        plain = TokenUsage(usage.prompt_tokens, usage.output_tokens)
        cost = price.cost(plain if uncached and mode != rest else usage, mode=rest)
    else:
        cost = billed if mode == rest else other_way
    escalated = is_escalated(row.pop("variant"))
    return Answered(**row, usage=usage, rest_usd=cost, billed_usd=billed, escalated=escalated)


def _took(collected: Sequence[Submission]) -> AnswerTimes:
    """How long the first sample took: what is asked again after it has other lengths."""
    first = next((each for each in collected if each.accepted_at is not None), collected[0])
    if first.engine == "realtime":
        latency = (first.progress or {}).get("latency_ms") or {}
        return AnswerTimes(latency_p50_ms=latency.get("p50"), latency_p95_ms=latency.get("p95"))
    if first.ended_at is None or first.accepted_at is None:
        return AnswerTimes()
    return AnswerTimes(turnaround_seconds=max(0.0, first.ended_at - first.accepted_at))
