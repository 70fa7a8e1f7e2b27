"""The form that lines of a jsonl file share: all that they have beside their texts.

Belongs here: telling it of a line that has been parsed, and finding it again in those after it. A
line of the same form as a line of JSON is JSON as well, with the same names: what differs are
strings, and of these it is known that they are (`line_blocks`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import orjson

from batch_pipeline.flow.columns import Wanted
from batch_pipeline.flow.line_blocks import Block


class Line(NamedTuple):
    """A common line without its end: its id, where it begins and ends, and where in it its texts
    lie, which are written as orjson would write them; see `row_json.places_of`."""

    id: str
    start: int
    end: int
    places: tuple[int, ...]


class Form(NamedTuple):
    """Quotes are counted from the first one of a line. The line begins with `head`, up to the quote
    `first`; each of `between` is what stands from one quote or line end up to another. `row_id` and
    `texts` are the quotes that begin them; `kinds` are all quotes and the line's end.
    """

    kinds: bytes
    quotes: int
    first: int
    head: bytes
    between: list[tuple[int, int, bytes]]
    row_id: int
    texts: list[int]

    def follow(
        self, block: Block, at: int, start: int, before: int, found: list[Line]
    ) -> tuple[int, int]:
        """Find the lines of this form that start here and end before a byte; their quotes are those
        from `at` on. Returns where the next line starts, and with which quote."""
        kinds, quotes, first, head, between, row_id, texts = self
        data, places, all_kinds = block.data, block.places, block.kinds
        while all_kinds.startswith(kinds, at):
            if data[start : places[at + first]] != head:
                break
            for begin, after, constant in between:
                if data[places[at + begin] : places[at + after]] != constant:
                    return at, start
            begin = at + row_id
            item_id = data[places[begin] + 1 : places[begin + 1]]
            end = places[at + quotes]
            if not item_id or b"\\" in item_id or end > before:
                break
            of_texts: list[int] = []
            for text in texts:
                begin = at + text
                of_texts += (places[begin] + 1 - start, places[begin + 1] - start)
            found.append(Line(item_id.decode(), start, end, tuple(of_texts)))
            at += len(kinds)
            start = places[at - 1] + 1
        return at, start


def form_of(block: Block, at: int, start: int, wanted: Wanted) -> Form | None:
    """The form of the common line that starts here; None if it is not all in what can be compared:
    its id is a number, it has a tab, a name comes twice."""
    data, kinds, places = block.data, block.kinds, block.places
    end = kinds.find(b"\n", at) + 1
    quotes = kinds.count(b'"', at, end)
    if not end or kinds[at:end].strip(b'"') not in (b"\n", b"\r\n"):
        return None
    bounds = places[at:end]
    names: list[str] = []
    cells: dict[str, int] = {}
    strings: list[int] = []
    depth = 0
    for quote in range(0, quotes, 2):
        before = data[bounds[quote - 1] if quote else start : bounds[quote]]
        depth += before.count(b"{") + before.count(b"[") - before.count(b"}") - before.count(b"]")
        if not data[bounds[quote + 1] + 1 : bounds[quote + 2]].lstrip().startswith(b":"):
            strings.append(quote)
            if depth == 1:
                cells[names[-1]] = quote
        elif depth == 1:
            names.append(orjson.loads(data[bounds[quote] : bounds[quote + 1] + 1]))
    asked = (wanted.id_column, *wanted.columns)
    if len(set(names)) < len(names) or not cells.keys() >= set(asked):
        return None
    ends = [*((quote + 1, after) for quote, after in pairwise(strings)), (strings[-1] + 1, quotes)]
    if len(bounds) > quotes + 1:
        ends.append((quotes, quotes + 1))
    return Form(
        kinds[at:end],
        quotes,
        strings[0],
        bytes(data[start : bounds[strings[0]]]),
        [(first, last, bytes(data[bounds[first] : bounds[last]])) for first, last in ends],
        cells[wanted.id_column],
        [cells[column] for column in wanted.columns],
    )
