"""What a job declares of how a night is sent, what it may cost, and when it stops.

Belongs here: the keys, their defaults and what they mean. The rules between them and the rest of a
job are in `spec`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from batch_pipeline.jobs.declared_model import (
    DeclaredModel,
    NonEmptyTexts,
    Rate,
    Usd,
    UsdPerMillion,
    problem_with,
)
from batch_pipeline.jobs.routes import EscalateSpec

MAX_REQUESTS_PER_BATCH = 100_000
MAX_BYTES_PER_BATCH = 256_000_000
"""The API's limits of one batch; its documentation says 256 MB, which may be MiB or MB."""


_PRICES = {
    "input": 0.4,
    "output": 2,
    "cache_write_5m": 0.5,
    "cache_write_1h": 0.8,
    "cache_read": 0.04,
}


def _distinct(value: tuple[str, ...]) -> tuple[str, ...]:
    for number, name in enumerate(value):
        if name in value[:number]:
            raise ValueError(f"{name!r} is there twice")
    return value


AccountsOfJob = Annotated[NonEmptyTexts, AfterValidator(_distinct)]


class PilotSpec(DeclaredModel):
    """The sample that is sent first and decides whether the rest is sent; size 0 means no pilot."""

    size: int = Field(
        default=100,
        ge=0,
        description="How many documents go first, at most a tenth of the night, spread over it by "
        "length; 0: no pilot.",
        examples=[100, 0],
    )
    seed: int = Field(
        default=0, description="Another number draws another sample.", examples=[0, 7]
    )
    via: Literal["realtime", "batch"] = Field(
        default="realtime",
        description="`realtime` has the sample judged in minutes; `batch` costs half and waits for "
        "a batch.",
        examples=["realtime", "batch"],
    )
    max_error_rate: Rate = Field(
        default=0.05,
        description="The gate closes where a larger share of the sample failed. A larger share of "
        "rows that cannot be asked stops a night, too.",
        examples=[0.05],
    )
    max_truncated_rate: Rate = Field(
        default=0.02,
        description="The gate closes where a larger share of the answers was cut off at "
        "`max_tokens`.",
        examples=[0.02],
    )
    max_projected_usd: Usd | None = Field(
        default=None,
        description="The gate closes where the sample projects that the night will cost more.",
        examples=[250],
    )
    review: Literal["none", "required"] = Field(
        default="none",
        description="`required` keeps the gate closed, however good the sample is, until a person "
        "has looked at the pilot's page and approved it.",
        examples=["required"],
    )

    @model_validator(mode="after")
    def _something_to_review(self) -> Self:
        if self.review == "required" and self.size == 0:
            problem = problem_with(("review",), "required needs a pilot: set pilot.size")
            raise ValidationError.from_exception_data("pilot", [problem])
        return self


class BudgetSpec(DeclaredModel):
    """Ceilings in USD of a night and of a calendar month (UTC); `buffer` is what an estimate, and a
    reservation at measured tokens, add for errors and variance."""

    max_usd_per_partition: Usd | None = Field(
        default=None,
        description="Ceiling of one night, which counts what is in flight at its most.",
        examples=[300],
    )
    max_usd_per_month: Usd | None = Field(
        default=None,
        description="Ceiling of the job in a calendar month (UTC), which counts what is in flight "
        "at its most.",
        examples=[5000],
    )
    buffer: float = Field(
        default=0.20,
        ge=0,
        description="What estimates, and reservations at measured tokens, add: 0.2 is 20 %.",
        examples=[0.2],
    )


class ClassPricesSpec(DeclaredModel):
    """USD per million tokens of each class."""

    input: UsdPerMillion = Field(
        description="USD per million input tokens that no cache has to do with.", examples=[0.5]
    )
    output: UsdPerMillion = Field(description="USD per million output tokens.", examples=[2.5])
    cache_write_5m: UsdPerMillion = Field(
        description="USD per million tokens that are written into the cache for 5 minutes.",
        examples=[0.625],
    )
    cache_write_1h: UsdPerMillion = Field(
        description="USD per million tokens that are written into the cache for an hour.",
        examples=[1],
    )
    cache_read: UsdPerMillion = Field(
        description="USD per million tokens that are read from the cache.", examples=[0.05]
    )


class PricesSpec(DeclaredModel):
    """Prices of a negotiated contract, both ways, which replace the published prices."""

    batch: ClassPricesSpec = Field(
        description="Prices of the Batches API.",
        examples=[_PRICES],
    )
    realtime: ClassPricesSpec = Field(
        description="Prices of calls in real time.",
        examples=[_PRICES],
    )


class LimitsSpec(DeclaredModel):
    """How large a batch may be, and this job's share of the account's queue (null: all of it)."""

    max_requests_per_batch: int = Field(
        default=10_000,
        ge=1,
        le=MAX_REQUESTS_PER_BATCH,
        description="Requests of one batch at most; smaller batches bring their first results "
        "earlier.",
        examples=[10_000],
    )
    max_bytes_per_batch: int = Field(
        default=MAX_BYTES_PER_BATCH,
        ge=1,
        le=MAX_BYTES_PER_BATCH,
        description="Bytes of one batch at most.",
        examples=[100_000_000],
    )
    max_queued_requests: int | None = Field(
        default=None,
        ge=1,
        description="This job's share of the account's queue at the API; null: all of it.",
        examples=[50_000],
    )


class RetrySpec(DeclaredModel):
    """How often an item is asked (the first time included), the `max_tokens` once truncated, and
    what is asked once more of a stronger model."""

    max_attempts: int = Field(
        default=3,
        ge=1,
        description="How often the API may answer one item with an error that passes (overloaded, "
        "expired) before it is set aside.",
        examples=[3],
    )
    truncated_max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="An answer that was cut off at `max_tokens` is asked for once more with this "
        "larger one; both are billed.",
        examples=[4000],
    )
    escalate: EscalateSpec | None = Field(
        default=None,
        description="What the job's model could not do, or is unsure of, is asked once more of a "
        "stronger model.",
        examples=[{"model_id": "claude-opus-4-6", "max_tokens": 2000, "max_share": 0.2}],
    )
    explain: bool = Field(
        default=False,
        description="An answer that is no JSON or breaks `output_schema` is sent back once with "
        "what is wrong with it; both are billed, and the second one counts.",
        examples=[True],
    )


class RealtimeSpec(DeclaredModel):
    """The second engine's concurrency (requests) and checkpoint interval (answers)."""

    concurrency: int = Field(
        default=20,
        ge=1,
        description="How many calls are made at once, by a pilot or a night in real time.",
        examples=[20],
    )
    checkpoint_every: int = Field(
        default=100,
        ge=1,
        description="After how many answers their journal is flushed to disk and the ledger told.",
        examples=[100],
    )


class AlertsSpec(DeclaredModel):
    """The limits at which a person is alerted of a night."""

    error_rate: Rate = Field(
        default=0.10,
        description="The circuit breaker: the rest of the night is stopped where a larger share of "
        "first attempts needs a fix; 1 switches it off.",
        examples=[0.1],
    )
    after_items: int = Field(
        default=50,
        ge=0,
        description="After how many answers the circuit breaker looks for the first time.",
        examples=[50],
    )
    dead_letter_rate: Rate = Field(
        default=0.05,
        description="A larger share of dead letters raises an alert. It stops nothing.",
        examples=[0.05],
    )
    max_usd_per_document: Usd | None = Field(
        default=None,
        description="A document that costs more on average raises an alert. It stops nothing.",
        examples=[0.01],
    )
    on_complete: bool = Field(
        default=False,
        description="Whether the end of a night raises an alert, too.",
        examples=[True],
    )
