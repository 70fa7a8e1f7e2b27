"""The types of carried columns: those of the input where it tells them, else those of its values.

A snapshot keeps rows as JSON, which has no word for dates, times and decimals: such types are told
by the files or the source that it was read from, and hold as long as all values fit. Of all other
columns the kinds of values decide.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.reading.files import Kind, Sources
from batch_pipeline.flow.dataset.reading.streams import open_stream
from batch_pipeline.ledger.snapshots import NewSnapshot

_KINDS, _TYPES = b"kinds", b"types"
_KIND_OF = {str: "text", bool: "boolean", float: "number"}
_NAMED = 20


class ColumnsSeen:
    """What is known of columns after the rows so far; `told` are the types that the input tells."""

    def __init__(self, names: Sequence[str], told: Mapping[str, pa.DataType]) -> None:
        self._kinds: dict[str, set[str]] = {name: set() for name in names}
        self._told = dict(told)
        self._there: set[str] = set()
        self._last: dict[str, Any] = {}
        self._rows = 0

    def add(self, inputs: Sequence[bytes]) -> list[list[str | None]]:
        """The columns of some rows, given as JSON, as texts."""
        rows = [_cells(text, self._kinds) for text in inputs]
        self._rows += len(rows)
        for self._last in rows:
            self._there.update(self._last)
        columns = []
        for name, kinds in self._kinds.items():
            values = [row.get(name) for row in rows]
            kinds.update(map(_kind_of, values))
            texts = [_text(value) for value in values]
            if name in self._told and not _fits(texts, self._told[name]):
                del self._told[name]
            columns.append(texts)
        return columns

    def check(self) -> None:
        """Raise InputDataError where no row has one of the columns."""
        missing = [name for name in self._kinds if name not in self._there] if self._rows else []
        if missing:
            there = ", ".join(map(repr, list(self._last)[:_NAMED])) or "none"
            raise InputDataError(
                f"no row of the input has the column {missing[0]!r} that output.carry names. "
                f"Columns there: {there}. Correct output.carry, or the input."
            )

    @property
    def footer(self) -> dict[bytes, bytes]:
        """What a file of these columns keeps of them, as Parquet's metadata."""
        kinds = {name: sorted(found - {""}) for name, found in self._kinds.items()}
        told = pa.schema(list(self._told.items())).serialize().to_pybytes()
        return {_KINDS: orjson.dumps(kinds), _TYPES: base64.b64encode(told)}


def type_of(footers: Sequence[Mapping[bytes, bytes]], name: str) -> pa.DataType:
    """The one type of a column in several files: text where values differ in kind, and Arrow's
    null, which goes with any type of another night, where there are none."""
    schemas = [pa.ipc.read_schema(pa.py_buffer(base64.b64decode(one[_TYPES]))) for one in footers]
    told = {one.field(name).type if name in one.names else None for one in schemas}
    if len(told) == 1 and None not in told:
        return told.pop()
    kinds = {kind for one in footers for kind in orjson.loads(one[_KINDS])[name]}
    if not kinds:
        return pa.null()
    if kinds <= {"integer", "number"}:
        return pa.float64() if "number" in kinds else pa.int64()
    return pa.bool_() if kinds == {"boolean"} else pa.string()


def as_type(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """The values of a column that was written as texts."""
    return pa.nulls(len(texts)) if pa.types.is_null(kind) else texts.cast(kind)


def told_by(
    snapshot: NewSnapshot, sources: Sources | None, names: Sequence[str]
) -> dict[str, pa.DataType]:
    """The types that JSON has no word for, as Parquet files or another source have them."""
    if snapshot.source is not None:
        told = {name: type_of_text(snapshot.source["columns"].get(name)) for name in names}
        return {name: kind for name, kind in told.items() if kind is not None}
    found: dict[str, set[pa.DataType]] = {name: set() for name in names}
    for file in () if sources is None else sources.files:
        if file.kind is not Kind.PARQUET:
            return {}
        with open_stream(file) as stream:
            schema = pq.read_schema(stream)
        for name in names:
            there = name in schema.names
            found[name].add(schema.field(name).type if there else pa.null())
    # Where files differ, the kinds of values count.
    return {name: kinds.pop() for name, kinds in found.items() if len(kinds) == 1 and _rich(*kinds)}


def type_of_text(text: str | None) -> pa.DataType | None:
    """The type that Arrow writes as this text, where JSON has no word for it."""
    if text is None:
        return None
    if zoned := re.fullmatch(r"timestamp\[(\w+), tz=(.+)\]", text):
        return pa.timestamp(*zoned.groups())
    if amount := re.fullmatch(r"decimal(?:128|256)\((\d+), (\d+)\)", text):
        return pa.decimal128(*map(int, amount.groups())) if int(amount[1]) <= 38 else None
    with suppress(ValueError):
        kind = pa.type_for_alias(text)
        return kind if _rich(kind) else None
    return None


def _rich(kind: pa.DataType) -> bool:
    return bool(pa.types.is_temporal(kind) or pa.types.is_decimal(kind))


def _fits(texts: Sequence[str | None], kind: pa.DataType) -> bool:
    try:
        as_type(pa.array(texts, pa.string()), kind)
    except pa.ArrowException:
        return False
    return True


def _cells(text: bytes, names: Iterable[str]) -> dict[str, Any]:
    """A row's cells; json, which is slower, keeps the digits of integers of more than 64 bits."""
    cells: dict[str, Any] = orjson.loads(text)
    if any(type(value := cells.get(name)) is float and abs(value) >= 1 << 63 for name in names):
        cells = json.loads(text)
    return cells


def _kind_of(value: Any) -> str:
    if value is None:
        return ""
    if type(value) is int:
        return "integer" if -(1 << 63) <= value < 1 << 63 else "json"
    return _KIND_OF.get(type(value), "json")


def _text(value: Any) -> str | None:
    """A value as JSON text, a text as itself: the column's type tells them apart."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
