"""Projections of a night from a sample: the point, and how often the interval holds."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest

from batch_pipeline.pricing.projection import Part, _t, project, project_parts


@pytest.mark.parametrize(
    ("degrees", "t"),
    [(1, 12.706), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042), (99, 1.984), (10_000, 1.960)],
)
def test_students_t(degrees: int, t: float) -> None:
    assert _t(degrees) == pytest.approx(t, abs=0.006)


def test_the_mean_stands_for_the_rest() -> None:
    found = project([Decimal(1), Decimal(3)], Decimal(10), 5)
    assert found.expected == 20
    # Mean 2, standard error 1, t of one degree 12.706; nothing costs less than nothing.
    assert (found.low, found.high) == (Decimal(10), Decimal(10) + 5 * Decimal("14.706"))


def test_one_answer_tells_nothing_of_how_they_differ() -> None:
    found = project([Decimal(2)], Decimal(2), 9)
    assert (found.expected, found.low, found.high) == (Decimal(20), None, None)


def test_where_nothing_is_left_the_bill_is_certain() -> None:
    found = project([Decimal(2)], Decimal(3), 0)
    assert found.expected == found.low == found.high == 3


def test_the_interval_holds_in_about_95_of_100_nights() -> None:
    """Skewed costs, as those of documents are; samples drawn without regard to length."""
    chance = random.Random(0)
    night = [Decimal(str(round(chance.lognormvariate(0, 0.6), 6))) for _ in range(5_000)]
    total, held = sum(night), 0
    for _ in range(200):
        chance.shuffle(night)
        sample, rest = night[:100], night[100:]
        found = project(sample, sum(sample, Decimal(0)), len(rest))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= total <= found.high
    assert held >= 180


def test_parts_of_a_night_add_up_and_so_do_the_squares_of_their_spreads() -> None:
    one, other = [Decimal(1), Decimal(3)], [Decimal(10), Decimal(10)]
    parts = [Part(one, 4), Part(other, 2), Part([], 3)]
    found = project_parts(parts, Decimal(10))
    # A part without an answer of its own counts at the mean of all.
    assert found.expected == 10 + 4 * 2 + 2 * 10 + 3 * 6
    alone = [project(one, Decimal(0), 4), project(other, Decimal(0), 2)]
    alone.append(project([*one, *other], Decimal(0), 3))
    square = sum((p.high - p.expected) ** 2 for p in alone if p.high is not None)
    assert found.high is not None
    assert found.high - found.expected == pytest.approx(Decimal(square).sqrt())
    assert project_parts([Part(one, 4), Part([Decimal(5)], 1)], Decimal(0)).high is None
    whole, single = project(one, Decimal(3), 4), project_parts([Part(one, 4)], Decimal(3))
    assert (single.expected, single.high) == (whole.expected, whole.high)
