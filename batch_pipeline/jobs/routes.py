"""The keys `routes` and `retry.escalate` of a job: requests to another model.

Belongs here: the keys, their defaults, and the checks of each by itself. The rules between keys are
in `spec`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator

from batch_pipeline.jobs import expressions
from batch_pipeline.jobs.declared_model import DeclaredModel, JsonObject, NonEmpty, Rate
from batch_pipeline.jobs.expressions import NUMBER, TEXT

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


def unreachable_routes(routes: Sequence[RouteSpec]) -> Iterator[tuple[tuple[str | int, ...], str]]:
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
