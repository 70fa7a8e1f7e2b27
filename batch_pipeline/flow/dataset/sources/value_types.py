"""The types of columns of which a source tells none, as a database's query: those of its values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

_DIGITS = 38


class ValueTypes:
    """The kinds of values that columns had so far."""

    def __init__(self, columns: Iterable[str]) -> None:
        self._kinds: dict[str, set[str]] = {name: set() for name in columns}
        self._places: dict[str, int] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        for name, kinds in self._kinds.items():
            value = row.get(name)
            if value is not None:
                kinds.add(_kind(value))
                if isinstance(value, Decimal):
                    self._places[name] = max(self._places.get(name, 0), _places(value))

    @property
    def found(self) -> dict[str, str]:
        """The types of columns of times or amounts, as texts that Arrow has for them."""
        found = {}
        for name, kinds in self._kinds.items():
            kind = next(iter(kinds)) if len(kinds) == 1 else ""
            if kind == "decimal":
                kind = f"decimal128({_DIGITS}, {self._places[name]})"
            if kind:
                found[name] = kind
        return found


def _kind(value: object) -> str:
    if isinstance(value, datetime):
        return "timestamp[us]" if value.tzinfo is None else "timestamp[us, tz=UTC]"
    if isinstance(value, date):
        return "date32[day]"
    return "decimal" if isinstance(value, Decimal) else ""


def _places(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return -exponent if isinstance(exponent, int) and exponent < 0 else 0
