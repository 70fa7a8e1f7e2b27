"""The common line of a jsonl file: its id, and where its texts lie.

Belongs here: what can be told of a line from where its quotes and escapes stand, so that long texts
are not parsed. Whatever is not common about a line (a long text within a list, a prompt of what is
no text, a mistake) leaves it to `formats.row_of_line` and `row_json`, which can read any line; of a
common one they would make the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

import orjson

from batch_pipeline.flow.dataset.columns import Wanted
from batch_pipeline.flow.dataset.line_blocks import Block, read_blocks
from batch_pipeline.flow.dataset.line_forms import Form, Line, form_of

# Longer texts are taken out of a line before it is parsed.
LONG_BYTES = 64
# How often in a block a form is made of a line, if lines are of many.
_FORMS_A_BLOCK = 4

_OPEN, _CLOSE = b"{}"
# Stands for a text that was taken out, with its number behind it. A line that has this character
# beside its long texts is not common, nor is one that may have it as an escape, or one that has
# more such texts than there are marks.
_MARK = b"\x7f"
_MARK_ESCAPED = b"\\u007"
_MARKS = [_MARK + b"%d" % number for number in range(100)]
_MARKED = {mark.decode(): number for number, mark in enumerate(_MARKS)}

Names = Sequence[tuple[str, bytes]]


class Lines(NamedTuple):
    """Common lines that follow each other in `data`, from `start` to `end`, which is overwritten
    once the next ones are read."""

    data: memoryview
    start: int
    end: int
    lines: list[Line]

    def text(self, number: int) -> bytes:
        """A copy of one of them."""
        _, start, end, _ = self.lines[number]
        return bytes(self.data[start:end])


def read_lines(stream: BinaryIO, size: int | None, wanted: Wanted) -> Iterator[Lines | bytes]:
    """All lines of a stream from where it stands, or those of its next `size` bytes, which end with
    a line: common ones together, any other one by itself, without its end.

    Lines end at \\n alone, not at U+2028.
    """
    finder = _Finder(wanted)
    for block in read_blocks(stream, size):
        if block.is_text:
            yield from finder.lines(block)
        else:
            yield from bytes(block.data[: block.size]).removesuffix(b"\n").split(b"\n")


class _Finder:
    """Finds common lines, before all by the form that those before them had."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._names = [(column, orjson.dumps(column) + b":") for column in wanted.columns]
        self._form: Form | None = None

    def lines(self, block: Block) -> Iterator[Lines | bytes]:
        together, form = _Together(block), self._form
        odd, unusual = 0, [*block.unusual, block.size]
        forms_left, missed = _FORMS_A_BLOCK, form is None
        start = at = 0
        while start < block.size:
            if form is not None:
                followed: list[Line] = []
                at, end = form.follow(block, at, start, unusual[odd], followed)
                if followed:
                    yield from together.add(followed, start)
                    missed = False
                start = end
                if start == block.size:
                    break
            after, end = block.next_line(at)
            found = self._parsed(block, at, after, start, end, escaped=unusual[odd] < end)
            odd = bisect_left(unusual, end, odd)
            if isinstance(found, bytes):
                yield from together.taken(start)
                yield found
            elif isinstance(found, _Found):
                yield from together.add_anew(found, start)
            else:
                yield from together.add([found], start)
                if missed and forms_left:
                    form = self._form = form_of(block, at, start, self._wanted)
                    forms_left -= 1
            missed = True
            start, at = end, after
        yield from together.taken(block.size)

    def _parsed(
        self, block: Block, at: int, after: int, start: int, end: int, *, escaped: bool
    ) -> Line | _Found | bytes:
        """The line from `start` to `end`, whose quotes and the like are those from `at` to `after`:
        a common one as it lies there, or written anew; any other one by itself."""
        kinds, places = block.kinds, block.places
        if kinds.endswith(b"\n", at, after):
            after, end = after - 1, end - 1
            if kinds.endswith(b"\r", at, after) and places[after - 1] == end - 1:
                after, end = after - 1, end - 1
        text = bytes(block.data[start:end])
        quotes = places[at:after]
        if not (
            kinds.count(b'"', at, after) == len(quotes)
            and len(quotes) % 2 == 0
            and len(text) > 1
            and text[0] == _OPEN
            and text[-1] == _CLOSE
        ):
            return text
        texts = [
            (first + 1 - start, last - start)
            for first, last in zip(quotes[::2], quotes[1::2], strict=True)
            if last - first > LONG_BYTES + 1
        ]
        found = _common(text, texts, escaped, self._wanted.id_column, self._names)
        if found is None:
            return text
        return (found.id, start, end, found.places) if found.text is text else found


class _Found(NamedTuple):
    """A common line, perhaps written anew."""

    text: bytes
    id: str
    places: tuple[int, ...]


class _Together:
    """Common lines as they follow each other, in their block or written anew."""

    def __init__(self, block: Block) -> None:
        self._view = memoryview(block.data)
        self._lines: list[Line] = []
        self._start = 0
        self._anew = bytearray()

    def add(self, lines: list[Line], start: int) -> Iterator[Lines]:
        """Lines that lie in the block from `start` on; returns those before if they do not."""
        if self._anew:
            yield from self.taken(start)
        if not self._lines:
            self._start = start
        self._lines += lines

    def add_anew(self, found: _Found, start: int) -> Iterator[Lines]:
        if not self._anew:
            yield from self.taken(start)
        at = len(self._anew)
        self._anew += found.text
        self._lines.append((found.id, at, len(self._anew), found.places))
        self._anew += b"\n"

    def taken(self, end: int) -> Iterator[Lines]:
        """What has come together, up to this byte of the block."""
        lines, anew = self._lines, self._anew
        self._lines, self._anew = [], bytearray()
        if anew:
            yield Lines(memoryview(anew), 0, len(anew), lines)
        elif lines:
            yield Lines(self._view, self._start, end, lines)


def _common(
    line: bytes,
    texts: Sequence[tuple[int, int]],
    escaped: bool,
    id_column: str,
    names: Names,
) -> _Found | None:
    """A line whose long texts lie at these places, if it is a common one."""
    short = _without(line, texts)
    if short.count(_MARK) != len(texts):
        return None
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
    return _Found(line, row_id, tuple(places))


def _cells(short: bytes, texts: int, *, escaped: bool) -> dict[str, Any]:
    """The cells of a line with marks in place of so many texts; none unless each of them is the
    whole of a cell: not a name, not part of a list or an object, not the former of two."""
    if escaped and _MARK_ESCAPED in short:
        return {}
    try:
        cells: dict[str, Any] = orjson.loads(short)
    except orjson.JSONDecodeError:
        return {}
    if texts and sum([type(cell) is str and cell in _MARKED for cell in cells.values()]) != texts:
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
