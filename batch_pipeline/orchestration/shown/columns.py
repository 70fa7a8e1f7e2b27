"""Columns of tables as Dagster shows them: names, types, and what each means."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import dagster as dg
import pyarrow as pa

from batch_pipeline import safe_text

Columns = dict[str, dg.MetadataValue]

COLUMN_SCHEMA = "dagster/column_schema"
_MEANING = {
    "id": "the user's own id",
    "status": "succeeded, or why not",
    "content": "the answer's text",
    "parsed": "the answer as JSON text, where a schema is declared",
    "stop_reason": "why the model stopped",
    "error_type": "kind of error, where there is no good answer",
    "error_message": "what went wrong, in words",
    "model": "the model that answered",
    "input_tokens": "billed for this item in this night, cached ones apart",
    "output_tokens": "billed for this item in this night",
    "cache_write_5m_tokens": "billed for this item in this night",
    "cache_write_1h_tokens": "billed for this item in this night",
    "cache_read_tokens": "billed for this item in this night",
    "cost_usd": "billed for this item in this night",
    "attempt": "which attempt this answer is",
    "mode": "batch, realtime or reused",
    "batch_id": "the API's batch",
    "custom_id": "the id on the wire",
    "fingerprint": "identifies the request by its content",
    "simulated": "whether a simulator answered",
    "collected_at": "when the answer was fetched",
    "answered_by": "the partition or the document whose answer is reused",
    "route": "the rule of the job that the row was asked by",
    "details": "citations, thinking, calls of tools and why the answer stopped, as JSON",
    "reason": "why the document was set aside: a status",
    "attempts": "how often it was asked",
    "input": "the whole input row as JSON text",
}


def of_schema(schema: pa.Schema) -> Columns:
    """The columns of a table, as metadata of the definition: they are the same every night."""
    return _columns(
        dg.TableColumn(field.name, type=str(field.type), description=_MEANING[field.name])
        for field in schema
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
