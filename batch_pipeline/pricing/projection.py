"""The projection of a night's cost from a sample: an expected amount and a confidence interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import NormalDist, stdev

# Of 100 nights that are projected, about 95 cost an amount within their interval.
CONFIDENCE = 0.95
# Student's t at that confidence for 1 to 4 degrees of freedom, where the expansion below is poor.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}


@dataclass(frozen=True)
class Projection:
    """USD for the whole night: expected, and the bounds of the 95 % confidence interval.

    `low` and `high` are None where there is a single answer, which has no variance.
    """

    expected: Decimal
    low: Decimal | None
    high: Decimal | None


def project(costs: Sequence[Decimal], billed: Decimal, rest: int) -> Projection:
    """The cost of a night of which a sample was `billed`, with these costs for each answer, and of
    which `rest` requests are still to be sent.

    The interval is Student's t of the sample's mean. It is wider than it has to be: the pilot's
    sample is drawn evenly over all lengths, so that its mean varies less.
    """
    mean = sum(costs, Decimal(0)) / len(costs)
    expected = billed + mean * rest
    if len(costs) < 2 or not rest:
        return Projection(expected, None, None) if rest else Projection(expected, billed, billed)
    spread = stdev(map(float, costs)) / len(costs) ** 0.5 * _t(len(costs) - 1)
    low, high = (max(Decimal(0), mean + Decimal(str(sign * spread))) for sign in (-1, 1))
    return Projection(expected, billed + low * rest, billed + high * rest)


@dataclass(frozen=True)
class Part:
    """A part of a night, of which some answers had these costs; `rest` requests are left."""

    costs: Sequence[Decimal]
    rest: int


def project_parts(parts: Sequence[Part], billed: Decimal) -> Projection:
    """The cost of a night in several parts, each with a sample of its own; together they were
    `billed`.

    Samples are independent, so that the squares of the half widths of their intervals add up. A
    part without an answer counts at the mean of all answers.
    """
    every = [cost for part in parts for cost in part.costs]
    expected, square, known = billed, Decimal(0), True
    for part in parts:
        found = project(part.costs or every, Decimal(0), part.rest)
        expected += found.expected
        if found.high is None:
            known = False
        else:
            square += (found.high - found.expected) ** 2
    if not known:
        return Projection(expected, None, None)
    half = square.sqrt()
    return Projection(expected, max(billed, expected - half), expected + half)


def _t(degrees: int) -> float:
    """Student's t at 95 %, two-sided: from the table, else by the expansion about the normal
    distribution (Abramowitz and Stegun 26.7.5), which has three good digits from 5 degrees on."""
    if degrees in _T:
        return _T[degrees]
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3
