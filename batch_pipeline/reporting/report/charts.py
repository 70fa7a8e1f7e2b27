"""The geometry of the report's charts: from figures to rectangles, ticks and words.

`templates/chart.svg.jinja` draws them as SVG in the page's own colours and fonts, so that a chart
scales, prints, follows light and dark, and needs no other file. Small charts for Dagster's
metadata are made in `orchestration.asset_metadata.images`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from batch_pipeline.reporting.distribution import Bins, Distribution, round_step
from batch_pipeline.wording import short_count

WIDTH, HEIGHT = 420, 232
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 30, 44
ROOM = WIDTH - LEFT - RIGHT
FLOOR = HEIGHT - BOTTOM
Y_TICKS = 4
X_TICKS = 5
GAP = 2.0
# The greatest width of a character, to decide on which side of its line a word fits.
CHARACTER = 8.0


@dataclass(frozen=True)
class Bar:
    """A rectangle, its style in the page, and the hint for a pointer or a screen reader."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    hint: str


@dataclass(frozen=True)
class Tick:
    at: float
    text: str

    @property
    def anchor(self) -> str:
        """`middle` below its tick, or `end` where the picture's border would cut the text."""
        return "end" if self.at + CHARACTER * len(self.text) / 2 > WIDTH else "middle"

    @property
    def text_at(self) -> float:
        return self.at if self.anchor == "middle" else WIDTH


@dataclass(frozen=True)
class Marker:
    """A vertical line with a word beside it, on its left (`end`) or right (`start`)."""

    x: float
    y: float
    text: str
    anchor: str
    kind: str


@dataclass(frozen=True)
class Chart:
    """A chart with axes; `description` says in words what it shows."""

    title: str
    description: str
    x_title: str
    y_title: str
    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    markers: tuple[Marker, ...] = ()

    width, height = WIDTH, HEIGHT
    left, right, top, floor = LEFT, WIDTH - RIGHT, TOP, FLOOR


@dataclass(frozen=True)
class Column:
    """One column of stacked parts: (value, style)."""

    label: str
    hint: str
    parts: Sequence[tuple[float, str]]

    @property
    def value(self) -> float:
        return sum(value for value, _ in self.parts)


def columns(
    title: str,
    description: str,
    shown: Sequence[Column],
    *,
    x_title: str,
    y_title: str,
    y_text: Callable[[float], str],
) -> Chart:
    """A column for each of a few categories; `y_text` writes the value of a tick."""
    step, top = _scale(max((column.value for column in shown), default=0.0))
    room = ROOM / max(len(shown), 1)
    # Otherwise the column of a single night would fill the picture.
    width = min(room - GAP, 48.0)
    bars, ticks = [], []
    every = math.ceil(len(shown) / X_TICKS)
    for index, column in enumerate(shown):
        x = LEFT + room * index + (room - width) / 2
        below = 0.0
        for value, kind in column.parts:
            if value > 0:
                bars.append(_bar(x, width, below, value, top, kind, column.hint))
                below += value
        if (len(shown) - 1 - index) % every == 0:
            ticks.append(Tick(x + width / 2, column.label))
    return Chart(
        title, description, x_title, y_title, tuple(bars), tuple(ticks), _y_ticks(step, top, y_text)
    )


def histogram(
    title: str,
    description: str,
    shown: Distribution,
    *,
    x_title: str,
    y_title: str,
    x_text: Callable[[float], str],
    x_step: Callable[[float], float],
    kind: str,
    markers: Sequence[tuple[float, str, str]],
) -> Chart:
    """A distribution, with a line for each marker: (value, words, style).

    `x_step` returns the smallest round step of the ticks that is not less than its argument.
    """
    step, top = _scale(float(max(shown.counts)), least=1.0)
    bins = shown.bins
    room = ROOM / bins.count
    bars = [
        _bar(
            LEFT + room * index + GAP / 2,
            max(room - GAP, 1.0),
            0.0,
            count,
            top,
            kind,
            f"{_span(shown, index, x_text)}: {count:,}",
        )
        for index, count in enumerate(shown.counts)
        if count
    ]
    ticks = [
        Tick(round(LEFT + room * (value - bins.start) / bins.step, 2), x_text(value))
        for value in _multiples(x_step, bins)
    ]
    lines = []
    for row, (value, words, style) in enumerate(markers):
        share = (value - bins.start) / (bins.step * bins.count)
        x = LEFT + ROOM * min(max(share, 0.0), 1.0)
        anchor = "start" if x + CHARACTER * len(words) < WIDTH - RIGHT else "end"
        lines.append(Marker(x, TOP - 16 + 14 * row, words, anchor, style))
    return Chart(
        title, description, x_title, y_title, tuple(bars), tuple(ticks),
        _y_ticks(step, top, short_count), tuple(lines),
    )  # fmt: skip


def _multiples(step: Callable[[float], float], bins: Bins) -> list[float]:
    """Where ticks stand: multiples of a round step, within the bins."""
    end = bins.start + bins.step * bins.count
    each = step(max(bins.step, (end - bins.start) / X_TICKS))
    first, last = math.ceil(bins.start / each), math.floor(end / each)
    return [each * index for index in range(first, last + 1)] or [bins.start]


def _span(shown: Distribution, index: int, x_text: Callable[[float], str]) -> str:
    start = shown.bins.start + index * shown.bins.step
    if index == shown.bins.count - 1:
        return f"from {x_text(start)}"
    return f"{x_text(start)} to {x_text(start + shown.bins.step)}"


def _scale(largest: float, *, least: float = 0.0) -> tuple[float, float]:
    """Step (`least` or more) and top of an axis from 0 that holds the largest value."""
    step = max(least, round_step(largest / Y_TICKS)) if largest > 0 else 1.0
    return step, step * max(1, math.ceil(largest / step - 1e-9))


def _y_ticks(step: float, top: float, text: Callable[[float], str]) -> tuple[Tick, ...]:
    count = round(top / step)
    return tuple(
        Tick(FLOOR - (FLOOR - TOP) * index / count, text(index * step))
        for index in range(count + 1)
    )


def _bar(
    x: float, width: float, below: float, value: float, top: float, kind: str, hint: str
) -> Bar:
    height = (FLOOR - TOP) * value / top
    y = FLOOR - (FLOOR - TOP) * (below + value) / top
    # A value that is small but not zero stays visible.
    height, y = (height, y) if height >= 1 else (1.0, min(y, FLOOR - 1))
    return Bar(round(x, 2), round(y, 2), round(width, 2), round(height, 2), kind, hint)
