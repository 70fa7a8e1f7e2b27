"""Writes a value that fits a JSON Schema, with words and numbers taken from the prompt.

Covered: object, array, string, number, integer, boolean, null, enum, const, `$ref` into the same
document, allOf, anyOf, oneOf, bounds of numbers, lengths and items, uniqueItems, multipleOf and the
formats date, date-time, time, email, uri and uuid. `pattern`, `not`, `if` and other keys are
ignored; the answer may break a schema that has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

from jsonschema_rs import is_valid

from batch_pipeline.simulator.answers.source_text import Dice, SourceText

_MAX_DEPTH = 6  # below it, objects have required properties only, so that recursion ends
_MAX_REFERENCES = 100
_ENOUGH_ITEMS = 3
_SPAN = 100
_KEYS_OF_TYPE = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "format", "pattern"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_STRICTER: dict[str, Callable[[Any, Any], Any]] = {
    "minimum": max, "exclusiveMinimum": max, "minLength": max, "minItems": max,
    "minProperties": max, "maximum": min, "exclusiveMaximum": min, "maxLength": min,
    "maxItems": min, "maxProperties": min,
}  # fmt: skip

Schema = dict[str, Any]


class UnsatisfiableError(Exception):
    """No value can be written for this schema."""


class SchemaWriter:
    """Writes one value for a schema."""

    def __init__(self, root: Schema, dice: Dice, source: SourceText) -> None:
        self._root = root
        self._dice = dice
        self._source = source

    def write(self) -> Any:
        """A value that fits the schema. Errors: `UnsatisfiableError` if none can be written."""
        try:
            return self._value(self._root, "", 0)
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            # Mistakes in a client's schema (an empty enum, a broken or circular reference) show
            # up as any of these.
            raise UnsatisfiableError(f"no value can be written for it ({error})") from error

    def _value(self, raw: Any, name: str, depth: int) -> Any:
        """A value for one schema; `name` is the property it is for, or empty."""
        if not isinstance(raw, dict):
            return self._string({}, name)
        schema = self._resolved(raw)
        if "const" in schema or "enum" in schema:
            return schema["const"] if "const" in schema else self._one_of_enum(schema)
        if "anyOf" in schema or "oneOf" in schema:
            return self._alternative(schema, name, depth)
        kind = self._type(schema, depth)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, name, depth)
        return self._scalar(schema, name, kind)

    def _scalar(self, schema: Schema, name: str, kind: str) -> Any:
        match kind:
            case "integer" | "number":
                return self._number(schema, name, whole=kind == "integer")
            case "boolean":
                return self._dice.below(2) == 1
            case "null":
                return None
            case _:
                return self._string(schema, name)

    def _resolved(self, schema: Schema) -> Schema:
        """The schema with `$ref` followed and `allOf` merged in.

        Errors: `RecursionError` for references that go round in a circle.
        """
        for _ in range(_MAX_REFERENCES):
            if "$ref" not in schema and "allOf" not in schema:
                return schema
            rest = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
            parts = list(schema.get("allOf", ()))
            if "$ref" in schema:
                parts.append(self._pointed_at(schema["$ref"]))
            for part in parts:
                if isinstance(part, dict):
                    rest = merge(rest, part)
            schema = rest
        raise RecursionError("$ref leads round in a circle")

    def _pointed_at(self, reference: str) -> Any:
        found: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")  # RFC 6901
            found = found[int(name)] if isinstance(found, list) else found[name]
        return found

    def _one_of_enum(self, schema: Schema) -> Any:
        values = schema["enum"]
        if schema.get("type", "string") != "string":
            values = [value for value in values if is_valid({"type": schema["type"]}, value)]
        best = self._source.best_of(values)
        return best if best is not None else self._dice.pick(values)

    def _alternative(self, schema: Schema, name: str, depth: int) -> Any:
        key = "anyOf" if "anyOf" in schema else "oneOf"
        base = {k: value for k, value in schema.items() if k != key}
        options = [merge(base, option) for option in schema[key] if isinstance(option, dict)]
        if depth >= _MAX_DEPTH:
            options.sort(key=lambda option: "$ref" in option or "properties" in option)
            start = 0
        else:
            start = self._dice.below(len(options))
        value = None
        for turn in range(len(options)):
            value = self._value(options[(start + turn) % len(options)], name, depth + 1)
            # oneOf allows no value that fits two of its schemas.
            if key == "anyOf" or is_valid({**self._definitions(), "oneOf": schema[key]}, value):
                return value
        return value

    def _definitions(self) -> Schema:
        return {key: self._root[key] for key in ("$defs", "definitions") if key in self._root}

    def _type(self, schema: Schema, depth: int) -> str:
        declared = schema.get("type")
        if isinstance(declared, str):
            return declared
        if isinstance(declared, list) and declared:
            solid = [kind for kind in declared if kind != "null"]
            if not solid or ("null" in declared and (depth >= _MAX_DEPTH or self._rarely())):
                return "null"
            return str(self._dice.pick(solid))
        for kind, keys in _KEYS_OF_TYPE.items():
            if any(key in schema for key in keys):
                return kind
        return "string"

    def _rarely(self) -> bool:
        return self._dice.below(8) == 0

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = schema.get("required", ())
        least = schema.get("minProperties", 0)
        most = schema.get("maxProperties", math.inf)
        wanted = [name for name in properties if name in required]
        optional = [name for name in properties if name not in required]
        extra = [name for name in required if name not in properties]
        for name in optional:
            count = len(wanted) + len(extra)
            if count < least or (count < most and depth < _MAX_DEPTH and not self._rarely()):
                wanted.append(name)
        order = [name for name in properties if name in wanted] + extra
        order += [f"field_{n}" for n in range(least - len(order))]
        others = schema.get("additionalProperties", {})
        return {name: self._value(properties.get(name, others), name, depth + 1) for name in order}

    def _array(self, schema: Schema, name: str, depth: int) -> list[Any]:
        prefix = schema.get("prefixItems", [])
        items = schema.get("items", {})
        least = schema.get("minItems", 0)
        most = schema.get("maxItems", max(least, len(prefix)) + _ENOUGH_ITEMS)
        if items is False:
            most = min(most, len(prefix))
        target = least
        if depth < _MAX_DEPTH and most > least:
            target = least + self._dice.below(min(most, max(least, len(prefix), 1) + 2) - least + 1)
        found: list[Any] = []
        # Unique items may need more than one try each, and may run out (an enum of two values).
        for _ in range(target * 8 if schema.get("uniqueItems") else target):
            if len(found) >= target:
                break
            position = len(found)
            part = prefix[position] if position < len(prefix) else items
            value = self._value(part, name, depth + 1)
            if not schema.get("uniqueItems") or value not in found:
                found.append(value)
        return self._filled_up(found, items, least) if len(found) < least else found

    def _filled_up(self, found: list[Any], items: Any, least: int) -> list[Any]:
        """Further different values for a `uniqueItems` array that chance left too short."""
        schema = self._resolved(items) if isinstance(items, dict) else {}
        candidates = schema.get("enum") or range(round(schema.get("minimum", 0)), 10 * least)
        for value in candidates:
            if len(found) < least and value not in found:
                found.append(value)
        return found

    def _number(self, schema: Schema, name: str, *, whole: bool) -> int | float:
        low: float = max(
            schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf)
        )
        high: float = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
        if low == -math.inf:
            low = min(0, high - _SPAN) if high < math.inf else 0
        if high == math.inf:
            high = low + _SPAN if not name.endswith("year") else max(low, 2_100)
        step = schema.get("multipleOf", 1 if whole else 0)
        if step:
            return self._stepped(schema, name, low, high, step)
        value = low + (high - low) * (0.05 + 0.9 * self._dice.unit())
        rounded = round(value, 2)
        return rounded if low < rounded < high else value

    def _stepped(
        self, schema: Schema, name: str, low: float, high: float, step: float
    ) -> int | float:
        """A multiple of `step`; for a year, one that the text names if it may be."""
        if name.endswith("year"):
            for year in self._source.years():
                if low < year < high and year % step == 0:
                    return year
        first, last = math.ceil(low / step), math.floor(high / step)
        first += first * step == schema.get("exclusiveMinimum")
        last -= last * step == schema.get("exclusiveMaximum")
        return (first + self._dice.below(max(1, last - first + 1))) * step

    def _string(self, schema: Schema, name: str) -> str:
        if "format" in schema and (text := self._formatted(schema["format"])) is not None:
            return text
        words = min(40, self._dice.long_tail(4, 2.0))
        text = (self._source.after(name, words) if name else None) or self._source.excerpt(
            self._dice, words
        )
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        while len(text) < least:
            text += " " + self._source.excerpt(self._dice, 12)
        return text if most is None else text[:most]

    def _formatted(self, kind: str) -> str | None:
        number = self._dice.below(1 << 32)
        formats: dict[str, Callable[[], str]] = {
            "date": lambda: self._day(number).isoformat(),
            "date-time": lambda: f"{self._day(number).isoformat()}T08:30:00Z",
            "time": lambda: f"{number % 24:02}:{number % 60:02}:00Z",
            "email": lambda: f"reader{number % 1000}@example.com",
            "uri": lambda: f"https://example.com/{number % 1000}",
            "uuid": lambda: f"{number:08x}-0000-4000-8000-{number:012x}",
        }
        return formats[kind]() if kind in formats else None

    def _day(self, number: int) -> date:
        return self._source.date() or date(2000, 1, 1) + timedelta(days=number % 9_500)


def merge(left: Schema, right: Schema) -> Schema:
    """One schema that allows only values that both allow, for the keys that this module covers."""
    merged = dict(left)
    for key, value in right.items():
        if key not in merged:
            merged[key] = value
        elif key == "properties":
            both = {
                name: {"allOf": [merged[key][name], part]} if name in merged[key] else part
                for name, part in value.items()
            }
            merged[key] = {**merged[key], **both}
        elif key == "required":
            merged[key] = [*merged[key], *(name for name in value if name not in merged[key])]
        elif key == "enum":
            merged[key] = [option for option in merged[key] if option in value]
        elif key == "type":
            merged[key] = _common_types(merged[key], value)
        elif key == "allOf":
            merged[key] = [*merged[key], *value]
        elif key in _STRICTER:
            merged[key] = _STRICTER[key](merged[key], value)
        elif key == "$ref":
            merged["allOf"] = [*merged.get("allOf", ()), {"$ref": value}]
        else:
            merged[key] = value
    return merged


def _common_types(left: Any, right: Any) -> Any:
    lefts = [left] if isinstance(left, str) else left
    rights = [right] if isinstance(right, str) else right
    common = [kind for kind in lefts if kind in rights]
    if "integer" not in common and {"integer", "number"} <= {*lefts, *rights}:
        common.append("integer")
    return common[0] if len(common) == 1 else common
