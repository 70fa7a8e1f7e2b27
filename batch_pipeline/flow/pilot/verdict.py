"""The pilot's verdict: what its answers measure, and whether the rest of the night may go.

Pure functions of the answers and of the job's limits. How a pilot is drawn and brought to its end
stands in `sample`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from batch_pipeline.flow.outcomes import Status
from batch_pipeline.jobs.spec import PilotSpec
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.pricing.projection import project
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
    time, `turnaround_seconds` of a pilot that went as a batch.
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


@dataclass(frozen=True)
class Answered:
    """The last answer to one request of the pilot; `counted`: the API has worked on it.

    `rest_usd` is what it would cost by the way that the rest of the night goes. Where the job has
    `retry.truncated_max_tokens`, a request that was cut off is asked once more before the verdict:
    tokens and cost are then those of both answers.
    """

    unit: str
    id: str
    status: str
    final: bool
    error_message: str | None
    usage: TokenUsage
    rest_usd: Decimal
    counted: bool = True


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
) -> Verdict | None:
    """The verdict on a collected pilot; None where too little of it was worked on.

    The projected cost of the night is what the sample was billed, and for each other request the
    sample's mean at the price of the way that the rest goes.
    """
    # An answer that was cut off may still be open: if the job no longer asks for more room.
    judged = [a for a in answers if a.final or a.status == Status.TRUNCATED]
    if len(judged) < LEAST_JUDGED * len(answers):
        return None
    good = (Status.SUCCEEDED, Status.TRUNCATED)
    usage = sum((answer.usage for answer in judged), TokenUsage())
    projected = project([a.rest_usd for a in judged], billed_usd, snapshot.bought - len(answers))
    measured = Verdict(
        open=True,
        reasons=(),
        sample=len(answers),
        judged=len(judged),
        error_rate=sum(answer.status not in good for answer in judged) / len(judged),
        truncated_rate=_rate(judged, Status.TRUNCATED),
        refused_rate=_rate(judged, Status.REFUSED),
        invalid_output_rate=_rate(judged, Status.INVALID_OUTPUT),
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
    )
    reasons = tuple(why_closed(spec, vars(measured)))
    return replace(measured, open=not reasons, reasons=reasons)


def latest(answers: Iterable[Answered]) -> list[Answered]:
    """The last answer of each request, in the order of the first; tokens and cost are summed."""
    found: dict[str, Answered] = {}
    for answer in answers:
        former = found.get(answer.unit)
        found[answer.unit] = answer if former is None else _added(former, answer)
    return list(found.values())


def why_closed(spec: PilotSpec, verdict: Mapping[str, Any]) -> list[str]:
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
    usage, cost = former.usage + answer.usage, former.rest_usd + answer.rest_usd
    return replace(answer, usage=usage, rest_usd=cost)


def _rate(judged: Sequence[Answered], status: Status) -> float:
    return sum(answer.status == status for answer in judged) / len(judged)


def _p95(values: Iterable[int]) -> float:
    ordered = sorted(values)
    return float(ordered[nearest_rank(len(ordered), 0.95)])


def _rounded(amount: Decimal) -> float:
    return round(float(amount), 6)
