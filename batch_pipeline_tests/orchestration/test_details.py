"""Small parts: the cursor, the pace of a night, charts."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from batch_pipeline.ledger.submissions import State, Submission
from batch_pipeline.orchestration.sensing import sensor
from batch_pipeline.orchestration.shown import images
from batch_pipeline_tests.flow.dataset.prepared_rows import SUBMISSION

INLINE_CHARACTERS = 1_000


@pytest.mark.parametrize("text", [None, "", "not json", "[1]", "{}"])
def test_an_unreadable_cursor_counts_as_empty(text: str | None) -> None:
    assert sensor.read_cursor(text) == {}


def test_a_cursor_keeps_the_newest_nights() -> None:
    observed = {f"2026-{number:05d}": "x" for number in range(sensor.MOST_NIGHTS + 10)}
    kept = sensor.read_cursor(sensor.write_cursor(observed))
    assert len(kept) == sensor.MOST_NIGHTS
    assert max(kept) == max(observed)


def submission(state: State, **changes: Any) -> Submission:
    return replace(SUBMISSION, state=state, **changes)


@pytest.mark.parametrize(
    ("image", "shapes"),
    [
        (images.bars([float(number) for number in range(100)]), 1),
        (images.bars([0.0]), 1),
        (images.bars([]), 1),
        (images.proportions([(1, "#111111"), (0, "#222222"), (3, "#333333")]), 2),
        (images.proportions([(0, "#111111")]), 0),
    ],
)
def test_charts_are_small_images_that_markdown_shows_inline(image: str, shapes: int) -> None:
    assert len(image) < INLINE_CHARACTERS
    match = re.fullmatch(r"!\[[^\]]+\]\(data:image/svg\+xml;base64,([^)]+)\)", image)
    assert match is not None
    svg = ET.fromstring(base64.b64decode(match[1]))
    assert len(svg) == shapes
