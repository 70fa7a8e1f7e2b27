"""What a job may declare as its partitions: windows of time, or a list of names.

What the keys of either mean is in `partitions`.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from difflib import get_close_matches
from typing import Annotated, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    field_validator,
    model_validator,
)

from batch_pipeline.jobs.declared_model import DeclaredModel
from batch_pipeline.jobs.partitions.time_windows import (
    HOUR_FORMAT,
    Calendar,
    Every,
    changes_by_whole_hours,
    parse_start,
)

MOST_KEY_LENGTH = 200
"""As many characters as the ledger keeps of a key."""

MOST_PARTITIONS_PER_RUN = 1_000
"""A run that dies is begun again for the partitions that it has not come to."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)


def _parse_start(
    value: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
) -> date:
    """YAML reads 2026-01-01 as a date and "2026-01-01" as text; both mean the day."""
    if not isinstance(value, str):
        found = handler(value)
        assert isinstance(found, date)
        return found
    # Nothing is known of `every` where that is wrong itself.
    every: Every = (info.data or {}).get("every", "hour")
    parsed = parse_start(value, every)
    if parsed is None:
        hour = " or an hour like 2026-01-01-05:00" if every == "hour" else ""
        raise ValueError(f"must be a date like 2026-01-01{hour}, not {value!r}")
    return parsed


class PartitionsSpec(DeclaredModel):
    """One partition an hour, day, week or month; its key is the start of its window.

    A window becomes a partition when it has ended in `timezone`; `end_offset` adds that many
    windows, so that with 1 the running one is a partition too. Weeks begin on Sunday. `start` is a
    day, or for hours a time too (then a naive `datetime`); the first window begins at it or after.
    """

    every: Every = Field(
        default="day",
        description="How long the time of one partition is.",
        examples=["hour", "week", "month"],
    )
    start: Annotated[date, WrapValidator(_parse_start), WithJsonSchema({"type": "string"})] = Field(
        description="The day, or for hours the time, at or after which the first partition begins.",
        examples=["2026-01-01", "2026-01-01-05:00"],
    )
    timezone: str = Field(
        default="UTC",
        description="The IANA time zone in which partitions begin and end.",
        examples=["Europe/Zurich"],
    )
    end_offset: int = Field(
        default=0,
        ge=0,
        description="0: the newest partition is the one that has ended; 1: the running one.",
        examples=[1],
    )

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        names = available_timezones()
        if value in names:
            return value
        close = get_close_matches(value, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"must be an IANA time zone like Europe/Zurich, not {value!r}{hint}")

    @model_validator(mode="after")
    def _hours_that_dagster_can_count(self) -> Self:
        zone = ZoneInfo(self.timezone)
        if self.every == "hour" and not changes_by_whole_hours(zone, self.start):
            # Dagster's keys of such hours depend on the hour from which it counts.
            raise ValueError(
                f"the clocks of {self.timezone} are put by less than an hour, so that its hours "
                "have no certain keys; use timezone: UTC"
            )
        return self

    @property
    def calendar(self) -> Calendar:
        return Calendar(self.every, ZoneInfo(self.timezone))

    @property
    def first(self) -> int:
        """The number of the first window."""
        return self.calendar.first(self.start)

    @property
    def dagster_start(self) -> str:
        """`start` as Dagster's definitions take it: for hours with a time."""
        if self.every != "hour":
            return self.start.isoformat()
        midnight = datetime(self.start.year, self.start.month, self.start.day)  # noqa: DTZ001
        start = self.start if isinstance(self.start, datetime) else midnight
        return start.strftime(HOUR_FORMAT)


def _key_as_text(value: object) -> object:
    if isinstance(value, str):
        if not _NAME.fullmatch(value) or ".." in value or len(value) > MOST_KEY_LENGTH:
            raise ValueError(
                f"{value!r} cannot be a partition: letters, digits, `_`, `-` and single dots, "
                f"beginning with a letter or digit, at most {MOST_KEY_LENGTH} characters"
            )
        return value
    raise ValueError(f"{value!r} is no text; write it in quotes")


class PartitionNames(RootModel[tuple[Annotated[str, BeforeValidator(_key_as_text)], ...]]):
    """Partitions that are a list of names (customers, for example), in the order declared."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    @field_validator("root")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("names no partition; leave `partitions` out for a job with one")
        folded: dict[str, str] = {}
        for name in value:
            other = folded.setdefault(name.casefold(), name)
            if other is not name or value.count(name) > 1:
                raise ValueError(
                    f"{other!r} and {name!r} would share a folder where the file system does not "
                    "tell capitals apart"
                    if other != name
                    else f"{name!r} is there twice"
                )
        return value

    @property
    def names(self) -> tuple[str, ...]:
        return self.root


class BackfillSpec(DeclaredModel):
    """How a backfill is cut into runs."""

    partitions_per_run: int = Field(
        default=1,
        ge=1,
        le=MOST_PARTITIONS_PER_RUN,
        description="How many partitions one run works on, one after the other; each further one "
        "saves the seconds that a run takes to start.",
        examples=[30],
    )


Declared = PartitionsSpec | PartitionNames | None
"""None: the job has one partition, `partitions.SINGLE_KEY`."""


def either(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    """Validates what is declared as what it is, so that a problem is told once, with its key."""
    if isinstance(value, list | tuple):
        return PartitionNames.model_validate(tuple(value))
    if isinstance(value, dict):
        return PartitionsSpec.model_validate(value)
    if isinstance(value, PartitionsSpec | PartitionNames) or value is None:
        return handler(value)
    raise ValueError(
        'must be {start: "2026-01-01", every: hour, day, week or month}, or a list of names'
    )
