"""What a job declares of its input: where a night's documents are, and how they are written."""

from __future__ import annotations

import io
import re
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationInfo, field_validator, model_validator

from batch_pipeline.jobs.declared_model import (
    DeclaredModel,
    NonEmpty,
    NonEmptyTexts,
    base_dir_of,
)
from batch_pipeline.jobs.input.documents import Keep, PdfSpec, parse_host
from batch_pipeline.jobs.input.input_sources import (
    ASSET_KEY,
    AssetSourceSpec,
    DeltaSourceSpec,
    SqlSourceSpec,
)
from batch_pipeline.jobs.partitions import path_patterns

JOB_NAME = r"^[a-z][a-z0-9_]*$"
SOURCES = ("path", "asset", "sql", "delta", "job")
"""The keys of which an input has one: where its rows come from."""

_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


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
    quoting: Literal["minimal", "none"] = Field(
        default="minimal",
        description="`minimal`: a cell may stand in double quotes, which are doubled inside it; "
        "`none`: a quote is a character like any other, as in dumps of databases.",
        examples=["none"],
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

    path: NonEmpty | None = Field(
        default=None,
        description="A file or a glob (`**` too), local or a URL that fsspec knows. `{partition}` "
        "is the night's key, `{partition_start:%Y/%m/%d}` its time, `${VAR}` comes from the "
        "environment (`${BATCH_PIPELINE_HOME}` is always set). Relative paths start at the YAML "
        "file.",
        examples=["/data/contracts/{partition}/*.parquet", "s3://bucket/tickets/*.jsonl.zst"],
    )
    asset: AssetSourceSpec | None = Field(
        default=None,
        description="An upstream asset's value of the same partition; for Dagster alone.",
        examples=[{"key": "raw/contracts", "as": "pandas"}],
    )
    sql: SqlSourceSpec | None = Field(
        default=None,
        description="The rows of a query.",
        examples=[{"url_env": "WAREHOUSE_URL", "query_file": "tickets.sql"}],
    )
    delta: DeltaSourceSpec | None = Field(
        default=None,
        description="Rows of a Delta table.",
        examples=[{"uri": "s3://lake/tickets", "where": "day = '{partition}'"}],
    )
    job: Annotated[str, StringConstraints(pattern=JOB_NAME)] | None = Field(
        default=None,
        description="Another job, whose accepted answers of the same partition are the rows.",
        examples=["extract_clauses"],
    )
    shape: Literal["same", "any"] = Field(
        default="same",
        description="`same`: a night with columns gone, or of another type than in the night that "
        "was taken before it, is refused; `any`: they may change. Of files nothing is compared.",
        examples=["any"],
    )
    id_column: NonEmpty = Field(
        default="id",
        description="The column that names an item: text, numbers or UUIDs, unique within a night. "
        "A `txt` or `md` file is one row, with the columns `id` (the path relative to the glob's "
        "fixed part) and `text`; so is a PDF, an image, a Word file, a web page or an e-mail, "
        "whose `{document}` it is.",
        examples=["contract_id"],
    )
    upstream: NonEmptyTexts = Field(
        default=(),
        description="Keys of the Dagster assets that the input comes from.",
        examples=[["raw/contracts"]],
    )
    same_every_night: bool = Field(
        default=False,
        description="A job with partitions that reads the same for each of them would buy the same "
        "answers every night, and is refused; true says that this is meant.",
        examples=[True],
    )
    csv: CsvSpec = Field(
        default=CsvSpec(),
        description="How CSV files are written.",
        examples=[{"delimiter": ";", "encoding": "cp1252"}],
    )
    root: NonEmpty | None = Field(
        default=None,
        description="The folder, or URL that fsspec knows, which paths in columns "
        "(`{contract:pdf}`) are relative to and stay inside of. Filled in like `path`.",
        examples=["/data/contracts", "s3://bucket/scans/{partition}"],
    )
    hosts: NonEmptyTexts = Field(
        default=(),
        description="Hosts from which URLs in columns are fetched, by https; `http://host:port` "
        "for http. Each URL is fetched once a night, when the input is taken.",
        examples=[["files.example.com"]],
    )
    keep: Keep = Field(
        default="reference",
        description="`reference`: documents stay where they are, and their SHA-256 is compared "
        "before each send; `copy`: the home keeps each content once, under "
        "`<job>/documents/<sha256>`.",
        examples=["copy"],
    )
    pdf: PdfSpec = Field(
        default=PdfSpec(),
        description="How PDFs are sent, and which of their pages.",
        examples=[{"as": "text"}, {"as": "native", "pages": "1-20"}],
    )

    @field_validator("path", "root")
    @classmethod
    def _absolute_path(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        others = path_patterns.strangers(_VARIABLE.sub("", value))
        if others:
            raise ValueError(
                f"holds {', '.join(others)}, but only {{partition}} is filled in, "
                "{partition_start:%Y-%m-%d} and {partition_end:…} (and ${VAR}, from the "
                "environment); other kinds of files need a job each"
            )
        if value.startswith("~"):
            raise ValueError("~ is not expanded; write ${HOME} instead")
        if "://" in value or _VARIABLE.match(value):
            return value
        return str(base_dir_of(info) / value)

    @field_validator("hosts")
    @classmethod
    def _host_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            parse_host(host)
        return value

    @field_validator("upstream")
    @classmethod
    def _asset_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for key in value:
            if not ASSET_KEY.fullmatch(key):
                raise ValueError(f"{key!r} is not a Dagster asset key like raw/contracts")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        found = [name for name in SOURCES if getattr(self, name) is not None]
        if len(found) != 1:
            given = f"has {' and '.join(found)}" if found else "has none"
            raise ValueError(f"takes one of {', '.join(SOURCES)}, and {given}")
        return self

    @property
    def kind(self) -> str:
        """Where the rows come from: one of `SOURCES`."""
        return next(name for name in SOURCES if getattr(self, name) is not None)

    @property
    def origin(self) -> str:
        """Where the rows come from, in a few words for people."""
        if self.asset is not None:
            return f"asset {self.asset.key}"
        if self.sql is not None:
            return f"sql {self.sql.url_env}"
        if self.delta is not None:
            where = "" if self.delta.where is None else f" where {self.delta.where}"
            return f"delta {self.delta.uri}{where}"
        return f"job {self.job}" if self.path is None else self.path

    def repeats(self) -> str | None:
        """Why every night would read the same rows; None: a night has rows of its own."""
        if self.same_every_night or self.asset is not None or self.job is not None:
            return None
        if self.sql is not None and not self.sql.binds:
            return "input.sql.query has no :partition (nor :partition_start)"
        if self.patterns and not any(map(path_patterns.has_placeholder, self.patterns.values())):
            return f"{list(self.patterns)[-1]} has no {{partition}}"
        return None

    @property
    def patterns(self) -> dict[str, str]:
        """The texts in which a partition is filled in, by their keys."""
        # The same folder of documents for all nights says nothing of the rows.
        by_night = self.root is not None and path_patterns.has_placeholder(self.root)
        found = {
            "input.root": self.root if by_night else None,
            "input.path": self.path,
            "input.delta.uri": None if self.delta is None else self.delta.uri,
            "input.delta.where": None if self.delta is None else self.delta.where,
        }
        return {key: text for key, text in found.items() if text is not None}
