"""What a job declares of its input: where a night's documents are, and how they are written."""

from __future__ import annotations

import io
import re

from pydantic import Field, ValidationInfo, field_validator

from batch_pipeline.jobs.declared_model import (
    DeclaredModel,
    NonEmpty,
    NonEmptyTexts,
    base_dir_of,
)

_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


class CsvSpec(DeclaredModel):
    """How CSV files are written: what is between two cells, and the encoding."""

    delimiter: str = Field(
        default=",", description="The one character between two cells.", examples=[";", "\t"]
    )
    encoding: str = Field(
        default="utf-8",
        description="The text encoding, any that Python knows.",
        examples=["cp1252", "utf-16"],
    )

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str) -> str:
        if len(value) != 1 or value in '"\r\n\0':
            raise ValueError(
                f'must be one character like ";" or "\\t" (a tab), no quote and no line break, '
                f"not {value!r}"
            )
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            io.TextIOWrapper(io.BytesIO(), encoding=value).read()
        except (LookupError, UnicodeError, ValueError) as error:
            raise ValueError(
                f"must be a text encoding that Python knows, like utf-8, utf-16 or cp1252, not "
                f"{value!r}"
            ) from error
        return value


class InputSpec(DeclaredModel):
    """Where a night's documents are.

    `path` is absolute or a URL, a glob perhaps, and still holds `{partition}` and `${VAR}`; one
    that begins with `${VAR}` is left as it is, since only the variable tells whether it is
    absolute.
    """

    path: NonEmpty = Field(
        description="A file or a glob (`**` too), local or a URL that fsspec knows. `{partition}` "
        "is the night's key, `${VAR}` comes from the environment (`${BATCH_PIPELINE_HOME}` is "
        "always set). Relative paths start at the YAML file.",
        examples=["/data/contracts/{partition}/*.parquet", "s3://bucket/tickets/*.jsonl.zst"],
    )
    id_column: NonEmpty = Field(
        default="id",
        description="The column that names an item: text, numbers or UUIDs, unique within a night. "
        "A `txt` or `md` file is one row, with the columns `id` (the path relative to the glob's "
        "fixed part) and `text`.",
        examples=["contract_id"],
    )
    upstream: NonEmptyTexts = Field(
        default=(),
        description="Keys of the Dagster assets that the input comes from.",
        examples=[["raw/contracts"]],
    )
    same_every_night: bool = Field(
        default=False,
        description="A daily job whose path has no `{partition}` would buy the same answers every "
        "night, and is refused; true says that this is meant.",
        examples=[True],
    )
    csv: CsvSpec = Field(
        default=CsvSpec(),
        description="How CSV files are written.",
        examples=[{"delimiter": ";", "encoding": "cp1252"}],
    )

    @field_validator("path")
    @classmethod
    def _absolute_path(cls, value: str, info: ValidationInfo) -> str:
        others = set(_PLACEHOLDER.findall(_VARIABLE.sub("", value))) - {"{partition}"}
        if others:
            raise ValueError(
                f"holds {', '.join(sorted(others))}, but only {{partition}} is filled in "
                "(and ${VAR}, from the environment); other kinds of files need a job each"
            )
        if value.startswith("~"):
            raise ValueError("~ is not expanded; write ${HOME} instead")
        if "://" in value or _VARIABLE.match(value):
            return value
        return str(base_dir_of(info) / value)

    @field_validator("upstream")
    @classmethod
    def _asset_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for key in value:
            if not re.fullmatch(r"[^/\s]+(/[^/\s]+)*", key):
                raise ValueError(f"{key!r} is not a Dagster asset key like raw/contracts")
        return value
