"""One input row as JSON text, and its texts for the prompt: what every file format is turned into.

Belongs here: how cells of any Python or Arrow type become JSON, how damaged text is kept, the
prompt texts of a row, and where they stand in its JSON text. The JSON text is the one source of a
row: the snapshot keeps it, and requests are made from it again. Reading files is in `formats`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple

import orjson

# A cell that is no valid text is kept as an object of this one key, with the undecodable bytes as
# backslash escapes: JSON readers accept it, and it cannot be taken for a text that has backslashes.
UNDECODABLE = "$undecodable"
# A text that was not read to its end, because it fits in no request, is kept as an object of this
# one key, with its beginning.
CUT_OFF = "$cut_off"
LARGER_THAN_A_BATCH = "larger than a batch may be"
_KEPT_BYTES = 1_000

# orjson writes cells of these types with the same value that it has read. Floats are not among
# them: it reads 1.10 as 1.1 and an integer of over 64 bits as a rounded float.
_EXACT_TYPES = frozenset({str, int, bool, type(None)})

_SURROGATE = re.compile("[\ud800-\udfff]")


def cell_text(value: object) -> str:
    """How a JSON value becomes prompt text: a string as it is, anything else as its JSON text."""
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        # orjson stops at 64-bit integers; JSON does not.
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class CellProblem(Exception):
    """Why one cell has no text; its message is short and the same for every such row."""


class JsonRow(NamedTuple):
    """A row: its JSON text (UTF-8) and the cells that a JSON parser finds in it."""

    text: bytes
    cells: dict[str, Any]


def row_of_cells(cells: Mapping[str, Any]) -> JsonRow:
    """The row of Python values as Arrow or the csv module give them.

    NaN becomes null, a decimal its digits, a date or time its ISO text, bytes their UTF-8 text, a
    type that JSON has no word for its `str`. Raises ValueError where cells are nested deeper than
    the 254 levels that orjson writes.
    """
    if _EXACT_TYPES.issuperset(map(type, cells.values())):
        with suppress(TypeError):  # a lone surrogate, or an integer of over 64 bits
            return JsonRow(orjson.dumps(cells), dict(cells))
    text = _encode(cells)
    return JsonRow(text, _parse(text))


def row_of_json(line: bytes) -> JsonRow:
    """The row that a line of JSON holds, its text kept as it is where JSON allows.

    NaN and Infinity, which Python writes though JSON lacks them, become null; bytes that are not
    UTF-8 and lone surrogates become undecodable cells. Raises ValueError where the line is not a
    JSON object.
    """
    try:
        cells = orjson.loads(line)
    except orjson.JSONDecodeError:
        return row_of_cells(_require_object(_parse_leniently(line)))
    return JsonRow(line, _require_object(cells))


def values_of(row: JsonRow, columns: Sequence[str]) -> tuple[dict[str, str], str | None]:
    """A row's texts for the template's columns, and why the row cannot be used, or None.

    The problem is that of the first column that has one; columns with a problem have no text. An
    absent key is a null.
    """
    texts: dict[str, str] = {}
    problem: str | None = None
    for column in columns:
        cell = row.cells.get(column)
        try:
            texts[column] = cell if type(cell) is str else _text_of_cell(row, column)
        except CellProblem as found:
            problem = problem or str(found)
    return texts, problem


def column_text(row: JsonRow, column: str) -> str:
    """The text of one column; raises CellProblem for a null and for undecodable text."""
    cell = row.cells.get(column)
    return cell if type(cell) is str else _text_of_cell(row, column)


def _text_of_cell(row: JsonRow, column: str) -> str:
    """The text of a cell that is no string; numbers keep the digits of the JSON text."""
    cell = row.cells.get(column)
    if cell is None:
        raise CellProblem(f"null in column '{column}'")
    try:
        if isinstance(cell, int):
            return cell_text(cell)
        exact = _parse_leniently(row.text)[column]
        if isinstance(exact, dict) and exact.keys() == {CUT_OFF}:
            raise CellProblem(LARGER_THAN_A_BATCH)
        if not _holds_undecodable(exact):
            return orjson.dumps(exact).decode()
    except (TypeError, ValueError, RecursionError):
        raise CellProblem(f"too deeply nested JSON in column '{column}'") from None
    raise CellProblem(f"undecodable text in column '{column}'")


def with_cells(row: JsonRow, changed: Mapping[str, Any]) -> JsonRow:
    """A row with some cells changed or added; the others keep the digits of its JSON text."""
    exact = _EXACT_TYPES.issuperset(map(type, row.cells.values()))
    return row_of_cells((row.cells if exact else _parse_leniently(row.text)) | dict(changed))


# --- where texts stand ---------------------------------------------------------------------------


def with_places(row: JsonRow, columns: Sequence[str]) -> tuple[JsonRow, tuple[int, ...] | None]:
    """A row and the places of its texts, so that a request can be made of it without parsing it.

    A row whose texts are written otherwise than orjson writes them (`json.dumps` writes `\\u00e9`)
    is written anew, with the same content. None for the places where a cell of these columns is
    no string.
    """
    places = places_of(row, columns)
    if places is None and all(type(row.cells.get(column)) is str for column in columns):
        exact = _EXACT_TYPES.issuperset(map(type, row.cells.values()))
        with suppress(ValueError):  # another cell is nested too deeply to be written
            row = row_of_cells(row.cells if exact else _parse_leniently(row.text))
            places = places_of(row, columns)
    return row, places


def places_of(row: JsonRow, columns: Sequence[str]) -> tuple[int, ...] | None:
    """Where in a row's text the JSON strings of these columns stand, without their quotes: begin
    and end of each in turn.

    None where a cell is no string, or is written otherwise than orjson writes it. Bytes that are
    found there may belong to another cell (a nested one of the same name): they are the same bytes.
    """
    places: list[int] = []
    for column in columns:
        cell = row.cells.get(column)
        if type(cell) is not str:
            return None
        literal = orjson.dumps(cell)
        start = _find_cell(row.text, _key(column), literal)
        if start is None:
            return None
        places += (start + 1, start + len(literal) - 1)
    return tuple(places)


def _find_cell(text: bytes, key: bytes, literal: bytes) -> int | None:
    at = text.find(key)
    while at >= 0:
        start = text.find(b'"', at + len(key))
        if start >= 0 and text.startswith(literal, start):
            return start
        at = text.find(key, at + 1)
    return None


@cache
def _key(column: str) -> bytes:
    return orjson.dumps(column) + b":"


# --- cells as JSON -------------------------------------------------------------------------------


def decode_text(data: bytes) -> str | dict[str, str]:
    """UTF-8 bytes as a cell: a string, or an undecodable cell."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return undecodable(data.decode(errors="backslashreplace"))


def undecodable(text: str) -> dict[str, str]:
    """A cell that says that its content is no valid text, and what could be kept of it."""
    return {UNDECODABLE: text}


def too_large(data: bytes) -> dict[str, str]:
    """A cell that says that its text fits in no request, with the beginning of the text."""
    return {CUT_OFF: data[:_KEPT_BYTES].decode(errors="backslashreplace")}


def _encode(cells: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(cells, default=_as_json)
    except TypeError:  # a lone surrogate somewhere
        pass
    try:
        return orjson.dumps(_without_surrogates(cells, nested=False), default=_as_json)
    except (TypeError, RecursionError):
        raise ValueError("nested too deeply") from None


def _as_json(value: object) -> object:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return decode_text(bytes(value))
    if isinstance(value, Decimal):
        return format(value, "f")
    isoformat = getattr(value, "isoformat", None)  # pandas' nanosecond timestamps; orjson has dates
    if callable(isoformat) and not hasattr(value, "total_seconds"):
        return isoformat()
    return str(value)


def _without_surrogates(value: Any, *, nested: bool = True) -> Any:
    """The value with undecodable cells in place of damaged texts; a damaged key of an object in a
    cell (`nested`) makes that object one, as none but its columns can be named in a template."""
    if isinstance(value, str):
        return undecodable(escaped(value)) if has_surrogate(value) else value
    if isinstance(value, Mapping):
        cells = {escaped(str(key)): _without_surrogates(cell) for key, cell in value.items()}
        damaged = [key for key in map(str, value) if nested and has_surrogate(key)]
        return cells | undecodable(escaped(damaged[0])) if damaged else cells
    if isinstance(value, (list, tuple)):
        return [_without_surrogates(cell) for cell in value]
    return value


def has_surrogate(text: str) -> bool:
    """Whether a text holds what UTF-8 lacks: bytes of a file that are no text, half a pair."""
    return _SURROGATE.search(text) is not None


def escaped(text: str) -> str:
    """The text with what UTF-8 lacks as backslash escapes."""
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
