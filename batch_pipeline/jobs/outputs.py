"""`output`: what a job publishes beside its results, as one row an item with typed columns."""

from __future__ import annotations

from pydantic import Field, field_validator

from batch_pipeline.jobs.declared_model import DeclaredModel, NonEmptyTexts


class OutputSpec(DeclaredModel):
    """Columns of the input that go along with the answers, and whether the fields of an answer are
    columns of their own, with the types of `output_schema`."""

    carry: NonEmptyTexts = Field(
        default=(),
        description="Columns of the input that go along as `input_<name>`.",
        examples=[["customer", "filed_at"]],
    )
    typed: bool = Field(
        default=False,
        description="Whether the fields of the answers are columns with the types of "
        "`output_schema`.",
        examples=[True],
    )

    @property
    def declared(self) -> bool:
        """Whether there is a typed dataset at all."""
        return bool(self.carry) or self.typed

    @field_validator("carry")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({name for name in value if value.count(name) > 1})
        if twice:
            raise ValueError(f"names {twice[0]!r} twice")
        return value
