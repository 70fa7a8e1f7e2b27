"""What a job declares to spend less: what is not asked, and which model is asked.

Belongs here: the keys, their defaults, and what can be told of each by itself. The rules between
them and the rest of a job are in `spec`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationInfo, field_validator

from batch_pipeline.jobs import expressions, languages
from batch_pipeline.jobs.declared_model import (
    DeclaredModel,
    JsonObject,
    NonEmpty,
    NonEmptyTexts,
    Rate,
)
from batch_pipeline.jobs.expressions import NUMBER, TEXT

MOST_NIGHTS = 3_660
"""The longest window of reuse: ten years of days."""
# The columns of an answer that `retry.escalate.where` may read, with their types. `parsed` is JSON
# text where an output_schema is declared.
ANSWER_COLUMNS = {
    **dict.fromkeys(("content", "parsed", "stop_reason", "model"), TEXT),
    **dict.fromkeys(
        (
            "input_tokens", "output_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens",
            "cache_read_tokens",
        ),
        NUMBER,
    ),
}  # fmt: skip
_CONSTANT = (
    "reads no column, so that all rows or none would take this route; set model_id, max_tokens and "
    "params of the job instead"
)
# Outcomes of an answer that another model may better, by their status in the results.
Escalated = Literal["invalid_output", "truncated", "refused"]


class AskedOtherwise(DeclaredModel):
    """What a request is asked with in place of what the job declares.

    `params` lie on the job's own, key by key; a key that is null leaves the job's out.
    """

    model_id: NonEmpty | None = Field(
        default=None,
        description="The model; the job's own unless given.",
        examples=["claude-opus-4-6"],
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Tokens of one answer at most; the job's own unless given.",
        examples=[2000],
    )
    params: JsonObject = Field(
        default_factory=dict,
        description="Parameters that lie on the job's own, key by key; null takes a key away.",
        examples=[{"thinking": None}],
    )

    def params_over(self, params: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """The parameters of these requests, given those of the job."""
        merged = {**params, **self.params}
        return {key: value for key, value in merged.items() if value is not None}


class RouteSpec(AskedOtherwise):
    """Rows for which an expression is true are asked otherwise."""

    where: NonEmpty = Field(
        description="A DuckDB expression over the columns of a row, all of which are text.",
        examples=["length(text) > 40000 or kind = 'merger'", "pages::int > 10"],
    )

    @field_validator("where")
    @classmethod
    def _a_condition_on_a_row(cls, value: str) -> str:
        expressions.parse(value)
        return value


class EscalateSpec(AskedOtherwise):
    """What the job's model could not do, or is unsure of, is asked once more of a stronger one.

    `where` is an expression over an answer that succeeded; `max_share` is of the night's bought
    requests.
    """

    model_id: NonEmpty = Field(description="The stronger model.", examples=["claude-opus-4-6"])
    outcomes: Annotated[tuple[Escalated, ...], Field(strict=False)] = Field(
        default=("invalid_output", "truncated", "refused"),
        description="Statuses of an answer that are asked once more.",
        examples=[["invalid_output", "truncated"]],
    )
    where: NonEmpty | None = Field(
        default=None,
        description="An answer that succeeded is asked for once more, too, where this DuckDB "
        "expression over it is true: over `content`, `parsed`, `stop_reason`, `model` and token "
        "counts.",
        examples=["(parsed->>'confidence')::double < 0.7"],
    )
    max_share: Rate = Field(
        default=0.2,
        description="The share of the night's billed requests that is escalated at most.",
        examples=[0.2],
    )

    @field_validator("where")
    @classmethod
    def _a_condition_on_an_answer(cls, value: str | None) -> str | None:
        if value is not None:
            expressions.parse(value, ANSWER_COLUMNS)
        return value

    def reads(self, column: str) -> bool:
        """Whether the rule reads this column of an answer."""
        if self.where is None:
            return False
        return column in expressions.parse(self.where, ANSWER_COLUMNS).columns


def unreachable(routes: Sequence[RouteSpec]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Rules that leave nothing to another route, or take nothing themselves, by the path of their
    key: as far as the expressions tell."""
    first: dict[str, int] = {}
    for number, route in enumerate(routes):
        rule = expressions.parse(route.where)
        path = ("routes", number, "where")
        if not rule.columns:
            yield path, _CONSTANT
        elif rule.sql in first:
            same = f"is the rule of routes.{first[rule.sql]}, which comes first"
            yield path, f"{same}: no row is left for it"
        first.setdefault(rule.sql, number)


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
