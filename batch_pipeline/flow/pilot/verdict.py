"""The pilot's verdict: what its answers measure, and whether the rest of the night may go.

Pure functions of the answers and of the job's limits. How a pilot is drawn and brought to its end
stands in `pilot_run`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from batch_pipeline.flow.answers.outcomes import Status, Undecided
from batch_pipeline.jobs.spec import PilotSpec
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.pricing.projection import Part, project, project_parts
from batch_pipeline.pricing.tokens import TokenUsage
from batch_pipeline.reporting.distribution import nearest_rank
from batch_pipeline.wording import usd

EXAMPLES = 3
# The API must have worked on this share of the sample: of a pilot that mostly expired, nothing can
# be said.
LEAST_JUDGED = 0.5


@dataclass(frozen=True)
class Verdict:
    """What the pilot measured and whether the rest of the night may go.

    Rates are of `judged`, the sampled requests that the API worked on; `refused_rate` and
    `invalid_output_rate` (an empty answer, or one that breaks the schema) are parts of
    `error_rate`. `examples` are up to three ids with what went wrong. The night is projected to
    cost `projected_usd`, with 95 % confidence between the low and the high amount (None: one answer
    has no spread). `cache_read_share` is of the prompts' tokens. Latencies are of calls in real
    time, `turnaround_seconds` of a pilot that went as a batch. `near_duplicates` says whether they
    may share answers (`agreement.judge`). Of the judged requests `escalated_rate` were asked once
    more of a stronger model, or wait for that: outcomes are those after it. `routes` has the same
    of each route, where there are several; their projections add up to that of the night.
    With the `review` "required" a person has to approve it, after a look at `page`: the URI of the
    pilot's page, None where there is none. Fields of the schema that all answers have the same
    value in are `always_same`.
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
    refused_rate: float = 0.0
    invalid_output_rate: float = 0.0
    p95_input_tokens: float = 0.0
    p95_output_tokens: float = 0.0
    cache_read_share: float = 0.0
    projected_low_usd: float | None = None
    projected_high_usd: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    turnaround_seconds: float | None = None
    near_duplicates: dict[str, Any] | None = None
    escalated_rate: float = 0.0
    routes: tuple[dict[str, Any], ...] = ()
    review: str = "none"
    page: str | None = None
    always_same: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answered:
    """The last answer to one request of the pilot; `counted`: the API has worked on it.

    `rest_usd` is what it would cost by the way that the rest of the night goes. Where the job has
    `retry.truncated_max_tokens`, a request that was cut off is asked once more before the verdict:
    tokens and cost are then those of both answers, as they are where a stronger model was asked, or
    an answer was sent back.
    `billed_usd` is what it cost. `escalate` is why its last answer is not final (`Undecided`),
    `escalated` tells whether a stronger model was asked.
    """

    unit: str
    id: str
    status: str
    final: bool
    error_message: str | None
    usage: TokenUsage
    rest_usd: Decimal
    counted: bool = True
    billed_usd: Decimal = Decimal(0)
    route: str | None = None
    escalate: str | None = None
    escalated: bool = False

    @property
    def judged(self) -> bool:
        """Whether its outcome is known: one that was cut off may still be open, if the job no
        longer asks for more room, and one may wait for a stronger model."""
        return self.final or self.status == Status.TRUNCATED or self.escalate is not None


@dataclass(frozen=True)
class AnswerTimes:
    """How long the pilot's answers took: latencies of real-time calls, or turnaround of a batch."""

    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    turnaround_seconds: float | None = None


UNTIMED = AnswerTimes()


def judge(
    spec: PilotSpec,
    snapshot: Snapshot,
    answers: Sequence[Answered],
    billed_usd: Decimal,
    took: AnswerTimes = UNTIMED,
    *,
    besides: int = 0,
    routes: Mapping[str | None, Route] | None = None,
    max_share: float | None = None,
) -> Verdict | None:
    """The verdict on a collected pilot; None where too little of it was worked on.

    The projected cost of the night is what the sample was billed, and for each other request the
    sample's mean at the price of the way that the rest goes: the mean of its route, where there are
    several `routes`. `besides` requests of the night are neither of the sample nor still to be
    bought. `max_share` is that of the escalated requests, if the job escalates.
    """
    judged = [answer for answer in answers if answer.judged]
    if len(judged) < LEAST_JUDGED * len(answers):
        return None
    usage = sum((answer.usage for answer in judged), TokenUsage())
    parts = {
        name: Part([a.rest_usd for a in judged if a.route == name], route.rest)
        for name, route in (routes or {}).items()
    }
    if parts:
        projected = project_parts(list(parts.values()), billed_usd)
    else:
        rest = max(0, snapshot.bought - len(answers) - besides)
        projected = project([a.rest_usd for a in judged], billed_usd, rest)
    measured = Verdict(
        open=True,
        reasons=(),
        sample=len(answers),
        judged=len(judged),
        error_rate=_error_rate(judged),
        truncated_rate=_rate(judged, Status.TRUNCATED),
        refused_rate=_rate(judged, Status.REFUSED),
        invalid_output_rate=_rate(judged, Status.INVALID_OUTPUT),
        escalated_rate=_escalated_rate(judged),
        mean_input_tokens=usage.prompt_tokens / len(judged),
        mean_output_tokens=usage.output_tokens / len(judged),
        p95_input_tokens=_p95(answer.usage.prompt_tokens for answer in judged),
        p95_output_tokens=_p95(answer.usage.output_tokens for answer in judged),
        cache_read_share=usage.cache_read_tokens / max(1, usage.prompt_tokens),
        cost_usd=float(billed_usd),
        projected_usd=_rounded(projected.expected),
        projected_low_usd=None if projected.low is None else _rounded(projected.low),
        projected_high_usd=None if projected.high is None else _rounded(projected.high),
        latency_p50_ms=took.latency_p50_ms,
        latency_p95_ms=took.latency_p95_ms,
        turnaround_seconds=took.turnaround_seconds,
        examples=tuple(
            f"{answer.id}: {answer.error_message}"
            for answer in judged
            if answer.status != Status.SUCCEEDED
        )[:EXAMPLES],
        declaration_hash=snapshot.declaration_hash,
        content_hash=snapshot.content_hash,
        routes=tuple(
            _of_route(name, route, [a for a in answers if a.route == name], parts[name], judged)
            for name, route in (routes or {}).items()
        ),
    )
    reasons = tuple(why_closed(spec, vars(measured), max_share))
    return replace(measured, open=not reasons, reasons=reasons)


@dataclass(frozen=True)
class Route:
    """A route of the night: the model that it asks, and how many of its requests are left when the
    pilot is judged."""

    model_id: str
    rest: int


def _of_route(
    name: str | None,
    route: Route,
    answers: Sequence[Answered],
    part: Part,
    of_all: Sequence[Answered],
) -> dict[str, Any]:
    """What the pilot measured of one route; where it has no answer, its cost is projected by those
    of all routes."""
    judged = [answer for answer in answers if answer.judged]
    usage = sum((answer.usage for answer in judged), TokenUsage())
    billed = sum((answer.billed_usd for answer in answers), Decimal(0))
    costs = part.costs or [answer.rest_usd for answer in of_all]
    return {
        "route": name,
        "model_id": route.model_id,
        "sample": len(answers),
        "judged": len(judged),
        "error_rate": _error_rate(judged),
        "truncated_rate": _rate(judged, Status.TRUNCATED),
        "escalated_rate": _escalated_rate(judged),
        "mean_input_tokens": usage.prompt_tokens / max(1, len(judged)),
        "mean_output_tokens": usage.output_tokens / max(1, len(judged)),
        "cost_usd": _rounded(billed),
        "rest": route.rest,
        "projected_usd": _rounded(project(costs, billed, route.rest).expected),
    }


def latest(answers: Iterable[Answered]) -> list[Answered]:
    """The last answer of each request, in the order of the first; tokens and cost are summed."""
    found: dict[str, Answered] = {}
    for answer in answers:
        former = found.get(answer.unit)
        found[answer.unit] = answer if former is None else _added(former, answer)
    return list(found.values())


def why_closed(
    spec: PilotSpec, verdict: Mapping[str, Any], max_share: float | None = None
) -> list[str]:
    """Why the limits keep the gate closed; an empty list: it is open.

    The limit in USD is compared with the expected cost and not with the upper end of its interval,
    which is far too high after a small sample. What must never be passed is a ceiling of `budget`.
    """
    errors, truncated = verdict["error_rate"], verdict["truncated_rate"]
    reasons = []
    if errors > spec.max_error_rate:
        reasons.append(f"error rate {errors:.1%} is over {spec.max_error_rate:.1%}")
    if truncated > spec.max_truncated_rate:
        reasons.append(
            f"{truncated:.1%} of the answers were cut off, over {spec.max_truncated_rate:.1%}: "
            "raise max_tokens"
        )
    escalated = verdict.get("escalated_rate", 0.0)
    if max_share is not None and escalated > max_share:
        reasons.append(
            f"{escalated:.1%} of the requests are asked of a stronger model, over "
            f"retry.escalate.max_share ({max_share:.1%}): the rest would keep answers that failed "
            "or are unsure; raise it, or ask the stronger model at first"
        )
    if not reasons:
        # A route may fail whose share of the sample is too small to show in the whole.
        reasons += [
            f"{what} of route {route['route'] or 'none'} ({route['model_id']}) is "
            f"{route[key]:.1%}, over {limit:.1%}"
            for route in verdict.get("routes", ())
            for what, key, limit in (
                ("error rate", "error_rate", spec.max_error_rate),
                ("the share of answers cut off", "truncated_rate", spec.max_truncated_rate),
            )
            if route[key] > limit
        ]
    projected, limit = Decimal(str(verdict["projected_usd"])), spec.max_projected_usd
    if limit is not None and projected > limit:
        reasons.append(
            f"the night is projected to cost {usd(projected)}{interval(verdict)}, over "
            f"pilot.max_projected_usd ({usd(limit)})"
        )
    return reasons


def interval(verdict: Mapping[str, Any]) -> str:
    """The interval of a projection as ` ($1.20 to $1.50)`; empty where it is not known."""
    low, high = verdict["projected_low_usd"], verdict["projected_high_usd"]
    if low is None or high is None:
        return ""
    return f" ({usd(Decimal(str(low)))} to {usd(Decimal(str(high)))})"


def without_sample(snapshot: Snapshot, reason: str) -> Verdict:
    """The verdict where there is no pilot: nothing was measured, the gate is open."""
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


def _added(former: Answered, answer: Answered) -> Answered:
    """Both answers to one request; where the second was in vain, the former one stands."""
    stands = answer.escalate == Undecided.STANDS
    last = replace(former, escalate=Undecided.STANDS) if stands else answer
    return replace(
        last,
        usage=former.usage + answer.usage,
        rest_usd=former.rest_usd + answer.rest_usd,
        billed_usd=former.billed_usd + answer.billed_usd,
        escalated=former.escalated or answer.escalated,
    )


def _error_rate(judged: Sequence[Answered]) -> float:
    good = (Status.SUCCEEDED, Status.TRUNCATED)
    return sum(answer.status not in good for answer in judged) / max(1, len(judged))


def _rate(judged: Sequence[Answered], status: Status) -> float:
    return sum(answer.status == status for answer in judged) / max(1, len(judged))


def _escalated_rate(judged: Sequence[Answered]) -> float:
    asked = sum(answer.escalated or answer.escalate is not None for answer in judged)
    return asked / max(1, len(judged))


def _p95(values: Iterable[int]) -> float:
    ordered = sorted(values)
    return float(ordered[nearest_rank(len(ordered), 0.95)])


def _rounded(amount: Decimal) -> float:
    return round(float(amount), 6)
