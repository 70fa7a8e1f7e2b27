"""Columns of tables as Dagster shows them: names, types, and what each means."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import dagster as dg

from batch_pipeline import safe_text

Columns = dict[str, dg.MetadataValue]

COLUMN_SCHEMA = "dagster/column_schema"
_TEXT, _NUMBER = "string", "int64"
_BILLED = "billed for this item in this night"
# Name, type and meaning of each column. The types are those of `flow.answers.schemas` as Arrow
# writes them, which takes longer to import than all the definitions.
RESULTS = (
    ("id", _TEXT, "the user's own id"),
    ("status", _TEXT, "succeeded, or why not"),
    ("content", _TEXT, "the answer's text"),
    ("parsed", _TEXT, "the answer as JSON text, where a schema is declared"),
    ("stop_reason", _TEXT, "why the model stopped"),
    ("error_type", _TEXT, "kind of error, where there is no good answer"),
    ("error_message", _TEXT, "what went wrong, in words"),
    ("model", _TEXT, "the model that answered"),
    ("input_tokens", _NUMBER, "billed for this item in this night, cached ones apart"),
    ("output_tokens", _NUMBER, _BILLED),
    ("cache_write_5m_tokens", _NUMBER, _BILLED),
    ("cache_write_1h_tokens", _NUMBER, _BILLED),
    ("cache_read_tokens", _NUMBER, _BILLED),
    ("cost_usd", "decimal128(18, 12)", _BILLED),
    ("attempt", _NUMBER, "which attempt this answer is"),
    ("mode", _TEXT, "batch, realtime or reused"),
    ("batch_id", _TEXT, "the API's batch"),
    ("custom_id", _TEXT, "the id on the wire"),
    ("fingerprint", _TEXT, "identifies the request by its content"),
    ("simulated", "bool", "whether a simulator answered"),
    ("collected_at", "timestamp[us, tz=UTC]", "when the answer was fetched"),
    ("answered_by", _TEXT, "the partition or the document whose answer is reused"),
    ("route", _TEXT, "the rule of the job that the row was asked by"),
    ("details", _TEXT, "citations, thinking, calls of tools and why the answer stopped, as JSON"),
)
DEAD_LETTERS = (
    ("id", _TEXT, "the user's own id"),
    ("reason", _TEXT, "why the document was set aside: a status"),
    ("attempts", _NUMBER, "how often it was asked"),
    ("error_type", _TEXT, "kind of error, where there is no good answer"),
    ("error_message", _TEXT, "what went wrong, in words"),
    ("input", _TEXT, "the whole input row as JSON text"),
    ("simulated", "bool", "whether a simulator answered"),
)


def of_table(table: Iterable[tuple[str, str, str]]) -> Columns:
    """The columns of a table, as metadata of the definition: they are the same every night."""
    return _columns(
        dg.TableColumn(name, type=kind, description=meaning) for name, kind, meaning in table
    )


def types_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """The columns of rows with the types of their values; None where there is no value."""
    types: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.items():
            types.setdefault(name, set()).update(_type_of(value))
    return {name: " or ".join(sorted(found)) or None for name, found in types.items()}


def of_input(types: Mapping[str, str | None], id_column: str, used: Collection[str]) -> Columns:
    """The columns of an input; `used` are those of the prompt."""
    return _columns(
        dg.TableColumn(
            safe_text.one_line(name),
            type=kind or "unknown",
            description=_use(name, id_column, used),
        )
        for name, kind in types.items()
    )


def _columns(columns: Iterable[dg.TableColumn]) -> Columns:
    return {COLUMN_SCHEMA: dg.MetadataValue.table_schema(dg.TableSchema(columns=list(columns)))}


def _type_of(value: object) -> set[str]:
    names = {bool: "bool", int: "int64", float: "double", str: "string", list: "list"}
    return set() if value is None else {names.get(type(value), "struct")}


def _use(name: str, id_column: str, used: Collection[str]) -> str:
    if name == id_column:
        return "the document's id, which its result carries"
    return "part of the prompt" if name in used else "kept in the snapshot, not sent"
