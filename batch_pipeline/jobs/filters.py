"""The keys `filters`, `near_duplicates` and `reuse` of a job: rows that are not sent.

Belongs here: the keys, their defaults, and the checks of each by itself. The rules between keys are
in `spec`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from batch_pipeline.jobs import expressions, languages
from batch_pipeline.jobs.declared_model import DeclaredModel, NonEmpty, NonEmptyTexts

MOST_NIGHTS = 3_660
"""The longest window of reuse: ten years of days."""


class ReuseSpec(DeclaredModel):
    """Answers of the job's earlier partitions are taken over, of this number of partitions back."""

    nights: int = Field(
        ge=1,
        le=MOST_NIGHTS,
        description="In how many partitions before this one an answer may have been bought.",
        examples=[30],
    )


class NearDuplicatesSpec(DeclaredModel):
    """What is done with documents that are nearly the same as an earlier one of their night.

    `threshold` is the share of their texts that two documents have in common at least. `filter`
    does not ask for the later document. `reuse` gives it the answer of the earlier one, if the
    pilot shows that at least `min_agreement` of such pairs have equal answers.
    """

    threshold: float = Field(
        default=0.9,
        ge=0.5,
        le=1,
        description="The share of their texts that two documents have in common at least.",
        examples=[0.9],
    )
    action: Literal["filter", "reuse"] = Field(
        default="filter",
        description="`filter` does not ask the later document; `reuse` gives it the earlier one's "
        "answer, if the pilot shows that such pairs agree.",
        examples=["filter", "reuse"],
    )
    min_agreement: float = Field(
        default=0.95,
        gt=0,
        lt=1,
        description="The share of pairs with equal answers that the pilot has to show for `reuse`.",
        examples=[0.95],
    )


class FiltersSpec(DeclaredModel):
    """Rows that are not sent: those for which `where` is not true, and those whose documents have
    too few words, too many, or another language than one of `languages`; in this order.

    A document is what the template's columns hold.
    """

    where: NonEmpty | None = Field(
        default=None,
        description="A DuckDB expression over the columns of a row, all of which are text; rows "
        "for which it is true are sent.",
        examples=["kind = 'contract' and pages::int > 1"],
    )
    min_words: int | None = Field(
        default=None, ge=1, description="Words of a document at least.", examples=[20]
    )
    max_words: int | None = Field(
        default=None, ge=1, description="Words of a document at most.", examples=[20_000]
    )
    languages: NonEmptyTexts = Field(
        default=(),
        description="Codes (ISO 639) of the languages that are sent; needs the extra `languages`.",
        examples=[["en", "de"]],
    )

    @property
    def declared(self) -> bool:
        """Whether there is any filter."""
        return self != FiltersSpec()

    @field_validator("where")
    @classmethod
    def _a_condition_on_a_row(cls, value: str | None) -> str | None:
        if value is not None and not expressions.parse(value).columns:
            raise ValueError(
                "reads no column, so that it is the same for each row; write a condition on the "
                "row's columns, like kind = 'contract'"
            )
        return value

    @field_validator("max_words")
    @classmethod
    def _leaves_something(cls, value: int | None, info: ValidationInfo) -> int | None:
        least = info.data.get("min_words")
        if value is not None and least is not None and value < least:
            raise ValueError(f"must be at least min_words ({least}), not {value}")
        return value

    @field_validator("languages")
    @classmethod
    def _known_languages(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for code in value:
            problem = languages.problem(code)
            if problem is not None:
                raise ValueError(problem)
        return value
