"""Groups of equal count by length, from short to long, and samples that have one of each.

Belongs here: arithmetic over the sizes of requests, which come in the order of their snapshot.
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
    """Where the requests of each group stand; of equal ones the earlier is the shorter. The first
    groups have one more than the last, and none is empty."""
    order = np.argsort(sizes, kind="stable")
    return np.array_split(order, min(count, len(order))) if len(order) else []


def lots(units: Iterable[str], seed: str = "") -> Lots:
    """A number for each unit that follows from it and the seed alone."""
    digests = b"".join(hashlib.md5((unit + seed).encode()).digest()[:8] for unit in units)  # noqa: S324
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def drawn(sizes: Numbers, drawn_by: Lots, count: int) -> Numbers:
    """Where a sample stands, in ascending order: of each of so many groups the smallest lot."""
    found = [group[np.argmin(drawn_by[group])] for group in by_length(sizes, count)]
    return np.sort(np.array(found, dtype=np.int64))


def joined(columns: Iterable[pa.ChunkedArray]) -> Numbers:
    """Columns of int64, which come one after the other, as one array."""
    parts = [column.to_numpy() for column in columns]
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
