"""Bins, axes and charts: round borders, nothing lost, nothing outside of the picture."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batch_pipeline.reporting.distribution import (
    MOST_BINS,
    Bins,
    Distribution,
    clock_step,
    nearest_rank,
    round_step,
)
from batch_pipeline.reporting.report import charts
from batch_pipeline.reporting.report.charts import HEIGHT, WIDTH, Chart, Column
from batch_pipeline.wording import duration, short_usd

times = st.lists(st.floats(0, 90_000, allow_nan=False), min_size=1, max_size=200)


@given(times)
def test_every_time_is_in_one_bin(values: list[float]) -> None:
    found = Distribution.of_seconds(values)
    assert found is not None
    assert sum(found.counts) == len(values) == found.values
    assert len(found.counts) == found.bins.count <= MOST_BINS + 2
    assert found.minimum <= found.median <= found.maximum
    assert found.minimum <= found.p95 <= found.maximum
    assert sum(value <= found.p95 for value in values) >= 0.95 * len(values)


@pytest.mark.parametrize(
    ("low", "high", "bins"),
    [
        (5, 5, Bins(5.0, 1.0, 1)),
        (120, 9_800, Bins(0.0, 500.0, 20)),
        (0, 1_000_000, Bins(0.0, 50_000.0, 21)),
    ],
)
def test_borders_of_counts_are_round(low: float, high: float, bins: Bins) -> None:
    assert Bins.round(low, high) == bins


@pytest.mark.parametrize(
    ("low", "high", "step"), [(0, 10, 1), (100, 3_700, 300), (0, 86_400, 3_600)]
)
def test_borders_of_times_are_those_of_a_clock(low: float, high: float, step: float) -> None:
    assert Bins.of_seconds(low, high).step == step


def test_the_distribution_of_nothing_is_none() -> None:
    assert Distribution.of_seconds([]) is None
    one = Distribution.of_seconds([42.0])
    assert one is not None
    assert (one.minimum, one.median, one.p95, one.maximum) == (42.0, 42.0, 42.0, 42.0)
    assert Distribution.of_seconds([30.0, 10.0, 20.0, 40.0]).median == 20.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("least", "step"), [(0.3, 0.5), (1, 1), (1.1, 2), (2.1, 2.5), (260, 500), (0.0007, 0.001)]
)
def test_round_steps(least: float, step: float) -> None:
    assert round_step(least) == pytest.approx(step)


@pytest.mark.parametrize(
    ("count", "share", "at"),
    [
        (1, 0.95, 0), (2, 0.5, 0), (3, 0.5, 1), (4, 0.5, 1),
        (19, 0.95, 18), (20, 0.95, 18), (21, 0.95, 19), (100, 0.07, 6),
    ],
)  # fmt: skip
def test_the_rule_of_a_quantile_is_that_of_duckdb(count: int, share: float, at: int) -> None:
    assert nearest_rank(count, share) == at
    query = f"SELECT quantile_disc(range, {share}) FROM range({count})"
    assert duckdb.connect().execute(query).fetchall() == [(at,)]


def drawn(values: list[tuple[float, float]]) -> Chart:
    shown = [
        Column(str(index), "hint", ((one, "batch"), (two, "realtime")))
        for index, (one, two) in enumerate(values)
    ]
    return charts.columns(
        "t", "d", shown, x_title="x", y_title="y", y_text=short_usd
    )  # fmt: skip


costs = st.floats(0, 1e6, allow_subnormal=False)


@given(st.lists(st.tuples(costs, costs), max_size=40))
def test_columns_stay_within_the_picture(values: list[tuple[float, float]]) -> None:
    chart = drawn(values)
    for bar in chart.bars:
        assert chart.left - 0.1 <= bar.x
        assert bar.x + bar.width <= chart.right + 0.1
        assert chart.top - 0.1 <= bar.y
        assert bar.y + bar.height <= chart.floor + 0.1
        assert bar.height >= 1
    assert len(chart.bars) == sum(value > 0 for pair in values for value in pair)
    assert len(chart.x_ticks) <= charts.X_TICKS


@given(times)
# Its last tick stands at the right border, which binary fractions miss by a hair.
@example([45_600.0, 57_000.0])
def test_histograms_stay_within_the_picture(values: list[float]) -> None:
    found = Distribution.of_seconds(values)
    assert found is not None
    chart = charts.histogram(
        "t", "d", found, x_title="x", y_title="y", x_text=duration,
        x_step=clock_step, kind="batch",
        markers=((found.p95, "P95 59 min 59 s", "p95"),),
    )  # fmt: skip
    assert len(chart.bars) == sum(count > 0 for count in found.counts)
    for bar in chart.bars:
        assert 0 <= bar.x <= bar.x + bar.width <= WIDTH
        assert 0 <= bar.y <= bar.y + bar.height <= HEIGHT
    assert 1 <= len(chart.x_ticks) <= charts.X_TICKS + 1
    assert all(chart.left <= tick.at <= chart.right for tick in chart.x_ticks)
    [marker] = chart.markers
    assert chart.left <= marker.x <= chart.right
