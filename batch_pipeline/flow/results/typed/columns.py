"""Arrow columns for the fields of a declared JSON Schema, and the values that go into them.

Belongs here: which type a schema means. A part of a schema that means no single type (a union, an
object of any keys, recursion) is a text column with the value as JSON. A value that its type cannot
hold, such as a date that is none, is NULL; `parsed` of the results has it as the model wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

import orjson
import pyarrow as pa

# Names that a field of an answer cannot have: those of the dataset's own columns.
OWN = ("id", "status", "partition")
# Tells readers that a text has few values; `reading.frames` makes it a category.
CATEGORY = {b"category": b"true"}
# References that point to references are followed this often.
_DEPTH = 10
_INT64 = range(-(1 << 63), 1 << 63)

Convert = Callable[[Any], Any]


@dataclass(frozen=True)
class Typed:
    """An Arrow type, what makes its values of JSON values, and whether it has few values."""

    kind: pa.DataType
    convert: Convert
    few: bool = False


@dataclass(frozen=True)
class Column:
    """A column of the typed dataset; `key` is the field of the answer, None: the whole answer."""

    field: pa.Field
    key: str | None
    convert: Convert

    def value(self, answer: Any) -> Any:
        if self.key is None:
            return self.convert(answer)
        return self.convert(answer.get(self.key)) if isinstance(answer, dict) else None


def columns_of(schema: Mapping[str, Any] | None, taken: Collection[str]) -> list[Column]:
    """The columns for the answers of a schema, in its order.

    A field named like a column in `OWN` or in `taken`, whatever its case, gets `parsed_` before its
    name, and so does the second of two fields that differ in case alone: DuckDB and Spark see one
    column in both. The answers of a schema that is no object with known fields are one column.
    """
    if schema is None:
        return []
    whole = _resolved(schema, schema)
    fields = whole.get("properties") if whole.get("type", "object") == "object" else None
    if not isinstance(fields, dict) or not fields:
        return [_column("parsed", None, type_of(schema, schema))]
    used = {name.lower() for name in (*OWN, *taken)}
    columns = []
    for key, part in fields.items():
        name = key
        while name.lower() in used:
            name = f"parsed_{name}"
        used.add(name.lower())
        columns.append(_column(name, key, type_of(part, schema)))
    return columns


def _column(name: str, key: str | None, typed: Typed) -> Column:
    field = pa.field(name, typed.kind, metadata=CATEGORY if typed.few else None)
    return Column(field, key, typed.convert)


def type_of(schema: Any, root: Mapping[str, Any], within: frozenset[int] = frozenset()) -> Typed:
    """The type of a schema's values; `root` is the schema that its references point into.

    `within` are the schemas around it: one that is within itself has no type of finite depth.
    """
    part = _resolved(schema, root)
    if id(part) in within:
        return JSON_TEXT
    inner = partial(type_of, root=root, within=within | {id(part)})
    options = part.get("anyOf") or part.get("oneOf")
    if options:
        found = [inner(one) for one in options if _resolved(one, root).get("type") != "null"]
        same = len(found) == 1 or all(one is TEXT for one in found)
        return found[0] if found and same else JSON_TEXT
    return _of_kind(_kind(part), part, inner)


def _of_kind(kind: str | None, part: Mapping[str, Any], inner: Callable[[Any], Typed]) -> Typed:
    found = {"integer": INTEGER, "boolean": BOOLEAN}.get(kind or "", JSON_TEXT)
    if kind == "string":
        found = {"date": DATE, "date-time": MOMENT}.get(part.get("format", ""), TEXT)
        if "enum" in part or "const" in part:
            found = Typed(TEXT.kind, TEXT.convert, few=True)
    elif kind == "number":
        found = _money(part.get("multipleOf"))
    elif kind == "array" and isinstance(part.get("items"), dict):
        item = inner(part["items"])
        found = Typed(pa.list_(item.kind), partial(_list, item.convert))
    elif kind == "object" and part.get("properties") and not part.get("additionalProperties"):
        fields = {key: inner(one) for key, one in part["properties"].items()}
        struct = pa.struct([(key, one.kind) for key, one in fields.items()])
        found = Typed(struct, partial(_struct, {key: one.convert for key, one in fields.items()}))
    return found


def _resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema without its reference; one that allows everything where it cannot be followed."""
    for _ in range(_DEPTH):
        if not isinstance(schema, Mapping):
            return {}
        if "$ref" in schema:
            schema = _pointed_at(str(schema["$ref"]), root)
        elif len(schema.get("allOf", ())) == 1 and "type" not in schema:
            schema = schema["allOf"][0]
        else:
            return schema
    return {}


def _pointed_at(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _kind(part: Mapping[str, Any]) -> str | None:
    """The one type of a schema's values, null apart; None: several, or any."""
    declared = part.get("type")
    if declared is None:
        values = part.get("enum", [part["const"]] if "const" in part else [])
        kinds = {_KINDS.get(type(value)) for value in values if value is not None}
    else:
        kinds = set(declared if isinstance(declared, list) else [declared]) - {"null"}
    if kinds == {"integer", "number"}:
        return "number"
    return kinds.pop() if len(kinds) == 1 else None


_KINDS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def _money(step: Any) -> Typed:
    """Numbers: floats, or decimals where they are declared as multiples of 0.1, 0.01, …"""
    if isinstance(step, float) and 0 < step < 1:
        sign_digits_exponent = Decimal(repr(step)).normalize().as_tuple()
        places = -int(sign_digits_exponent.exponent)
        if sign_digits_exponent.digits == (1,) and 0 < places <= 12:
            return Typed(pa.decimal128(38, places), partial(_decimal, places))
    return NUMBER


def _decimal(places: int, value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return None
    with suppress(InvalidOperation):
        exact = Decimal(str(value)).quantize(Decimal(1).scaleb(-places))
        return exact if len(exact.as_tuple().digits) <= 28 else None
    return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: Any) -> int | None:
    if isinstance(value, (float, Decimal)) and value == int(value):
        value = int(value)
    return value if type(value) is int and value in _INT64 else None


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float, Decimal) else None


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _date(value: Any) -> date | None:
    with suppress(ValueError, TypeError):
        return date.fromisoformat(value)
    return None


def _moment(value: Any) -> datetime | None:
    """A point in time; without a zone it is taken as UTC."""
    with suppress(ValueError, TypeError, OverflowError):
        found = datetime.fromisoformat(value)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    return None


def _list(convert: Convert, value: Any) -> list[Any] | None:
    return [convert(item) for item in value] if isinstance(value, list) else None


def _struct(converts: Mapping[str, Convert], value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    return {key: convert(value.get(key)) for key, convert in converts.items()}


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value, default=float).decode()


TEXT = Typed(pa.string(), _text)
INTEGER = Typed(pa.int64(), _integer)
NUMBER = Typed(pa.float64(), _number)
BOOLEAN = Typed(pa.bool_(), _boolean)
DATE = Typed(pa.date32(), _date)
MOMENT = Typed(pa.timestamp("us", "UTC"), _moment)
JSON_TEXT = Typed(pa.string(), _json)
