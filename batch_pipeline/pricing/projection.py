"""From the cost of a sample to the cost of a night: a point, and an interval around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import NormalDist, stdev

# Of 100 nights with a sample like this, 95 cost something within the interval.
CONFIDENCE = 0.95
# Student's t at that confidence for the fewest answers, where the approximation is not good yet.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}


@dataclass(frozen=True)
class Projection:
    """USD for the whole night: expected, and between which amounts with 95 % confidence.

    `low` and `high` are None where a single answer tells nothing of how they differ.
    """

    expected: Decimal
    low: Decimal | None
    high: Decimal | None


def project(costs: Sequence[Decimal], billed: Decimal, rest: int) -> Projection:
    """A night of which a sample of these costs was billed, and `rest` requests are to follow.

    The interval is Student's t of the sample's mean. The pilot's sample is drawn evenly over all
    lengths, which makes its mean better than the interval says: it errs on the wide side.
    """
    mean = sum(costs, Decimal(0)) / len(costs)
    expected = billed + mean * rest
    if len(costs) < 2 or not rest:
        return Projection(expected, None, None) if rest else Projection(expected, billed, billed)
    spread = stdev(map(float, costs)) / len(costs) ** 0.5 * _t(len(costs) - 1)
    low, high = (max(Decimal(0), mean + Decimal(str(sign * spread))) for sign in (-1, 1))
    return Projection(expected, billed + low * rest, billed + high * rest)


def _t(degrees: int) -> float:
    """Student's t at 95 %, two-sided: exact for the first, else the expansion about the normal
    (Abramowitz and Stegun 26.7.5), good to three digits from there."""
    if degrees in _T:
        return _T[degrees]
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3
