"""What a job declares of an input that is not files: `input.asset`, `sql`, `delta` and `job`.

Belongs here: the keys, and what can be told of them before anything is read. How rows are read is
in `flow.dataset.sources`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from batch_pipeline.jobs.declared_model import DeclaredModel, NonEmpty, Text, base_dir_of

ASSET_KEY = re.compile(r"[^/\s]+(/[^/\s]+)*")

_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
# What is filled into a query, by the names that SQLAlchemy finds in it.
BOUND = ("partition", "partition_start", "partition_end")
_BIND = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")
# Comments, strings and quoted names: what stands in them is no keyword.
_NOT_CODE = re.compile(
    r"--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`", re.DOTALL
)
_NOT_NAMES = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)
_NAME = r'(?:[A-Za-z_][\w$]*|"[^"]+")'
_FROM = re.compile(
    rf'\bfrom\b(?:\s+({_NAME}(?:\.{_NAME}){{0,2}})(?![\w$."])(?!\s*[,(]))?', re.IGNORECASE
)
_MORE_TABLES = re.compile(
    r"\b(?:join|union|with)\b|\bfrom\s+[\w.\"$]+(?:\s+(?:as\s+)?\w+)?\s*,", re.IGNORECASE
)
_READS = ("select", "with", "values", "table", "from")
# A statement that writes, wherever it stands: PostgreSQL has them in WITH too. `insert(` and
# `truncate(` are functions.
_WRITES = re.compile(
    r"\b(update|delete|merge|drop|alter|create|grant|revoke|into|call|execute)\b"
    r"|\b(?:insert|truncate)\b(?!\s*\()",
    re.IGNORECASE,
)


class AssetSourceSpec(DeclaredModel):
    """An upstream asset whose value, a frame, has the night's rows."""

    key: NonEmpty = Field(description="The key of the upstream asset.", examples=["raw/contracts"])
    # `as` is a word of Python.
    frame: Literal["pandas", "polars", "arrow"] = Field(
        default="pandas",
        alias="as",
        description="The type that the upstream asset's IO manager is asked for.",
        examples=["polars", "arrow"],
    )

    @field_validator("key")
    @classmethod
    def _asset_key(cls, value: str) -> str:
        if not ASSET_KEY.fullmatch(value):
            raise ValueError(f"{value!r} is not a Dagster asset key like raw/contracts")
        return value


class SqlSourceSpec(DeclaredModel):
    """A query whose rows are the night's."""

    FILE_KEYS: ClassVar[Mapping[str, str]] = {"query": "tickets.sql"}

    url_env: NonEmpty = Field(
        description="The environment variable that holds the SQLAlchemy URL of the database.",
        examples=["WAREHOUSE_URL"],
    )
    query: Text = Field(
        description="One SELECT. `:partition` is the night's key, `:partition_start` and "
        "`:partition_end` the times that it stands for; they are bound, never pasted. Or "
        "`query_file`.",
        examples=["SELECT id, body FROM tickets WHERE filed_on = :partition"],
    )

    @field_validator("query")
    @classmethod
    def _one_query_that_reads(cls, value: str) -> str:
        problem = query_problem(value)
        if problem is not None:
            raise ValueError(problem)
        return value

    @property
    def binds(self) -> frozenset[str]:
        """The names that are bound in the query."""
        return frozenset(_BIND.findall(self.query))

    @property
    def table(self) -> str | None:
        """The table that the query reads, as it names it; None where it reads more than one, or
        none that is told by a look at it."""
        code = _NOT_NAMES.sub(" ", self.query)
        found = _FROM.findall(code)
        return found[0] or None if len(found) == 1 and not _MORE_TABLES.search(code) else None


class DeltaSourceSpec(DeclaredModel):
    """Rows of a Delta table."""

    uri: NonEmpty = Field(
        description="The table's folder, local or a URL (`s3://…`). `{partition}`, its times and "
        "`${VAR}` are filled in as in a path.",
        examples=["s3://lake/tickets"],
    )
    where: NonEmpty | None = Field(
        default=None,
        description="A predicate in SQL that selects the night's rows; `{partition}` is its key, "
        "`{partition_start:%Y-%m-%d}` its time.",
        examples=["day = '{partition}'"],
    )
    version: int | None = Field(
        default=None,
        ge=0,
        description="The version that every night reads; null: the newest when the input is taken.",
        examples=[42],
    )

    @field_validator("uri")
    @classmethod
    def _absolute(cls, value: str, info: ValidationInfo) -> str:
        if "://" in value or _VARIABLE.match(value):
            return value
        return str(base_dir_of(info) / value)


def query_problem(query: str) -> str | None:
    """Why a text is not one query that reads; None: it is, as far as its words tell.

    The database is asked for a transaction that only reads, too, where it has one.
    """
    code = _NOT_CODE.sub(" ", query).strip().rstrip(";").strip()
    words = code.lstrip("( ").split(None, 1) or [""]
    writes = _WRITES.search(code)
    strangers = sorted(set(_BIND.findall(query)) - set(BOUND))
    problem = None
    if "/*!" in query:
        problem = "holds /*!, which MySQL executes; remove it"
    elif not code:
        problem = "is empty"
    elif ";" in code:
        problem = "holds several statements; declare one SELECT"
    elif words[0].lower() not in _READS:
        first = words[0].upper()
        problem = f"begins with {first}; an input is read by a SELECT (or WITH … SELECT)"
    elif writes is not None:
        problem = (
            f"holds {writes[0].upper()}, and a query that writes is refused; where that is the "
            "name of a column, quote it"
        )
    elif strangers:
        problem = (
            f"holds :{strangers[0]}, but only :partition, :partition_start and :partition_end are "
            "bound; write a colon that is meant literally as \\:"
        )
    return problem
