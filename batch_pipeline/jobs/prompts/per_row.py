"""What a row may say of its own request: how long its answer may be, and which model is asked."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_core import ValidationError

from batch_pipeline.jobs.declared_model import DeclaredModel, NonEmpty, problem_with
from batch_pipeline.jobs.parameters import undated


class ModelOfRowSpec(DeclaredModel):
    """The model of a row, by a column that names one of a few."""

    column: NonEmpty = Field(
        description="The column that holds the id of the model.", examples=["model"]
    )
    models: Annotated[tuple[NonEmpty, ...], Field(min_length=1, strict=False)] = Field(
        description="The models that rows may name; another value sets its row aside. The number "
        "of the model here, from 1, is in the column `route` of the results.",
        examples=[["claude-haiku-4-5-20251001", "claude-opus-4-6"]],
    )

    @field_validator("models")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        first: dict[str, int] = {}
        for number, model_id in enumerate(value):
            other = first.setdefault(undated(model_id), number)
            if other != number:
                problem = problem_with((number,), f"asks as models.{other} does")
                raise ValidationError.from_exception_data("models", [problem])
        return value


class PerRowSpec(DeclaredModel):
    """What a row's own columns say of its request."""

    max_tokens: NonEmpty | None = Field(
        default=None,
        description="A column with the most tokens of the row's answer, from 1 to `max_tokens`; a "
        "second, longer try and a stronger model are given theirs.",
        examples=["answer_tokens"],
    )
    model_id: ModelOfRowSpec | None = Field(
        default=None,
        description="A column with the row's model, in place of `routes`.",
        examples=[{"column": "model", "models": ["claude-haiku-4-5-20251001", "claude-opus-4-6"]}],
    )
