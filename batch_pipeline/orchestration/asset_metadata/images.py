"""Small charts in Markdown, as Dagster shows them at once."""

from __future__ import annotations

import base64
from collections.abc import Sequence

CHART_WIDTH, CHART_HEIGHT, CHART_GAP, MOST_BARS = 240, 40, 2, 30

# Charts: SVG as a data URI in Markdown. Dagster shows Markdown of under 1,000 characters at once,
# longer texts behind a link: hence one path and no text inside.


def bars(values: Sequence[float], *, colour: str = "#4f43dd", title: str = "chart") -> str:
    """A Markdown image with a bar for each of the last values, scaled to the largest."""
    shown = list(values)[-MOST_BARS:]
    largest = max(shown, default=0.0)
    step = CHART_WIDTH // max(len(shown), 8)
    path = []
    for index, value in enumerate(shown):
        height = max(1, round(CHART_HEIGHT * value / largest)) if largest > 0 else 1
        path.append(f"M{index * step} {CHART_HEIGHT}v-{height}h{step - CHART_GAP}v{height}z")
    return _image(f'<path fill="{colour}" d="{"".join(path)}"/>', CHART_WIDTH, CHART_HEIGHT, title)


def proportions(parts: Sequence[tuple[int, str]], *, title: str = "chart") -> str:
    """A Markdown image of one bar, cut into coloured parts by their size."""
    total = sum(size for size, _ in parts) or 1
    drawn = []
    left = 0.0
    for size, colour in parts:
        if size:
            width = CHART_WIDTH * size / total
            drawn.append(f'<path fill="{colour}" d="M{left:.1f} 0h{width:.1f}v12h-{width:.1f}z"/>')
            left += width
    return _image("".join(drawn), CHART_WIDTH, 12, title)


def _image(content: str, width: int, height: int, title: str) -> str:
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">{content}</svg>'
    )
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"
