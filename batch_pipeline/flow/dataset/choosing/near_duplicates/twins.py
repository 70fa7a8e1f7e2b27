"""Finds the twins in a file of signatures: rows that are nearly the same as an earlier one.

Two rows are compared if four neighbouring numbers of their signatures are the same (one of 28
bands): such rows lie side by side when a band is sorted. Memory does not depend on the length of
the texts: 100 bytes a row, and the signatures stay on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from batch_pipeline.flow.dataset.choosing.near_duplicates.signatures import (
    NUMBERS,
    Numbers,
    SignatureFile,
)

Places = npt.NDArray[np.int64]

BAND = 4
# Bands that are read from the file together: 8 bytes a row for each of them.
_BANDS_TOGETHER = 4
_ROWS_READ = 1 << 15
# Rows whose signatures are held at once.
_ROWS_HELD = 1 << 14
# Rows of the same band are compared with the first of them and with this number of neighbours: of a
# thousand equal forms all pairs would be half a million.
_NEIGHBOURS = 8
# Rows that are similar in a chain, of which many are the first of their kind: beyond this number of
# leaders the rest of a group is asked.
_MOST_LEADERS = 64


@dataclass(frozen=True)
class Twins:
    """Rows that may share an answer, by ordinal: for each its leader, an earlier row, and the
    similarity of the two, which is at least the threshold."""

    ordinals: Places
    leaders: Places
    similarities: npt.NDArray[np.float64]


def find(path: Path, threshold: float, passed_over: Places) -> Twins:
    """The twins among the rows of a file, whose ordinals ascend, but those that are `passed_over`
    (ordinals, ascending)."""
    ordinals = _ordinals(path)
    asked = ~np.isin(ordinals, passed_over, assume_unique=True)
    parents = np.arange(len(ordinals))
    for keys in _bands(path, len(ordinals)):
        for pairs in _in_pieces(_neighbours(keys, asked), parents):
            same = _similarities(path, *pairs) >= threshold
            for one, other in zip(pairs[0][same].tolist(), pairs[1][same].tolist(), strict=True):
                _join(parents, one, other)
    found = list(_led(path, threshold, parents))
    twins, leaders, similarities = (
        np.concatenate([part[at] for part in found]) if found else np.empty(0) for at in range(3)
    )
    order = np.argsort(twins)
    places = twins[order].astype(np.int64), leaders[order].astype(np.int64)
    return Twins(ordinals[places[0]], ordinals[places[1]], similarities[order])


def _ordinals(path: Path) -> Places:
    parts = [rows["ordinal"].copy() for rows in _read(path)]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _read(path: Path) -> Iterator[npt.NDArray[np.void]]:
    with path.open("rb") as file:
        while len(rows := np.fromfile(file, SignatureFile.ROW, _ROWS_READ)):
            yield rows


def _bands(path: Path, rows: int) -> Iterator[npt.NDArray[np.uint64]]:
    """For each band the numbers of all rows in it, with their group, as a hash."""
    bands = range(NUMBERS // BAND)
    odd = np.uint64(0x9E3779B97F4A7C15)
    for first in range(0, len(bands), _BANDS_TOGETHER):
        some = bands[first : first + _BANDS_TOGETHER]
        keys = np.empty((len(some), rows), np.uint64)
        at = 0
        for block in _read(path):
            numbers, group = block["numbers"], block["group"] * odd
            for key, band in zip(keys, some, strict=True):
                four = np.ascontiguousarray(numbers[:, BAND * band : BAND * (band + 1)])
                two = four.view(np.uint64)
                mixed = two[:, 0] * odd
                mixed ^= mixed >> np.uint64(29)
                key[at : at + len(block)] = (mixed + two[:, 1] + group) * odd
            at += len(block)
        yield from keys


def _neighbours(
    keys: npt.NDArray[np.uint64], asked: npt.NDArray[np.bool_]
) -> Iterator[tuple[Places, Places]]:
    """Pairs of rows, the earlier first, that have the same key."""
    rows = np.flatnonzero(asked)
    order = rows[np.argsort(keys[rows])]
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    repeated = np.zeros(len(order), bool)
    repeated[1:] = same
    repeated[:-1] |= same
    # Few keys occur more than once: the order of rows with the same key is made for these alone.
    order = np.sort(order[repeated])
    order = order[np.argsort(keys[order], kind="stable")]
    at = np.arange(len(order))
    begins = np.ones(len(order), bool)
    begins[1:] = keys[order[1:]] != keys[order[:-1]]
    first = np.maximum.accumulate(np.where(begins, at, 0))
    at = at[first < at]
    yield order[first[at]], order[at]
    for distance in range(1, _NEIGHBOURS + 1):
        before = at[at - distance > first[at]]
        yield order[before - distance], order[before]


def _in_pieces(
    found: Iterator[tuple[Places, Places]], parents: Places
) -> Iterator[tuple[Places, Places]]:
    """Pairs that are not in one group yet, as many at a time as can be compared."""
    for earlier, later in found:
        for start in range(0, len(earlier), _ROWS_HELD):
            one, other = earlier[start : start + _ROWS_HELD], later[start : start + _ROWS_HELD]
            apart = _roots(parents, one) != _roots(parents, other)
            if apart.any():
                yield one[apart], other[apart]


def _roots(parents: Places, rows: Places) -> Places:
    while True:
        above = parents[rows]
        if (above == rows).all():
            return rows
        rows = above


def _join(parents: Places, one: int, other: int) -> None:
    """Put two rows into one group, whose root is its earliest row."""
    roots = sorted((_root(parents, one), _root(parents, other)))
    parents[roots[1]] = roots[0]


def _root(parents: Places, row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = int(parents[row])
    return row


def _led(
    path: Path, threshold: float, parents: Places
) -> Iterator[tuple[Places, Places, npt.NDArray[np.float64]]]:
    """Rows of groups with their leaders: each meets the threshold with its leader itself.

    The earliest row of a group leads those that are similar to it; of the others again the earliest
    does.
    """
    left = np.arange(len(parents))
    leaders = _roots(parents, left)
    groups = leaders
    for _ in range(_MOST_LEADERS):
        led = left != leaders
        left, leaders, groups = left[led], leaders[led], groups[led]
        if not len(left):
            return
        found = _similarities(path, leaders, left)
        twins = found >= threshold
        yield left[twins], leaders[twins], found[twins]
        left, groups = left[~twins], groups[~twins]
        # The first of each group that is left leads its rest.
        order = np.argsort(groups, kind="stable")
        left, groups = left[order], groups[order]
        begins = np.flatnonzero(np.diff(groups, prepend=-1))
        leaders = np.repeat(left[begins], np.diff(begins, append=len(left)))


def _similarities(path: Path, one: Places, other: Places) -> npt.NDArray[np.float64]:
    """The share of equal numbers of each two rows."""
    found = []
    for start in range(0, len(one), _ROWS_HELD):
        places = [each[start : start + _ROWS_HELD] for each in (one, other)]
        first, second = _numbers(path, places)
        found.append((first == second).mean(axis=1))
    return np.concatenate(found) if found else np.empty(0)


def _numbers(path: Path, places: Sequence[Places]) -> list[Numbers]:
    """The signatures of rows. They are read one by one: of a mapped file the kernel would count
    sixteen pages for each row as memory of this process."""
    size, length = SignatureFile.ROW.itemsize, NUMBERS * np.dtype(np.uint32).itemsize
    # They end the row.
    start = size - length
    with path.open("rb") as file:
        descriptor = file.fileno()
        found = [
            b"".join(os.pread(descriptor, length, size * row + start) for row in rows.tolist())
            for rows in places
        ]
    return [np.frombuffer(data, "<u4").reshape(-1, NUMBERS) for data in found]
