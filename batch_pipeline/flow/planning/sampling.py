"""Samples over all lengths of requests: one request from each group of similar length.

Belongs here: arithmetic over the sizes of requests, in the order of their snapshot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

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


def joined(columns: Iterable[pa.ChunkedArray]) -> Numbers:
    """Columns of int64 as one array, one after the other."""
    parts = [column.to_numpy() for column in columns]
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
