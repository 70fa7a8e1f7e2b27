"""The common line of a jsonl file, found block by block: its id, and where its texts lie.

Belongs here: what can be told of many lines at once from where their quotes and escapes stand, so
that long texts are not parsed. Whatever is not common about a line (a long text within a list,
a prompt of what is no text, a mistake) leaves it to `formats.row_of_line` and `row_json`, which can
read any line; of a common one they would make the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from batch_pipeline.flow.columns import Wanted

# What is looked through several times stays in the processor's cache.
BLOCK_BYTES = 512 << 10
# Longer texts are taken out of a line before it is parsed.
LONG_BYTES = 64

_NEWLINE, _RETURN, _QUOTE, _BACKSLASH, _OPEN, _CLOSE = b'\n\r"\\{}'
# Stands for a text that was taken out, with its number behind it. Lines of a block that has this
# character by itself are not common, nor is a line that may have it as an escape, or one that has
# more such texts than there are marks.
_MARK = b"\x7f"
_MARK_ESCAPED = b"\\u007"
_MARKS = [_MARK + b"%d" % number for number in range(100)]
_MARKED = {mark.decode(): number for number, mark in enumerate(_MARKS)}
# What may follow a backslash in JSON as orjson writes it. It writes `\u001f` and the like too, so
# rarely that these may be parsed.
_USUAL = np.zeros(256, dtype=bool)
_USUAL[list(b'"\\bfnrt')] = True

Positions = npt.NDArray[np.int64]


class Line(NamedTuple):
    """A line without its end. Of a common one the id and the places of its texts are known, and its
    texts are written as orjson would write them; see `row_json.places_of`."""

    text: bytes
    id: str | None = None
    places: tuple[int, ...] | None = None


def read_lines(stream: BinaryIO, size: int | None, wanted: Wanted) -> Iterator[Line]:
    """All lines of a stream from where it stands, or those of its next `size` bytes, which end with
    a line. Lines end at \\n alone, not at U+2028."""
    names = [(column, orjson.dumps(column) + b":") for column in wanted.columns]
    while size is None or size > 0:
        data = stream.read(BLOCK_BYTES if size is None else min(BLOCK_BYTES, size))
        if not data:
            return
        if not data.endswith(b"\n"):
            data += stream.readline()
        if size is not None:
            size -= len(data)
        yield from _lines(data, wanted.id_column, names)


def _lines(data: bytes, id_column: str, names: Sequence[tuple[str, bytes]]) -> Iterator[Line]:
    block = None if _MARK in data or not _is_utf8(data) else _look_through(data)
    if block is None:
        yield from map(Line, data.removesuffix(b"\n").split(b"\n"))
        return
    first = block.long_from[0]
    for start, end, regular, escaped, after in zip(
        block.starts, block.ends, block.regular, block.escaped, block.long_from[1:], strict=True
    ):
        line = data[start:end]
        found = None
        if regular:
            texts = [(a - start, b - start) for a, b in block.long[first:after]]
            found = _common(line, texts, escaped, id_column, names)
        first = after
        yield found or Line(line)


class _Block(NamedTuple):
    """Of each line of a block: where it lies, whether it may be a common one, and whether it has
    unusual escapes; and the places of all long texts, with the number of the first one of each
    line, and of the line after the last."""

    starts: list[int]
    ends: list[int]
    regular: list[bool]
    escaped: list[bool]
    long_from: list[int]
    long: list[list[int]]


def _look_through(data: bytes) -> _Block:
    raw = np.frombuffer(data, np.uint8)
    controls = np.flatnonzero(raw < ord(" "))
    kinds = raw[controls]
    ends = controls[kinds == _NEWLINE]
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(data))
    starts = np.concatenate(([0], ends[:-1] + 1))
    returns = (ends > starts) & (raw[ends - 1] == _RETURN)
    ends = ends - returns
    regular = (ends - starts > 1) & (raw[starts] == _OPEN) & (raw[ends - 1] == _CLOSE)
    # Control characters within a line: between its cells, or a mistake.
    within = controls[kinds != _NEWLINE]
    if len(within) > np.count_nonzero(returns):
        within = within[~np.isin(within, ends[returns])]
        regular[_lines_of(within, starts)] = False

    is_quote = raw == _QUOTE
    escaped = np.zeros(len(starts), dtype=bool)
    if b"\\" in data:
        escapes = _escapes(np.flatnonzero(raw == _BACKSLASH))
        # One at the very end escapes nothing; its line does not end as a row does.
        after = np.minimum(escapes + 1, len(raw) - 1)
        is_quote[after] = False
        escaped[_lines_of(escapes[~_USUAL[raw[after]]], starts)] = True
    quotes = np.flatnonzero(is_quote)
    counts = np.diff(np.searchsorted(quotes, starts), append=len(quotes))
    even = counts % 2 == 0
    regular &= even
    if not even.all():
        quotes = quotes[np.repeat(even, counts)]
    pairs = quotes.reshape(-1, 2)
    long = pairs[pairs[:, 1] - pairs[:, 0] > LONG_BYTES + 1] + (1, 0)
    long_from = np.searchsorted(long[:, 0], np.append(starts, len(raw)))
    columns = (starts, ends, regular, escaped, long_from, long)
    return _Block(*(column.tolist() for column in columns))


def _lines_of(positions: Positions, starts: Positions) -> Positions:
    """The numbers of the lines that bytes are in."""
    numbers: Positions = np.searchsorted(starts, positions, side="right") - 1
    return numbers


def _escapes(backslashes: Positions) -> Positions:
    """Of the places of all backslashes those that begin an escape: of a run each second one."""
    follows = np.diff(backslashes, prepend=-2) == 1
    if follows.any():
        numbers = np.arange(len(backslashes))
        run_starts = np.maximum.accumulate(np.where(follows, 0, numbers))
        backslashes = backslashes[(numbers - run_starts) % 2 == 0]
    return backslashes


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    offsets = pa.py_buffer(np.array([0, len(data)], np.int64))
    text = pa.LargeStringArray.from_buffers(1, offsets, pa.py_buffer(data))
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _common(
    line: bytes,
    texts: Sequence[tuple[int, int]],
    escaped: bool,
    id_column: str,
    names: Sequence[tuple[str, bytes]],
) -> Line | None:
    """A line whose long texts lie at these places, if it is a common one."""
    short = _without(line, texts)
    cells = _cells(short, len(texts), escaped=escaped)
    row_id = cells.get(id_column)
    if type(row_id) is int:
        row_id = str(row_id)
    if type(row_id) is not str or not row_id or row_id in _MARKED:
        return None
    if escaped:
        asked = [cells.get(column) for column, _ in names]
        written = _as_written(line, texts, [mark in asked for mark in islice(_MARKED, len(texts))])
        if written is None:
            return None
        line, texts = written
    places: list[int] = []
    for column, name in names:
        place = _place(cells.get(column), name, short, texts)
        if place is None:
            return None
        places += place
    return Line(line, row_id, tuple(places))


def _cells(short: bytes, texts: int, *, escaped: bool) -> dict[str, Any]:
    """The cells of a line with marks in place of so many texts; none unless each of them is the
    whole of a cell: not a name, not part of a list or an object, not the former of two."""
    if escaped and _MARK_ESCAPED in short:
        return {}
    try:
        cells: dict[str, Any] = orjson.loads(short)
    except orjson.JSONDecodeError:
        return {}
    if texts and sum(type(cell) is str and cell in _MARKED for cell in cells.values()) != texts:
        return {}
    return cells


def _place(
    cell: object, name: bytes, short: bytes, texts: Sequence[tuple[int, int]]
) -> tuple[int, int] | None:
    """Where the text of a cell lies, by its name; None if it is no text, or not surely there."""
    at = short.find(name)
    if type(cell) is not str or at < 0:
        return None
    start = short.find(b'"', at + len(name))
    literal = orjson.dumps(cell)
    if not short.startswith(literal, start):
        return None
    number = _MARKED.get(cell)
    if number is not None:
        return texts[number]
    start += 1 + _taken_out_before(start, texts)
    return start, start + len(literal) - 2


def _without(line: bytes, texts: Sequence[tuple[int, int]]) -> bytes:
    """A line with a mark in place of each of these texts."""
    if not texts:
        return line
    pieces: list[bytes] = []
    at = 0
    for mark, (start, end) in zip(_MARKS, texts, strict=False):
        pieces += (line[at:start], mark)
        at = end
    pieces.append(line[at:])
    return b"".join(pieces)


def _taken_out_before(place: int, texts: Sequence[tuple[int, int]]) -> int:
    """How many bytes more a line has before what is found at this place of it `_without` texts."""
    more = 0
    for mark, (start, end) in zip(_MARKS, texts, strict=False):
        if place < start - more:
            break
        more += end - start - len(mark)
    return more


def _as_written(
    line: bytes, texts: Sequence[tuple[int, int]], asked: Sequence[bool]
) -> tuple[bytes, list[tuple[int, int]]] | None:
    """The line, with those of its texts that are asked for written as orjson writes them, and where
    its texts lie then; None where one of them is no JSON."""
    pieces: list[bytes] = []
    places = []
    at = size = 0
    for (start, end), wanted in zip(texts, asked, strict=True):
        try:
            text = orjson.loads(line[start - 1 : end + 1])
            written = orjson.dumps(text)[1:-1] if wanted else line[start:end]
        except (orjson.JSONDecodeError, TypeError):
            return None
        pieces += (line[at:start], written)
        size += start - at
        places.append((size, size + len(written)))
        size += len(written)
        at = end
    pieces.append(line[at:])
    return b"".join(pieces), places
