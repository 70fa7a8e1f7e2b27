"""Distributions: mean, quantiles, and bins with round borders for a histogram.

Belongs here: how borders are chosen and values counted. `charts` draws them. The counts may come
from a database, so that the values need not be in memory.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

MOST_BINS = 24
# Round steps between borders: of numbers (by power of ten), and of times in seconds.
ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)
SECONDS = (
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10800,
    14400,
    21600,
    43200,
)


@dataclass(frozen=True)
class Bins:
    """Borders `start`, `start + step` …; the last of `count` bins holds all that is larger."""

    start: float
    step: float
    count: int

    @classmethod
    def round(cls, low: float, high: float) -> Bins:
        """Bins from `low` to `high` with round borders, for counts."""
        return cls._over(low, high, max(1.0, round_step((high - low) / MOST_BINS)))

    @classmethod
    def of_seconds(cls, low: float, high: float) -> Bins:
        """Bins from `low` to `high` for times, with borders at whole seconds, minutes or hours."""
        return cls._over(low, high, clock_step((high - low) / MOST_BINS))

    @classmethod
    def _over(cls, low: float, high: float, step: float) -> Bins:
        start = math.floor(low / step) * step
        return cls(start, step, max(1, math.floor((high - start) / step) + 1))


@dataclass(frozen=True)
class Distribution:
    """Values of which `counts` fall into the `bins`; median and P95 are by nearest rank."""

    values: int
    minimum: float
    mean: float
    median: float
    p95: float
    maximum: float
    bins: Bins
    counts: tuple[int, ...]

    @classmethod
    def of_seconds(cls, values: Sequence[float]) -> Distribution | None:
        """The distribution of times; None where there are none."""
        if not values:
            return None
        ordered = sorted(values)
        bins = Bins.of_seconds(ordered[0], ordered[-1])
        borders = [bins.start + bins.step * index for index in range(bins.count)]
        counts = [0] * bins.count
        for value in ordered:
            counts[max(0, bisect_right(borders, value) - 1)] += 1
        median, p95 = (ordered[nearest_rank(len(ordered), share)] for share in (0.5, 0.95))
        return cls(
            len(ordered), ordered[0], mean(ordered), median, p95, ordered[-1], bins, tuple(counts)
        )

    def as_json(self, digits: int = 3) -> dict[str, Any]:
        return {
            "count": self.values,
            "min": round(self.minimum, digits),
            "mean": round(self.mean, digits),
            "median": round(self.median, digits),
            "p95": round(self.p95, digits),
            "max": round(self.maximum, digits),
            "histogram": [
                {"from": round(self.bins.start + index * self.bins.step, digits), "count": count}
                for index, count in enumerate(self.counts)
            ],
        }


def nearest_rank(count: int, share: float) -> int:
    """Where a quantile stands among `count` ascending values: the smallest that at least this share
    of them do not exceed.

    DuckDB's `quantile_disc` has the same rule, so that a P95 is the same figure everywhere.
    """
    # Rounded, because 0.07 * 100 is 7.000000000000001.
    return max(1, math.ceil(round(share * count, 9))) - 1


def round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is not less than `least`."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in ROUND if power * factor >= least * (1 - 1e-9))


def clock_step(least: float) -> float:
    """The smallest of `SECONDS` that is not less than `least`; half a day at most."""
    return next((step for step in SECONDS if step >= least), SECONDS[-1])
