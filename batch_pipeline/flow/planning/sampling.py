"""Samples over all lengths of requests: one request from each group of similar length.

Belongs here: arithmetic over the sizes of requests, in the order of their snapshot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Numbers = npt.NDArray[np.int64]
Lots = npt.NDArray[np.uint64]


def by_length(sizes: Numbers, count: int) -> list[Numbers]:
    """The positions of the requests of each of `count` groups, from short to long.

    Of requests of equal size the earlier counts as shorter. Groups differ by at most one request,
    the first ones being larger; where there are fewer requests there are fewer groups.
    """
    order = np.argsort(sizes, kind="stable")
    return np.array_split(order, min(count, len(order))) if len(order) else []


def lots(units: Iterable[str], seed: str = "") -> Lots:
    """A pseudo-random number for each unit, which follows from the unit and the seed alone."""
    digests = b"".join(hashlib.md5((unit + seed).encode()).digest()[:8] for unit in units)  # noqa: S324
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def drawn(sizes: Numbers, drawn_by: Lots, count: int) -> Numbers:
    """The positions of a sample, ascending: the smallest lot of each of `count` groups."""
    found = [group[np.argmin(drawn_by[group])] for group in by_length(sizes, count)]
    return np.sort(np.array(found, dtype=np.int64))


def by_share(sizes: Sequence[int], count: int) -> list[int]:
    """How many of a sample of `count` are drawn from groups of these sizes: by their share, and one
    at least of each as far as that goes; the largest first. None has more than its size."""
    count = min(count, sum(sizes))
    order = sorted(range(len(sizes)), key=lambda place: (-sizes[place], place))
    found = [0] * len(sizes)
    for place in order[:count]:
        found[place] = min(1, sizes[place])
    while (left := count - sum(found)) > 0:
        # The group whose share of the sample lacks most of its share of all.
        want = [count * size / sum(sizes) - n for size, n in zip(sizes, found, strict=True)]
        open_ = [place for place in order if found[place] < sizes[place]]
        best = max(open_, key=lambda place: want[place])
        found[best] += min(left, max(1, int(want[best])), sizes[best] - found[best])
    return found


def joined(columns: Iterable[pa.ChunkedArray]) -> Numbers:
    """Columns of int64 as one array, one after the other."""
    parts = [column.to_numpy() for column in columns]
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
