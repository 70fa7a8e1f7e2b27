"""What a job declares of how it appears and starts in Dagster: owners, tags, automation, freshness.

Belongs here: the keys and what Dagster would refuse of them, so that the command line tells it with
file, line and key. What becomes of them is in `orchestration.definitions.asset_options`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from batch_pipeline.jobs.declared_model import DeclaredModel, NonEmpty
from batch_pipeline.jobs.partitions.cron import cron_problem

# As Dagster has them: another value would fail there with a trace.
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}")
_TAG_KEY = re.compile(r"([A-Za-z0-9_.-]{1,63}/)?[A-Za-z0-9_.-]{1,63}")
_TAG_VALUE = re.compile(r"[A-Za-z0-9_.-]{0,63}")
_KIND = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_GROUP = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*")
MOST_KINDS = 10
# More steps than this would read the input faster than the ledger hands out its pieces.
MOST_SPREAD = 64
# What Dagster and this package put on runs themselves.
_OWN_RUN_TAGS = re.compile(
    r"batch_pipeline/.*|user|\.dagster/.*|"
    r"dagster/(priority|partition.*|asset_partition_range.*|backfill|schedule_name|sensor_name|"
    r"from_automation_condition|auto_.*|root_run_id|parent_run_id|.*retry_number|run_.*)"
)
_DURATION = re.compile(r"[1-9][0-9]{0,4}[dhm]")
_MEMORY = re.compile(r"[1-9][0-9]{0,6}(Mi|Gi)")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def duration(text: str) -> timedelta:
    """The time that a text like `26h` means."""
    number, unit = text[:-1], _UNITS[text[-1]]
    return timedelta(**{unit: int(number)})


def _owners(value: tuple[str, ...]) -> tuple[str, ...]:
    for owner in value:
        if not (_EMAIL.fullmatch(owner) or (owner.startswith("team:") and len(owner) > 5)):
            raise ValueError(
                f"{owner!r} is neither an email address nor a team written like team:contracts"
            )
    return value


def _tags(value: Mapping[str, str]) -> Mapping[str, str]:
    for key, text in value.items():
        if not _TAG_KEY.fullmatch(key) or key.startswith("dagster/kind/"):
            raise ValueError(
                f"{key!r} is not a key of a tag: up to 63 letters, digits, _, - and ., perhaps "
                "after a namespace and a slash; kinds are declared under `kinds`"
            )
        if not _TAG_VALUE.fullmatch(text):
            raise ValueError(
                f"the value of {key!r} must be up to 63 letters, digits, _, - and ., not {text!r}"
            )
    return value


def _as_texts(value: object) -> object:
    """Tags whose values are objects, as Dagster reads them: JSON texts."""
    if not isinstance(value, Mapping):
        return value
    return {key: json.dumps(tag) if isinstance(tag, Mapping) else tag for key, tag in value.items()}


def _run_tags(value: Mapping[str, str]) -> Mapping[str, str]:
    for key in value:
        if not key or _OWN_RUN_TAGS.fullmatch(key):
            raise ValueError(
                f"{key!r} is a tag that runs get from Dagster or from this job itself; choose "
                "another key"
            )
    return value


def _kinds(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(value) > MOST_KINDS:
        raise ValueError(f"Dagster shows at most {MOST_KINDS} kinds of an asset, not {len(value)}")
    for kind in value:
        if not _KIND.fullmatch(kind):
            raise ValueError(f"{kind!r} is not a kind like snowflake: letters, digits, _, - and .")
    return value


def _group(value: str) -> str:
    if not _GROUP.fullmatch(value):
        raise ValueError(f"must be letters, digits and _, in parts between slashes, not {value!r}")
    return value


def _condition(value: str) -> str:
    if value not in CONDITIONS and cron_problem(value) is not None:
        raise ValueError(
            f"must be {', '.join(CONDITIONS)} or a cron expression of 5 fields, not {value!r}; "
            "other conditions are set under post_processing"
        )
    return value


def _memory(value: str) -> str:
    if not _MEMORY.fullmatch(value):
        raise ValueError(f'must be a whole number of Mi or Gi like "16Gi", not {value!r}')
    return value


def _duration(value: str) -> str:
    if not _DURATION.fullmatch(value):
        raise ValueError(f'must be minutes, hours or days like "90m", "26h" or "2d", not {value!r}')
    return value


CONDITIONS = ("eager", "on_missing")
Owners = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_owners)]
Tags = Annotated[dict[str, str], AfterValidator(_tags)]
RunTags = Annotated[
    dict[str, str],
    BeforeValidator(_as_texts),
    AfterValidator(_run_tags),
    WithJsonSchema(
        {"type": "object", "additionalProperties": {"type": ["string", "object"]}},
        mode="validation",
    ),
]
Kinds = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_kinds)]
Group = Annotated[str, AfterValidator(_group)]
Memory = Annotated[str, AfterValidator(_memory)]
Condition = Annotated[str, AfterValidator(_condition)]
Duration = Annotated[NonEmpty, AfterValidator(_duration)]


class FreshnessSpec(DeclaredModel):
    """When the newest results count as late: Dagster's freshness policies, by their own names.

    Either `fail_window`, or `deadline_cron` with `lower_bound_delta`.
    """

    fail_window: Duration | None = Field(
        default=None,
        description="The results fail once the newest are older than this (m, h or d).",
        examples=["30h"],
    )
    warn_window: Duration | None = Field(
        default=None,
        description="The results warn once the newest are older than this.",
        examples=["26h"],
    )
    deadline_cron: str | None = Field(
        default=None,
        description="When results are due, in the time zone of the partitions (else UTC).",
        examples=["0 6 * * *"],
    )
    lower_bound_delta: Duration | None = Field(
        default=None,
        description="Results count for a deadline if they are at most this much older; at most "
        "the time between two deadlines.",
        examples=["8h"],
    )

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Self:
        if (self.fail_window is None) == (self.deadline_cron is None):
            raise ValueError("give either fail_window, or deadline_cron and lower_bound_delta")
        if self.fail_window is not None and self.lower_bound_delta is not None:
            raise ValueError("lower_bound_delta belongs to deadline_cron; fail_window has none")
        if self.deadline_cron is not None:
            problem = cron_problem(self.deadline_cron)
            if problem is not None:
                raise ValueError(f"deadline_cron {problem}")
            if self.lower_bound_delta is None:
                raise ValueError("deadline_cron needs lower_bound_delta, like 8h")
            if self.warn_window is not None:
                raise ValueError("warn_window belongs to fail_window; deadline_cron has none")
        if (
            self.fail_window
            and self.warn_window
            and duration(self.warn_window) >= duration(self.fail_window)
        ):
            raise ValueError("warn_window must be less than fail_window")
        return self


class ResourcesSpec(DeclaredModel):
    """What the runs of a job, and the steps of a night that is spread, need of their machines."""

    cpu: float | None = Field(
        default=None, gt=0, description="Cores that are kept for a run.", examples=[4, 0.5]
    )
    memory: Memory | None = Field(
        default=None, description="Memory that a run may use, in Mi or Gi.", examples=["16Gi"]
    )

    @property
    def memory_mib(self) -> int | None:
        """The memory as a number of MiB."""
        if self.memory is None:
            return None
        return int(self.memory[:-2]) * (1024 if self.memory.endswith("Gi") else 1)
