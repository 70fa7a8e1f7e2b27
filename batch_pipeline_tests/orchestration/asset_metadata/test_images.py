"""Small charts in metadata."""

from __future__ import annotations

import base64
import re
from xml.etree import ElementTree as ET

import pytest

from batch_pipeline.orchestration.asset_metadata import images

INLINE_CHARACTERS = 1_000


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
