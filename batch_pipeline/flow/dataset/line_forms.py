"""The form that lines of a jsonl file share: all that they have beside their texts.

Belongs here: telling it of a line that has been parsed, and finding it again in those after it. A
line of the same form as a line of JSON is JSON as well, with the same names: what differs are
strings, and of these it is known that they are (`line_blocks`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import orjson

from batch_pipeline.flow.dataset.columns import Wanted
from batch_pipeline.flow.dataset.line_blocks import Block

# A cell that is no string and may differ from line to line. Of numbers only those that JSON readers
# agree on, and of ids those that are written as Python writes them.
_SCALAR = rb"(?:-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?|true|false|null)"
_ID = rb"(0|[1-9][0-9]{0,17})"
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|([-0-9][-+.0-9eE]*|true|false|null)')
_NAME_END = re.compile(rb"[ \t]*:[ \t]*")


# A common line without its end: its id, where it begins and ends, and where in it its texts lie,
# which are written as orjson would write them; see `row_json.places_of`. A plain tuple, because one
# is made of each line.
Line = tuple[str, int, int, tuple[int, ...]]


class Between(NamedTuple):
    """What stands between two strings of a line: what is `constant`, or whatever fits `varying`, of
    which the only group is the id."""

    first: int
    last: int
    constant: bytes
    varying: re.Pattern[bytes] | None


class Form(NamedTuple):
    """Quotes are counted from the first one of a line (-1: where it starts); `kinds` are all of
    them and its end. `texts` are those that begin the texts of the prompt, `row_id` the one of the
    id, unless it is a number `between`.
    """

    kinds: bytes
    quotes: int
    between: list[Between]
    row_id: int | None
    texts: list[int]

    def follow(
        self, block: Block, at: int, start: int, before: int, found: list[Line]
    ) -> tuple[int, int]:
        """Find the lines of this form that start here and end before a byte; their quotes are those
        from `at` on. Returns with which quote the next line begins, and where."""
        kinds, quotes, between, row_id, texts = self
        data, places, all_kinds = block.data, block.places, block.kinds
        item_id: bytes | bytearray = b""
        while all_kinds.startswith(kinds, at):
            for first, last, constant, varying in between:
                part = data[places[at + first] if first >= 0 else start : places[at + last]]
                if part == constant:
                    continue
                match = varying and varying.fullmatch(part)
                if not match:
                    return at, start
                if match.lastindex:
                    item_id = match[1]
            if row_id is not None:
                begin = at + row_id
                item_id = data[places[begin] + 1 : places[begin + 1]]
            end = places[at + quotes]
            if not item_id or b"\\" in item_id or end > before:
                break
            of_texts: list[int] = []
            for text in texts:
                begin = at + text
                of_texts += (places[begin] + 1 - start, places[begin + 1] - start)
            found.append((item_id.decode(), start, end, tuple(of_texts)))
            at += len(kinds)
            start = places[at - 1] + 1
        return at, start


def form_of(block: Block, at: int, start: int, wanted: Wanted) -> Form | None:
    """The form of the common line that starts here; None if that cannot be told: it has a tab, a
    name comes twice."""
    data, kinds, places = block.data, block.kinds, block.places
    end = kinds.find(b"\n", at) + 1
    quotes = kinds.count(b'"', at, end)
    if not end or kinds[at:end].strip(b'"') not in (b"\n", b"\r\n"):
        return None
    bounds = places[at:end]
    names: list[str] = []
    cells: dict[str, int] = {}
    strings: list[int] = []
    id_at = None
    depth = 0
    for quote in range(0, quotes, 2):
        before = data[bounds[quote - 1] if quote else start : bounds[quote]]
        depth += before.count(b"{") + before.count(b"[") - before.count(b"}") - before.count(b"]")
        behind = _NAME_END.match(data, bounds[quote + 1] + 1)
        if behind is None:
            strings.append(quote)
            if depth == 1:
                cells[names[-1]] = quote
        elif depth == 1:
            names.append(orjson.loads(data[bounds[quote] : bounds[quote + 1] + 1]))
            if names[-1] == wanted.id_column:
                id_at = behind.end()
    row_id = cells.get(wanted.id_column)
    if len(set(names)) < len(names) or not cells.keys() >= set(wanted.columns):
        return None
    firsts, lasts = [-1, *(quote + 1 for quote in strings)], [*strings, quotes]
    if len(bounds) > quotes + 1:
        firsts.append(quotes)
        lasts.append(quotes + 1)
    between = [
        _between(data, (start, *bounds), (first, last), id_at if row_id is None else None)
        for first, last in zip(firsts, lasts, strict=True)
    ]
    texts = [cells[column] for column in wanted.columns]
    return Form(kinds[at:end], quotes, between, row_id, texts)


def _between(
    data: bytearray, bounds: Sequence[int], ends: tuple[int, int], id_at: int | None
) -> Between:
    """What stands from one of `bounds` to another, by numbers that are one less than theirs; a
    number at `id_at` is the id."""
    first, last = ends
    begin = bounds[first + 1]
    text = bytes(data[begin : bounds[last + 1]])
    pieces: list[bytes] = []
    after = groups = 0
    # The quote that it begins with, if it is not the line's beginning, is the end of a string.
    for token in _TOKENS.finditer(text, first >= 0):
        if token[1] is None:
            continue
        is_id = begin + token.start(1) == id_at
        groups += is_id
        pieces += (re.escape(text[after : token.start(1)]), _ID if is_id else _SCALAR)
        after = token.end(1)
    if not pieces:
        return Between(first, last, text, None)
    pattern = re.compile(b"".join([*pieces, re.escape(text[after:])]))
    return Between(first, last, b"" if groups else text, pattern)
