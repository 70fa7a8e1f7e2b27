"""A jsonl file block by block: whole lines, and where their quotes, escapes and line ends stand.

Belongs here: what can be told of many lines at once from their bytes alone. What a line is made of
them is for `line_forms` and `regular_rows` to say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# What is looked through several times stays in the processor's cache.
BLOCK_BYTES = 512 << 10
_LARGE_BYTES = 4 << 20

_QUOTE, _BACKSLASH, _BLANK = b'"\\ '
# What may follow a backslash in JSON as orjson writes it. It writes `\u001f` and the like too, so
# rarely that these may be parsed.
_USUAL = np.zeros(256, dtype=bool)
_USUAL[list(b'"\\bfnrt')] = True

Positions = npt.NDArray[np.int64]


class Block(NamedTuple):
    """The first `size` bytes of `data`: lines, of which the last one of a file may lack its end.

    `kinds` are its quotes, without those that are escaped, and its control characters; `places` is
    where each of them stands. `unusual` is where escapes stand that orjson would hardly write.
    Nothing of that is known of a block that is no UTF-8, which `is_text` says.
    """

    data: bytearray
    size: int
    kinds: bytes = b""
    places: Sequence[int] = ()
    unusual: Sequence[int] = ()
    is_text: bool = True

    def next_line(self, at: int) -> tuple[int, int]:
        """Where the line ends that these quotes begin: behind which of them, and behind which byte
        of the block."""
        end = self.kinds.find(b"\n", at)
        return (len(self.kinds), self.size) if end < 0 else (end + 1, self.places[end] + 1)


def read_blocks(stream: BinaryIO, size: int | None) -> Iterator[Block]:
    """A stream from where it stands, or its next `size` bytes, which end with a line. A block is
    there until the next one is read."""
    left = sys.maxsize if size is None else size
    buffer = _Buffer(BLOCK_BYTES)
    filled = 0
    while True:
        if filled == len(buffer.data):
            # For a line of some megabytes not step by step; for one that is larger, no more than
            # twice of what it takes.
            former, buffer = buffer, _Buffer(filled * (4 if filled < _LARGE_BYTES else 2))
            buffer.data[:filled] = former.data
        # No more than a block, even where a long line has made room for more.
        room = memoryview(buffer.data)[filled : filled + min(left, BLOCK_BYTES)]
        count = stream.readinto(room)  # type: ignore[attr-defined]  # all have it
        if not count:
            if filled:
                yield buffer.look_through(filled)
            return
        left -= count
        end = buffer.data.rfind(b"\n", filled, filled + count) + 1
        filled += count
        if end:
            yield buffer.look_through(end)
            filled -= end
            buffer.data[:filled] = buffer.data[end : end + filled]


class _Buffer:
    """What a block is read into, and looked through with. It is used again: new memory for each
    block would cost more than all that is done with it here."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self._raw = np.frombuffer(self.data, np.uint8)
        self._marks = np.zeros(-(-size // 8) * 8, np.uint8)

    def look_through(self, size: int) -> Block:
        raw, marks = self._raw[:size], self._marks[:size]
        is_marked = marks.view(bool)
        if not _is_utf8(raw):
            return Block(self.data, size, is_text=False)
        unusual: list[int] = []
        quoted = None
        if self.data.find(b"\\", 0, size) >= 0:
            np.equal(raw, _BACKSLASH, out=is_marked)
            escapes = _escapes(np.flatnonzero(is_marked))
            # One at the very end escapes nothing; its line does not end as a row does.
            after = np.minimum(escapes + 1, size - 1)
            kinds = raw[after]
            unusual = escapes[~_USUAL[kinds]].tolist()
            quoted = after[kinds == _QUOTE]
        # With this bit turned over, control characters and quotes are the lowest that there are.
        np.bitwise_xor(raw, _QUOTE ^ _BLANK, out=marks)
        np.less_equal(marks, _BLANK, out=is_marked)
        if quoted is not None:
            is_marked[quoted] = False
        places = self._marked(size)
        return Block(self.data, size, raw[places].tobytes(), places.tolist(), unusual)

    def _marked(self, size: int) -> Positions:
        """The places that have a mark. They are few, so that it is looked for eight bytes that have
        any first: `flatnonzero` alone takes twice as long."""
        marks = self._marks[: -(-size // 8) * 8]
        marks[size:] = 0
        eights = np.flatnonzero(marks.view(np.uint64) != 0)
        within = np.flatnonzero(marks.reshape(-1, 8)[eights])
        places: Positions = (eights[within >> 3] << 3) + (within & 7)
        return places


def _escapes(backslashes: Positions) -> Positions:
    """Of the places of all backslashes those that begin an escape: of a run each second one."""
    follows = np.diff(backslashes, prepend=-2) == 1
    if follows.any():
        numbers = np.arange(len(backslashes))
        run_starts = np.maximum.accumulate(np.where(follows, 0, numbers))
        backslashes = backslashes[(numbers - run_starts) % 2 == 0]
    return backslashes


def _is_utf8(data: npt.NDArray[np.uint8]) -> bool:
    offsets = pa.py_buffer(np.array([0, len(data)], np.int64))
    text = pa.LargeStringArray.from_buffers(1, offsets, pa.py_buffer(data))
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
