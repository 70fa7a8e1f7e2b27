"""The keys of a job: their types, defaults, and what they mean.

Belongs here: every key at the top of a declaration, with the description and the examples that
editors and docs/jobs.md show. The rules between keys are in `spec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, StringConstraints, WrapValidator

from batch_pipeline.jobs.declared_model import (
    DeclaredModel,
    JsonObject,
    NonEmpty,
    NonEmptyTexts,
    read_json,
)
from batch_pipeline.jobs.filters import FiltersSpec, NearDuplicatesSpec, ReuseSpec
from batch_pipeline.jobs.in_dagster import (
    MOST_SPREAD,
    Condition,
    FreshnessSpec,
    Group,
    Kinds,
    Owners,
    ResourcesSpec,
    RunTags,
    Tags,
)
from batch_pipeline.jobs.input.inputs import InputSpec
from batch_pipeline.jobs.outputs import OutputSpec
from batch_pipeline.jobs.partitions.declared_partitions import BackfillSpec, Declared, either
from batch_pipeline.jobs.prompts.per_row import PerRowSpec
from batch_pipeline.jobs.prompts.prompts import PromptSpec
from batch_pipeline.jobs.routes import RouteSpec
from batch_pipeline.jobs.sending import (
    AccountsOfJob,
    AlertsSpec,
    BudgetSpec,
    LimitsSpec,
    PilotSpec,
    PricesSpec,
    RealtimeSpec,
    RetrySpec,
)


class JobKeys(DeclaredModel):
    """What a declaration may hold."""

    FILE_KEYS: ClassVar[Mapping[str, str]] = {"output_schema": "answer.schema.json"}

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")] = Field(
        description="The job's name, which is the name of its folder.",
        examples=["contract_review"],
    )
    description: str = Field(
        default="",
        description="What the job asks, for people.",
        examples=["Key clauses and non-standard terms of each contract"],
    )
    input: InputSpec = Field(
        description="Where a night's documents are.",
        examples=[{"path": "/data/{partition}/*.parquet", "id_column": "contract_id"}],
    )
    prompt: PromptSpec = Field(
        description="What each document is asked. What is the same for all of them belongs before "
        "the first placeholder.",
        examples=[{"system": "You are a contracts analyst.", "user_file": "user.md"}],
    )
    model_id: NonEmpty = Field(
        description="The model, by the API's own id.", examples=["claude-haiku-4-5-20251001"]
    )
    max_tokens: int = Field(ge=1, description="Tokens of one answer at most.", examples=[500, 4000])
    params: JsonObject = Field(
        default_factory=dict,
        description="Any further parameter of the Messages API, sent as it is; what batches refuse "
        "is refused here.",
        examples=[{"thinking": {"type": "enabled", "budget_tokens": 2000}}],
    )
    betas: NonEmptyTexts = Field(
        default=(),
        description="Beta features of the API, a header of the whole batch.",
        examples=[["context-1m-2025-08-07"]],
    )
    output_schema: Annotated[JsonObject, BeforeValidator(read_json)] | None = Field(
        default=None,
        description="A JSON Schema: asked for as structured output, and checked on every answer. "
        "Or `output_schema_file`.",
        examples=[
            {
                "type": "object",
                "properties": {"months": {"type": "integer"}},
                "required": ["months"],
                "additionalProperties": False,
            }
        ],
    )
    output: OutputSpec = Field(
        default=OutputSpec(),
        description="A typed dataset that is published beside the results. Changing it buys "
        "nothing.",
        examples=[{"carry": ["customer", "filed_at"], "typed": True}],
    )
    mode: Literal["batch", "realtime", "auto"] = Field(
        default="batch",
        description="`batch` at half price; `realtime` at once; `auto` begins with batches and "
        "turns to real time for what would miss the `deadline`.",
        examples=["batch", "auto"],
    )
    partitions: Annotated[Declared, WrapValidator(either)] = Field(
        default=None,
        description="The nights of the job: one an hour, day, week or month, or a list of names. "
        "null: one partition, `all`.",
        examples=[
            {"start": "2026-01-01", "timezone": "Europe/Zurich"},
            {"every": "hour", "start": "2026-01-01"},
            ["acme", "globex"],
        ],
    )
    backfill: BackfillSpec = Field(
        default=BackfillSpec(),
        description="Backfills over many partitions, in fewer runs.",
        examples=[{"partitions_per_run": 30}],
    )
    schedule: str | None = Field(
        default=None,
        description="A cron expression of five fields, in the time zone of the partitions (UTC for "
        "names); a tick runs the newest partition, or each of the names. Off until it is switched "
        "on in Dagster.",
        examples=["0 2 * * *"],
    )
    pilot: PilotSpec = Field(
        default=PilotSpec(),
        description="The sample that goes first and decides whether the rest is sent.",
        examples=[{"size": 200, "via": "batch"}],
    )
    budget: BudgetSpec = Field(
        default=BudgetSpec(),
        description="Ceilings of what may be spent.",
        examples=[{"max_usd_per_partition": 300, "max_usd_per_month": 5000}],
    )
    prices: PricesSpec | None = Field(
        default=None,
        description="The job's own prices in place of the published ones, in USD per million "
        "tokens, both ways.",
        examples=[
            {
                "batch": {
                    "input": 0.4,
                    "output": 2,
                    "cache_write_5m": 0.5,
                    "cache_write_1h": 0.8,
                    "cache_read": 0.04,
                },
                "realtime": {
                    "input": 0.8,
                    "output": 4,
                    "cache_write_5m": 1,
                    "cache_write_1h": 1.6,
                    "cache_read": 0.08,
                },
            }
        ],
    )
    limits: LimitsSpec = Field(
        default=LimitsSpec(),
        description="How large a batch may be, and this job's share of the account's queue.",
        examples=[{"max_requests_per_batch": 5000}],
    )
    retry: RetrySpec = Field(
        default=RetrySpec(),
        description="What is asked once more, and how often.",
        examples=[{"max_attempts": 3, "truncated_max_tokens": 4000}],
    )
    routes: Annotated[tuple[RouteSpec, ...], Field(strict=False)] = Field(
        default=(),
        description="Rows for which an expression is true ask another model; the first rule that "
        "is true decides, and the job's own model is the rest.",
        examples=[[{"where": "length(text) > 40000", "model_id": "claude-opus-4-6"}]],
    )
    per_row: PerRowSpec = Field(
        default=PerRowSpec(),
        description="What each row says of its own request, in columns of its own.",
        examples=[{"max_tokens": "answer_tokens"}],
    )
    caching: Literal["off", "auto", "5m", "1h"] = Field(
        default="off",
        description="Marks for the API's prompt cache on what all requests share. `5m` and `1h` "
        "mark every request with that lifetime; `auto` measures, and marks only what pays.",
        examples=["auto"],
    )
    deduplicate: bool = Field(
        default=True,
        description="Identical requests of a night are bought once and answer every item that "
        "asked.",
        examples=[False],
    )
    filters: FiltersSpec = Field(
        default=FiltersSpec(),
        description="Rows that are not sent.",
        examples=[{"where": "kind = 'contract'", "min_words": 20, "languages": ["en", "de"]}],
    )
    near_duplicates: NearDuplicatesSpec | None = Field(
        default=None,
        description="What is done with documents that are nearly the same as an earlier one of "
        "their night.",
        examples=[{"threshold": 0.9, "action": "reuse"}],
    )
    reuse: ReuseSpec | None = Field(
        default=None,
        description="Answers that the job has bought in earlier partitions are not bought again.",
        examples=[{"nights": 30}],
    )
    deadline: str | None = Field(
        default=None,
        description="When the results of a night are wanted, for mode `auto`: a time of day in the "
        "job's time zone, or hours after the input was taken.",
        examples=["06:00", "8h"],
    )
    realtime: RealtimeSpec = Field(
        default=RealtimeSpec(),
        description="How calls are made in real time.",
        examples=[{"concurrency": 40}],
    )
    alerts: AlertsSpec = Field(
        default=AlertsSpec(),
        description="The limits at which a person is told of a night.",
        examples=[{"error_rate": 0.1, "dead_letter_rate": 0.02, "on_complete": True}],
    )
    accounts: AccountsOfJob = Field(
        default=(),
        description="The accounts that may send the job, by their names in `accounts.yaml`; they "
        "share an owner. Unless declared, the account of BATCH_PIPELINE_ACCOUNT.",
        examples=[["research_a", "research_b"]],
    )
    show_answers: bool = Field(
        default=True,
        description=(
            "A few answers, good and bad, in the metadata of `pilot_sample` and "
            "`collected_results`, and documents, requests and answers on the pilot's page; false "
            "where documents are confidential."
        ),
        examples=[False],
    )
    owners: Owners = Field(
        default=(),
        description="Who owns the job's assets in Dagster: email addresses, and teams.",
        examples=[["team:contracts", "ann@example.com"]],
    )
    tags: Tags = Field(
        default_factory=dict,
        description="Tags of the job's assets, to find and select them by.",
        examples=[{"domain": "legal", "confidential": ""}],
    )
    kinds: Kinds = Field(
        default=(),
        description="The kinds that Dagster shows on the assets, in place of `python` and "
        "`parquet`.",
        examples=[["parquet", "anthropic"]],
    )
    group: Group | None = Field(
        default=None,
        description="The group of the job's assets; the job's name unless declared.",
        examples=["contracts"],
    )
    run_tags: RunTags = Field(
        default_factory=dict,
        description="Tags of the job's runs: for queues, executors and the sharing of costs.",
        examples=[{"cost_centre": "legal", "dagster/max_runtime": "36000"}],
    )
    resources: ResourcesSpec = Field(
        default=ResourcesSpec(),
        description="What a run needs of its machine, where Dagster's launcher gives each run one "
        "of its own (Kubernetes, ECS). `run_tags` win over it.",
        examples=[{"cpu": 4, "memory": "16Gi"}],
    )
    spread: int = Field(
        default=1,
        ge=1,
        le=MOST_SPREAD,
        description="Parallel steps that prepare one partition, on as many machines as Dagster's "
        "executor runs them.",
        examples=[4],
    )
    pool: NonEmpty | None = Field(
        default=None,
        description="The Dagster pool that bounds how many steps of the assets run at once.",
        examples=["anthropic"],
    )
    automation_condition: Condition | None = Field(
        default=None,
        description="When Dagster starts a night by itself: `eager` (the input's upstream assets "
        "have changed), `on_missing` (and the night has not been run), or a cron expression (after "
        "that time, once they have). Off until its sensor is switched on.",
        examples=["eager", "on_missing", "0 2 * * *"],
    )
    freshness: FreshnessSpec | None = Field(
        default=None,
        description="When the newest results count as late in Dagster.",
        examples=[
            {"fail_window": "30h", "warn_window": "26h"},
            {"deadline_cron": "0 6 * * *", "lower_bound_delta": "8h"},
        ],
    )
