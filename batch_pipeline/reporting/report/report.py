"""The cost report of one night as a value, and its arithmetic.

Amounts are exact Decimals in USD. `flow.costs.cost_report` fills it; `report_json`,
`report_markdown` and `report_html` show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from batch_pipeline.ledger.cache_use import CacheSums
from batch_pipeline.pricing.tokens import TokenUsage
from batch_pipeline.reporting.distribution import Distribution
from batch_pipeline.reporting.report.account_cost import AccountCost
from batch_pipeline.reporting.report.avoided import Avoided, Cascade, total_usd
from batch_pipeline.reporting.report.difference import Difference

ZERO = Decimal(0)
# Picodollars: the scale of `cost_usd` in the results. No price of a token has more decimals.
USD_SCALE = Decimal("1e-12")


@dataclass(frozen=True)
class Costs:
    """What a night cost, and what it would have cost.

    `counterfactual_usd` is all billed usage, retries included, at the real-time price.
    `attributed_usd` is the sum of the results' `cost_usd`.
    """

    batch_usd: Decimal = ZERO
    realtime_usd: Decimal = ZERO
    counterfactual_usd: Decimal = ZERO
    attributed_usd: Decimal = ZERO

    @property
    def billed_usd(self) -> Decimal:
        return self.batch_usd + self.realtime_usd

    @property
    def savings_usd(self) -> Decimal:
        return self.counterfactual_usd - self.billed_usd

    @property
    def savings_share(self) -> float | None:
        """Savings as a part of the counterfactual; None where nothing was used."""
        return (
            float(self.savings_usd / self.counterfactual_usd) if self.counterfactual_usd else None
        )

    @property
    def unattributed_usd(self) -> Decimal:
        """What was billed and is in no row of the results.

        It was for items that are no longer in the input and for batches that were bought twice;
        until the night is complete also for answers of items that are asked again.
        """
        return self.billed_usd - self.attributed_usd


@dataclass(frozen=True)
class PricedModel:
    """The declared model and the price-list entry that it was priced by."""

    model_id: str
    price_model: str
    price_library: str


@dataclass(frozen=True)
class Pilot:
    """The pilot's verdict; `projected_usd` is for the whole night, None without a sample.

    `near_duplicates` says whether they may share answers, and why; None: that was no question.
    `routes` has the same by route, as the verdict has it, where there are several.
    """

    open: bool
    reasons: tuple[str, ...]
    sample: int
    error_rate: float
    truncated_rate: float
    projected_usd: Decimal | None
    near_duplicates: str | None = None
    escalated_rate: float = 0.0
    routes: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Approval:
    """A closed gate (`pilot` or `breaker`) that a person overruled."""

    gate: str
    reason: str
    approved_by: str
    approved_at: datetime


@dataclass(frozen=True)
class ModelUsage:
    """What all attempts with a declared model in a `mode` (`batch` or `realtime`) were billed."""

    model_id: str
    price_model: str
    mode: str
    answers: int
    tokens: TokenUsage
    usd: Decimal
    counterfactual_usd: Decimal

    def __add__(self, other: ModelUsage) -> ModelUsage:
        """The sums of two usages of the same model and mode."""
        return replace(
            self,
            answers=self.answers + other.answers,
            tokens=self.tokens + other.tokens,
            usd=self.usd + other.usd,
            counterfactual_usd=self.counterfactual_usd + other.counterfactual_usd,
        )


@dataclass(frozen=True)
class Wasted:
    """Billed answers that are of no use; the reason is their status, or `duplicate`."""

    reason: str
    answers: int
    usd: Decimal


@dataclass(frozen=True)
class NightCost:
    """What one of the job's latest nights has cost so far, and for how many documents."""

    partition: str
    batch_usd: Decimal
    realtime_usd: Decimal
    settled: int
    succeeded: int
    complete: bool

    @property
    def usd(self) -> Decimal:
        return self.batch_usd + self.realtime_usd

    @property
    def per_document_usd(self) -> Decimal | None:
        return _each(self.usd, self.settled)


@dataclass(frozen=True)
class Duplicates:
    """Batches that were bought twice: another batch had answered their requests."""

    batches: int = 0
    usd: Decimal = ZERO


@dataclass(frozen=True)
class Gone:
    """Requests whose results the API no longer has: their cost is unknown, at most `usd_bound`."""

    requests: int = 0
    usd_bound: Decimal = ZERO


NOTHING_GONE = Gone()


@dataclass(frozen=True)
class Billed:
    """What was billed beside tokens at the declared model's price: `kind` is that of `FeeKind`.

    `usd` is part of the night's costs; None: it has no price, and is in no sum.
    """

    kind: str
    name: str
    quantity: int
    usd: Decimal | None


@dataclass(frozen=True)
class SetAside:
    """A night's dead letters of one reason and error type, with up to three of their ids."""

    reason: str
    error_type: str | None
    example_message: str | None
    items: int
    example_ids: tuple[str, ...]
    systematic: bool


@dataclass(frozen=True)
class DeadlineCost:
    """A night's deadline and what it cost in USD.

    `requests` were answered in real time because batches would have been too late: they were billed
    `realtime_usd`, and would have cost `batch_usd` as batches. `met` is None while that is open.
    """

    wanted_at: datetime
    met: bool | None
    requests: int = 0
    realtime_usd: Decimal = ZERO
    batch_usd: Decimal = ZERO

    @property
    def extra_usd(self) -> Decimal:
        return self.realtime_usd - self.batch_usd

    @property
    def outcome(self) -> str:
        return {True: "met", False: "missed", None: "not over yet"}[self.met]

    def as_json(self) -> dict[str, Any]:
        return {
            "wanted_at": self.wanted_at.isoformat(timespec="seconds"),
            "met": self.met,
            "realtime_requests": self.requests,
            "realtime_cost_usd": self.realtime_usd,
            "as_batches_usd": self.batch_usd,
            "extra_cost_usd": self.extra_usd,
        }


@dataclass(frozen=True)
class Caching:
    """What the prompt cache did for a night, and what is known of its prompts' shared prefix.

    `break_even` is the hit rate at which batches with such marks cost as much as without; `models`
    have both by model, `break_even` and `prefix_tokens` are the declared model's.
    """

    used: CacheSums
    prefix_tokens: int | None
    summary: str
    break_even: float | None
    models: Mapping[str, tuple[CacheSums, float | None]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            **self.used.as_json(),
            "break_even_hit_rate": self.break_even,
            "prefix_tokens": self.prefix_tokens,
            "summary": self.summary,
            "models": {
                name: {**used.as_json(), "break_even_hit_rate": least}
                for name, (used, least) in self.models.items()
            },
        }


@dataclass(frozen=True)
class SentBack:
    """`requests` of which an answer was sent back, how many of them have a good one since, and what
    all answers after it cost."""

    requests: int = 0
    succeeded: int = 0
    usd: Decimal = ZERO

    def as_json(self) -> dict[str, Any]:
        counts = {"requests": self.requests, "succeeded": self.succeeded}
        return {**counts, "cost_usd": self.usd}


NOTHING_SENT_BACK = SentBack()


@dataclass(frozen=True)
class Report:
    """A night in money and outcomes, at any time; final once `complete`.

    `items` are input rows, `statuses` counts the settled ones. `retries` are answers to requests
    that had been asked before. `other_models` were declared earlier in the night. `turnaround` is
    in seconds, from a batch's acceptance to the poll that saw its end. Token distributions are of
    billed answers. `differences` are from what was foreseen, the earliest first. `trend` are the
    latest nights of the job's owner up to this one, oldest first. `estimated_cost_usd` is what
    answers that do not say what was billed for them have cost at most; it is in none of the sums.
    `avoided` is what each part of the declaration saves, and in none either; `cascade` what the
    escalation came to, None where none is declared.
    `caching` is None where no prompt cache was asked for. `explained` answers were sent back with
    what was wrong with them, `continued` ones for the API to go on. `accounts` have sent it.
    """

    job: str
    partition: str
    account: str
    simulated: bool
    complete: bool
    model: PricedModel
    other_models: tuple[str, ...]
    items: int
    statuses: Mapping[str, int]
    succeeded: int
    dead_letter: int
    filtered: int
    reused: int
    batches: int
    retries: int
    costs: Costs
    duplicates: Duplicates
    tokens: TokenUsage
    pilot: Pilot | None
    turnaround: Distribution | None
    set_aside: tuple[SetAside, ...]
    started_at: datetime
    completed_at: datetime | None
    results_path: str
    approvals: tuple[Approval, ...] = ()
    models: tuple[ModelUsage, ...] = ()
    prompt_tokens: Distribution | None = None
    output_tokens: Distribution | None = None
    wasted: tuple[Wasted, ...] = ()
    differences: tuple[Difference, ...] = ()
    trend: tuple[NightCost, ...] = ()
    gone: Gone = NOTHING_GONE
    estimated_cost_usd: Decimal = ZERO
    fees: tuple[Billed, ...] = ()
    deadline: DeadlineCost | None = None
    caching: Caching | None = None
    filtered_by: Mapping[str, int] = field(default_factory=dict)
    avoided: tuple[Avoided, ...] = ()
    accounts: tuple[AccountCost, ...] = ()
    cascade: Cascade | None = None
    explained: SentBack = NOTHING_SENT_BACK
    continued: SentBack = NOTHING_SENT_BACK
    # Requests whose first answer stands although it was to be escalated, by cause.
    not_escalated: Mapping[str, int] = field(default_factory=dict)

    @property
    def avoided_usd(self) -> Decimal:
        """What all parts of the declaration save together."""
        return total_usd(self.avoided)

    @property
    def fees_usd(self) -> dict[str, Decimal]:
        """USD by kind of fee, as far as there is a price."""
        found: dict[str, Decimal] = {}
        for fee in self.fees:
            if fee.usd is not None:
                # A plain text: members of an enumeration are no keys of JSON.
                kind = str(fee.kind)
                found[kind] = found.get(kind, ZERO) + fee.usd
        return found

    @property
    def unpriced(self) -> list[Billed]:
        return [fee for fee in self.fees if fee.usd is None]

    @property
    def wasted_usd(self) -> Decimal:
        return sum((part.usd for part in self.wasted), ZERO)

    @property
    def cache_hit_rate(self) -> float | None:
        """The part of the prompt tokens that was read from the cache; None without any tokens."""
        prompt = self.tokens.prompt_tokens
        return self.tokens.cache_read_tokens / prompt if prompt else None

    @property
    def settled(self) -> int:
        return sum(self.statuses.values())

    @property
    def asked(self) -> int:
        """Settled items without those that filters left out."""
        return self.settled - self.filtered

    @property
    def cost_per_document_usd(self) -> Decimal | None:
        """USD for one settled item; None before there is one."""
        return _each(self.costs.billed_usd, self.settled)

    @property
    def cost_per_succeeded_usd(self) -> Decimal | None:
        """All that was billed for each good answer, in USD; None without good answers."""
        return _each(self.costs.billed_usd, self.succeeded)

    @property
    def estimated_usd(self) -> Decimal | None:
        """The latest expectation for the whole night: the pilot's, else that before sending."""
        if self.pilot is not None and self.pilot.projected_usd is not None:
            return self.pilot.projected_usd
        return self.differences[-1].expected_usd if self.differences else None

    @property
    def over_estimate_share(self) -> float | None:
        """How far the billed amount is above the estimate, as a part of it; negative if below."""
        if not self.estimated_usd:
            return None
        return float(self.costs.billed_usd / self.estimated_usd - 1)


def _each(amount: Decimal, count: int) -> Decimal | None:
    return (amount / count).quantize(USD_SCALE) if count else None
