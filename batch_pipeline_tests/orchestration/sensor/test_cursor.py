"""What the sensor's cursor keeps."""

from __future__ import annotations

import pytest

from batch_pipeline.orchestration.sensor import tick as sensor


@pytest.mark.parametrize("text", [None, "", "not json", "[1]", "{}"])
def test_an_unreadable_cursor_counts_as_empty(text: str | None) -> None:
    assert sensor.read_cursor(text) == {}


def test_a_cursor_keeps_the_newest_nights() -> None:
    observed = {f"2026-{number:05d}": "x" for number in range(sensor.MOST_NIGHTS + 10)}
    kept = sensor.read_cursor(sensor.write_cursor(observed))
    assert len(kept) == sensor.MOST_NIGHTS
    assert max(kept) == max(observed)
