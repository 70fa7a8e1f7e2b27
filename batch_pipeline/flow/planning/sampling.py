"""Samples over all lengths of requests: one request from each group of similar length.

Belongs here: arithmetic over the sizes of requests, in the order of their snapshot, and by route.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

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


class Lengths:
    """The size of each open unit's prompt, and with a seed what a sample is drawn by: 24 bytes a
    unit."""

    def __init__(self, units: Iterable[pa.Table], seed: str | None) -> None:
        sizes, ordinals, drawn_by = [], [], []
        routes: dict[str | None, list[Numbers]] = {}
        # By route, the tokens of all pages and images.
        self.visual_tokens: Counter[str | None] = Counter()
        rows = 0
        for table in units:
            sizes.append(table.column("prompt_size"))
            ordinals.append(table.column("ordinal"))
            if seed is not None:
                drawn_by.append(lots(table.column("unit").to_pylist(), seed))
            visual = table.column("visual_tokens")
            for route, places in _places_by_route(table.column("route")).items():
                routes.setdefault(route, []).append(places + rows)
                self.visual_tokens[route] += pc.sum(visual.take(pa.array(places))).as_py() or 0
            rows += table.num_rows
        self.sizes = joined(sizes)
        self._ordinals = joined(ordinals)
        self._lots = drawn_by
        self._routes = routes

    def by_route(self) -> dict[str | None, Numbers]:
        """The positions of the units of each route, the job's own first."""
        found = {route: np.concatenate(parts) for route, parts in self._routes.items()}
        return dict(sorted(found.items(), key=lambda pair: (pair[0] is not None, pair[0] or "")))

    def among(self, places: Numbers, ordinals: Numbers) -> list[int]:
        """Those of these ordinals that units at these positions have."""
        found: list[int] = self._ordinals[places][
            np.isin(self._ordinals[places], ordinals)
        ].tolist()
        return found

    def drawn(self, count: int) -> Numbers:
        """The ordinals of a sample, ascending."""
        if not len(self.sizes):
            return self._ordinals
        by_lot, routes = np.concatenate(self._lots), list(self.by_route().values())
        shares = by_share([len(places) for places in routes], count)
        found = [
            places[drawn(self.sizes[places], by_lot[places], n)]
            for places, n in zip(routes, shares, strict=True)
            if n
        ]
        ordinals: Numbers = self._ordinals[np.sort(np.concatenate(found))]
        return ordinals


def _places_by_route(routes: pa.ChunkedArray) -> dict[str | None, Numbers]:
    if routes.null_count == len(routes):
        return {None: np.arange(len(routes), dtype=np.int64)} if len(routes) else {}
    return {
        route: np.flatnonzero(
            (pc.is_null(routes) if route is None else pc.fill_null(pc.equal(routes, route), False))
            .combine_chunks().to_numpy(zero_copy_only=False)
        ).astype(np.int64)
        for route in routes.unique().to_pylist()
    }  # fmt: skip
