"""One input row as JSON text, and back: what every file format is turned into.

Belongs here: how cells of any Python or Arrow type become JSON, how damaged text is kept, and how
the texts of a template's columns are taken from a row. A row's JSON text is the one source: the
snapshot keeps it, and requests are rebuilt from it. Formats are read in `formats`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

import orjson

from batch_pipeline.flow.dataset.template import cell_text

# A cell that is no valid text is kept as an object of this one key, with the undecodable bytes as
# backslash escapes: JSON readers accept it, and it cannot be taken for a text that has backslashes.
UNDECODABLE = "$undecodable"

# Cells of these types come back from JSON as they went in.
_AS_PARSED = frozenset({str, bool, type(None)})

_BACKSLASH = ord("\\")
_SURROGATE = re.compile("[\ud800-\udfff]")


class CellProblem(Exception):
    """Why one cell has no text; its message is short and the same for every such row."""


class JsonRow:
    """A row: its JSON text (UTF-8) and the cells that a JSON parser finds in it."""

    __slots__ = ("_exact", "cells", "text")

    def __init__(self, text: bytes, cells: dict[str, Any]) -> None:
        self.text = text
        self.cells = cells
        self._exact: dict[str, Any] | None = None

    @classmethod
    def of_cells(cls, cells: Mapping[str, Any]) -> JsonRow:
        """The row of Python values as Arrow or the csv module give them.

        NaN becomes null, a decimal its digits, a date or time its ISO text, bytes their UTF-8
        text, a type that JSON has no word for its `str`. Raises ValueError where cells are nested
        beyond what JSON writers bear (254 levels).
        """
        if _AS_PARSED.issuperset(map(type, cells.values())):
            with suppress(TypeError):  # a lone surrogate somewhere
                return cls(orjson.dumps(cells), dict(cells))
        text = _encode(cells)
        return cls(text, _parse(text))

    @classmethod
    def of_json(cls, line: bytes) -> JsonRow:
        """The row that a line of JSON holds, its text kept as it is where JSON allows.

        NaN and Infinity, which Python writes though JSON lacks them, become null; bytes that are
        not UTF-8 and lone surrogates become undecodable cells. Raises ValueError where the line is
        not a JSON object.
        """
        try:
            cells = orjson.loads(line)
        except orjson.JSONDecodeError:
            return cls.of_cells(_require_object(_parse_leniently(line)))
        return cls(line, _require_object(cells))

    def column_text(self, column: str) -> str:
        """The prompt text of a cell; numbers keep the digits of the JSON text.

        An absent key is a null. Raises CellProblem for a null and for undecodable text.
        """
        value = self.cells.get(column)
        if type(value) is str:
            return value
        if value is None:
            raise CellProblem(f"null in column '{column}'")
        try:
            if type(value) is not float and not isinstance(value, (list, dict)):
                return cell_text(value)
            # orjson reads 1.10 as 1.1 and an integer of over 64 bits as a rounded float.
            if self._exact is None:
                self._exact = _parse_leniently(self.text)
            value = self._exact[column]
            if not _holds_undecodable(value):
                return orjson.dumps(value).decode()
        except (TypeError, ValueError, RecursionError):
            raise CellProblem(f"too deeply nested JSON in column '{column}'") from None
        raise CellProblem(f"undecodable text in column '{column}'")


def places_of(row: JsonRow, columns: Sequence[str]) -> tuple[int, ...] | None:
    """Where in a row's text the JSON strings of these columns lie, without their quotes: begin and
    end of each in turn, so that a request can be put together without parsing the row again.

    None where a cell is no string, or is written otherwise than orjson would write it.
    """
    places: list[int] = []
    plain = _is_plain(row)
    for column in columns:
        cell = row.cells.get(column)
        if type(cell) is not str:
            return None
        name = orjson.dumps(column) + b":"
        at = row.text.find(name)
        start = row.text.find(b'"', at + len(name)) + 1
        if plain and at >= 0:
            end = row.text.find(b'"', start)
        else:
            # Whatever stands there: what counts is that the bytes are the same.
            literal = orjson.dumps(cell)
            if not row.text.startswith(literal, start - 1):
                return None
            end = start + len(literal) - 2
        places += (start, end)
    return tuple(places)


def as_written(row: JsonRow, columns: Sequence[str]) -> JsonRow:
    """The row with the texts of these columns written as orjson writes them, so that `places_of`
    finds them, which some writers do not (`json.dumps` writes `\\u00e9`); all else stays as it is.
    """
    text = row.text
    for column in columns:
        cell = row.cells.get(column)
        name = orjson.dumps(column) + b":"
        at = text.find(name)
        if type(cell) is not str or at < 0:
            continue
        start = text.find(b'"', at + len(name))
        end = _end_of_literal(text, start)
        literal = text[start:end]
        written = orjson.dumps(cell)
        if literal != written and _is_json_of(literal, cell):
            text = text[:start] + written + text[end:]
    return row if text is row.text else JsonRow(text, row.cells)


def _end_of_literal(text: bytes, start: int) -> int:
    """Where the JSON string that begins here ends: after the first quote that is not escaped."""
    end = start
    while (end := text.find(b'"', end + 1)) >= 0:
        before = end
        while text[before - 1] == _BACKSLASH:
            before -= 1
        if (end - before) % 2 == 0:
            return end + 1
    return len(text)


def _is_json_of(literal: bytes, cell: str) -> bool:
    try:
        return bool(orjson.loads(literal) == cell)
    except orjson.JSONDecodeError:
        return False


def _is_plain(row: JsonRow) -> bool:
    """Whether each quote begins or ends a name or a cell: there are no escapes, nothing is nested,
    and no name comes twice. A name is then followed by its cell, which can be written in one way.
    """
    kinds = [type(cell) for cell in row.cells.values()]
    if b"\\" in row.text or dict in kinds or list in kinds:
        return False
    # Not `bytes.count`, which goes byte by byte through the long texts between them.
    at = row.text.find(b'"')
    for _ in range(2 * (len(kinds) + kinds.count(str))):
        if at < 0:
            return False
        at = row.text.find(b'"', at + 1)
    return at < 0


def row_values(text: bytes, columns: Sequence[str]) -> tuple[dict[str, str], str | None]:
    """A row's texts for the template, taken from its JSON text alone, and why it is unusable.

    The problem is that of the first column that has one, and columns with a problem have no value.
    """
    return values_and_problem(JsonRow.of_json(text), columns)


def values_and_problem(row: JsonRow, columns: Sequence[str]) -> tuple[dict[str, str], str | None]:
    """`row_values` of a row that is parsed already."""
    values: dict[str, str] = {}
    problem: str | None = None
    for column in columns:
        try:
            values[column] = row.column_text(column)
        except CellProblem as found:
            problem = problem or str(found)
    return values, problem


def decode_text(data: bytes) -> str | dict[str, str]:
    """UTF-8 bytes as a cell: a string, or an undecodable cell."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return undecodable(data.decode(errors="backslashreplace"))


def undecodable(text: str) -> dict[str, str]:
    """A cell that says that its content is no valid text, and what could be kept of it."""
    return {UNDECODABLE: text}


def _encode(cells: Mapping[str, Any]) -> bytes:
    try:
        return _trimmed(orjson.dumps(cells, default=_as_json))
    except TypeError:  # a lone surrogate somewhere
        pass
    try:
        return _trimmed(orjson.dumps(_without_surrogates(cells), default=_as_json))
    except (TypeError, RecursionError):
        raise ValueError("nested too deeply") from None


def _trimmed(text: bytes) -> bytes:
    """A copy as large as it is: orjson leaves its buffer, up to eight times a text, to what it
    returns, and rows are kept until there are enough to write."""
    return bytes(memoryview(text))


def _as_json(value: object) -> object:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return decode_text(bytes(value))
    if isinstance(value, Decimal):
        return format(value, "f")
    isoformat = getattr(value, "isoformat", None)  # pandas' nanosecond timestamps; orjson has dates
    if callable(isoformat) and not hasattr(value, "total_seconds"):
        return isoformat()
    return str(value)


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return undecodable(_escaped(value)) if _SURROGATE.search(value) else value
    if isinstance(value, Mapping):
        return {_escaped(str(key)): _without_surrogates(cell) for key, cell in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_surrogates(cell) for cell in value]
    return value


def _escaped(text: str) -> str:
    try:
        # Bytes that a reader let through as surrogates show as what they were: \xff.
        return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()


def _parse(text: bytes) -> dict[str, Any]:
    try:
        cells: dict[str, Any] = orjson.loads(text)
    except orjson.JSONDecodeError:  # a number beyond a double's range
        cells = _parse_leniently(text)
    return cells


def _parse_leniently(text: bytes) -> Any:
    """What Python's own parser makes of a text, with every number as it is written."""
    try:
        return json.loads(
            text.decode(errors="surrogateescape"),
            parse_int=orjson.Fragment,
            parse_float=orjson.Fragment,
            parse_constant=lambda _: None,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _require_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _holds_undecodable(value: Any) -> bool:
    if isinstance(value, dict):
        return UNDECODABLE in value or any(_holds_undecodable(cell) for cell in value.values())
    if isinstance(value, list):
        return any(_holds_undecodable(cell) for cell in value)
    return False
