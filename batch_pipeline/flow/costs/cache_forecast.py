"""What the prompt cache is expected to save on a night, before anything is sent.

Belongs here: the tokens of the shared prefix, counted or estimated, and the saving at hit rates
that were measured or that the API's documentation has seen. What the cache did is in the report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow.dataset.requests import cache_marks
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.gates.cache_marks import told
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.pricing.caching import (
    SEEN_HIT_RATES,
    break_even,
    describe_prefix,
    minimum_tokens,
    saved_usd,
)
from batch_pipeline.pricing.prices import ModelPrice
from batch_pipeline.pricing.tokens import TokenUsage
from batch_pipeline.wording import percent, usd

COUNTED = "counted by the API"


@dataclass(frozen=True)
class CacheForecast:
    """The shared prefix of a job's prompts, and what marks on it save in USD.

    `tokens_from` says how the tokens are known. `saved` has amounts by hit rate, of which
    `expected_hit_rate` is the expected one: as measured, else the middle of what was seen.
    `included`: the amounts of the estimate have it, since its tokens were measured with it.
    """

    declared: str
    model_id: str
    requests: int
    tokens: int
    tokens_from: str
    can_pay: bool
    break_even: float | None
    low_usd: Decimal
    high_usd: Decimal
    expected_hit_rate: float
    measured: bool
    expected_usd: Decimal
    included: bool

    @property
    def summary(self) -> str:
        """What a person should know of it, in a clause."""
        about = "" if self.tokens_from == COUNTED else "about "
        prefix = describe_prefix(self.model_id, f"{about}{self.tokens:,}", self.tokens)
        prefix += f" ({self.tokens_from})"
        if not self.can_pay:
            then = "it is sent without marks" if self.declared == "auto" else "marks do nothing"
            return f"{prefix}; {then}"
        least, most = SEEN_HIT_RATES
        how = "as measured" if self.measured else f"between the {least:.0%} and {most:.0%} seen"
        return (
            f"{prefix}; marks pay from a hit rate of {percent(self.break_even)}. At "
            f"{self.expected_hit_rate:.0%} ({how}) they save {usd(self.expected_usd)}, "
            f"at {least:.0%} {usd(self.low_usd)}, at {most:.0%} {usd(self.high_usd)}"
        )

    def as_json(self) -> dict[str, Any]:
        least, most = SEEN_HIT_RATES
        return {
            "declared": self.declared,
            "prefix_tokens": self.tokens,
            "prefix_tokens_from": self.tokens_from,
            "minimum_tokens": minimum_tokens(self.model_id),
            "can_pay": self.can_pay,
            "break_even_hit_rate": self.break_even,
            "expected_hit_rate": self.expected_hit_rate,
            "expected_saved_usd": float(self.expected_usd),
            "saved_usd_at_hit_rate": {
                f"{least:g}": float(self.low_usd),
                f"{most:g}": float(self.high_usd),
            },
            "included": self.included,
            "summary": self.summary,
        }


def count(pipeline: Pipeline, spec: JobSpec) -> int | None:
    """The prefix's tokens, counted by the API; None where the job caches nothing or the API does
    not count."""
    if spec.caching == "off":
        return None
    declaration = Declaration.of(spec)
    try:
        params = cache_marks.prefix_params(declaration)
        return pipeline.api_for(spec).count_tokens(params, declaration.betas)
    except ApiFailure:
        return None


def forecast(
    spec: JobSpec,
    requests: int,
    price: ModelPrice,
    *,
    counted: int | None,
    tokens_per_byte: float,
    prompt_tokens: float,
    usage: TokenUsage | None = None,
) -> CacheForecast | None:
    """The forecast for a number of requests, given the mean length of a prompt; None: no caching.

    Without `counted` tokens the prefix's bytes count at the tokens a byte that are assumed. `usage`
    is that of former answers to the same prompts.
    """
    if spec.caching == "off":
        return None
    declaration = Declaration.of(spec)
    size = len(cache_marks.prefix_params(declaration))
    tokens = math.ceil(size * tokens_per_byte) if counted is None else counted
    least = minimum_tokens(spec.model_id)
    can_pay = least is None or tokens >= least
    lifetime = told(spec) or "1h"
    tiers = price.realtime if spec.mode == "realtime" else price.batch
    prices = tiers.at(math.ceil(prompt_tokens))
    marked = 0 if usage is None else usage.prompt_tokens - usage.input_tokens
    measured = marked > 0
    rate = sum(SEEN_HIT_RATES) / 2
    if usage is not None and measured:
        rate = usage.cache_read_tokens / marked

    def at(hit_rate: float) -> Decimal:
        saved = saved_usd(prices, lifetime, tokens * requests, hit_rate) if can_pay else Decimal(0)
        # `auto` goes on without marks where they do not pay.
        return max(saved, Decimal(0)) if spec.caching == "auto" else saved

    return CacheForecast(
        declared=spec.caching,
        model_id=spec.model_id,
        requests=requests,
        tokens=tokens,
        tokens_from=COUNTED
        if counted is not None
        else f"estimated, at {1 / tokens_per_byte:.1f} bytes a token",
        can_pay=can_pay,
        break_even=break_even(prices, lifetime),
        low_usd=at(SEEN_HIT_RATES[0]),
        high_usd=at(SEEN_HIT_RATES[1]),
        expected_hit_rate=round(rate, 4),
        measured=measured,
        expected_usd=at(rate),
        included=measured,
    )
