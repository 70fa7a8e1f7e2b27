"""The types of columns of which a source tells none, as a database's query: those of its values.

They are written as Arrow writes them: columns that go along into results keep theirs, and an input
of another shape is told by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

_DIGITS = 38
_KINDS = {
    str: "string",
    int: "number",
    float: "number",
    bool: "bool",
    date: "date32[day]",
    time: "time64[us]",
    bytes: "binary",
    memoryview: "binary",
    dict: "json",
    list: "json",
}


class ValueTypes:
    """The kinds of values that columns had so far."""

    def __init__(self, columns: Iterable[str]) -> None:
        self._seen: dict[str, dict[type, Any]] = {name: {} for name in columns}
        self._places: dict[str, int] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        for name, seen in self._seen.items():
            value = row.get(name)
            if value is not None:
                seen.setdefault(type(value), value)
                if type(value) is Decimal:
                    self._places[name] = max(self._places.get(name, 0), _places(value))

    @property
    def found(self) -> dict[str, str]:
        """The type of each column whose values have one type."""
        found = {}
        for name, seen in self._seen.items():
            kinds = {self._kind(name, value) for value in seen.values()}
            if len(kinds) == 1:
                found[name] = kinds.pop()
        return found

    def _kind(self, name: str, value: object) -> str:
        if isinstance(value, datetime):
            return "timestamp[us]" if value.tzinfo is None else "timestamp[us, tz=UTC]"
        if isinstance(value, Decimal):
            return f"decimal128({_DIGITS}, {self._places[name]})"
        return _KINDS.get(type(value), type(value).__name__)


def _places(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return -exponent if isinstance(exponent, int) and exponent < 0 else 0
