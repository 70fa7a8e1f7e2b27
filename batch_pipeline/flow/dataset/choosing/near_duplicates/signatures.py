"""Signatures of texts: two texts have about the share of equal numbers in them that they have in
common.

A text is the set of its pieces of 24 bytes, at each byte, white space collapsed; so it needs no
words, and serves Chinese and Japanese alike. Of these pieces one in eight is taken, chosen by what
is in it, and MinHash makes 112 numbers of them. The library is an extra of the package.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from batch_pipeline.errors import UsageError

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.uint32]

NUMBERS = 112
PIECE_BYTES = 24
# A text with fewer chosen pieces than this is represented by all of them: of so few, two texts that
# differ in one place would seem to differ much, or not at all.
LEAST_PIECES = 32
_SEED = 20
# Pieces are hashed in stretches of a text, because each byte takes 8 bytes several times meanwhile.
_STRETCH_BYTES = 1 << 20
# Texts whose signatures are made together: a call for each would cost as much as the rest.
_TOGETHER = 256
_HASHES_TOGETHER = 1 << 20
_ODD = [np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)]
_HALF, _EIGHTH = np.uint64(32), np.uint64(61)


def require() -> None:
    """Raise UsageError where the library is not installed."""
    if importlib.util.find_spec("rensa") is None:
        raise UsageError(
            "near_duplicates needs a library that is not installed: "
            "pip install 'batch-pipeline[near-duplicates]'"
        )


def pieces_of(text: str) -> Hashes:
    """Hashes of the chosen pieces of a text, in no order; the same piece may occur repeatedly."""
    data = np.frombuffer(" ".join(text.split()).encode(), np.uint8)
    if len(data) < PIECE_BYTES:
        data = np.concatenate([data, np.zeros(PIECE_BYTES - len(data), np.uint8)])
    stretches = range(0, len(data) - PIECE_BYTES + 1, _STRETCH_BYTES)
    ends = [start + _STRETCH_BYTES + PIECE_BYTES - 1 for start in stretches]
    parts = [_chosen(_hashed(data[start:end])) for start, end in zip(stretches, ends, strict=True)]
    chosen = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return chosen if len(chosen) >= LEAST_PIECES else _hashed(data[:_STRETCH_BYTES])


def _hashed(data: Bytes) -> Hashes:
    """A hash of the 24 bytes at each place."""
    count = len(data) - PIECE_BYTES + 1
    # Eight bytes at each place as one number: a view, not a copy.
    words = np.ndarray((len(data) - 7,), "<u8", np.ascontiguousarray(data), strides=(1,))
    hashed = words[:count] * _ODD[0]
    for at, odd in zip((8, 16), _ODD[1:], strict=True):
        hashed ^= hashed >> _HALF
        hashed += words[at : at + count]
        hashed *= odd
    hashed ^= hashed >> _HALF
    hashed *= _ODD[0]
    return hashed


def _chosen(hashed: Hashes) -> Hashes:
    chosen: Hashes = hashed[hashed >> _EIGHTH == 0]
    return chosen


def signatures_of(pieces: Sequence[Hashes]) -> Numbers:
    """The signatures of texts, a row of `NUMBERS` each, given their pieces."""
    from rensa import RMinHash  # noqa: PLC0415  # an extra

    if not pieces:
        return np.empty((0, NUMBERS), np.uint32)
    ends = np.cumsum([0, *map(len, pieces)], dtype=np.uint64)
    together: Any = RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(pieces), ends, NUMBERS, _SEED
    )
    return np.array(together.to_rows(), np.uint32)


class SignatureFile:
    """Writes the signatures of rows into a local file: for each its ordinal, a group, and its
    numbers. Rows of different groups, which are asked in different ways, are no twins.

    Without a path nothing is to be added.
    """

    ROW = np.dtype([("ordinal", "<i8"), ("group", "<u4"), ("numbers", "<u4", (NUMBERS,))])

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._ordinals: list[int] = []
        self._groups: list[int] = []
        self._pieces: list[Hashes] = []
        self._hashes = 0

    def __enter__(self) -> Self:
        if self.path is not None:
            self._file = self.path.open("wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            if kind is None:
                self._flush()
            self._file.close()

    def add(self, ordinal: int, text: str, group: int = 0) -> None:
        pieces = pieces_of(text)
        self._ordinals.append(ordinal)
        self._groups.append(group)
        self._pieces.append(pieces)
        self._hashes += len(pieces)
        if len(self._pieces) >= _TOGETHER or self._hashes >= _HASHES_TOGETHER:
            self._flush()

    def _flush(self) -> None:
        assert self._file is not None
        rows = np.empty(len(self._pieces), self.ROW)
        rows["ordinal"], rows["group"] = self._ordinals, self._groups
        rows["numbers"] = signatures_of(self._pieces)
        self._file.write(rows.tobytes())
        self._ordinals, self._groups, self._pieces, self._hashes = [], [], [], 0
