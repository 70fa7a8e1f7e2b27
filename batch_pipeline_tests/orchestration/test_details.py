"""Small parts: the cursor, the pace of a night, charts."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from batch_pipeline.flow import tally
from batch_pipeline.orchestration import charts, cursor, pace
from batch_pipeline.state.submissions import State, Submission
from batch_pipeline_tests.flow.rows import SHARD, STATE, SUBMISSION

INLINE_CHARACTERS = 1_000


@pytest.mark.parametrize("text", [None, "", "not json", "[1]", "{}"])
def test_an_unreadable_cursor_counts_as_empty(text: str | None) -> None:
    assert cursor.read(text) == {}


def test_a_cursor_keeps_the_newest_nights() -> None:
    observed = {f"2026-{number:05d}": "x" for number in range(cursor.MOST_NIGHTS + 10)}
    kept = cursor.read(cursor.write(observed))
    assert len(kept) == cursor.MOST_NIGHTS
    assert max(kept) == max(observed)


def submission(state: State, **changes: Any) -> Submission:
    return replace(SUBMISSION, state=state, **changes)


def test_the_pace_of_a_night() -> None:
    first = submission(State.COLLECTED, accepted_at=0.0, ended_at=1_800.0, requests=100)
    state = replace(
        STATE,
        waiting=300,
        collected=(tally.of_submission(first, SHARD),),
        submissions=(
            first,
            submission(State.ENDED, accepted_at=10.0, ended_at=3_600.0, requests=100),
            submission(State.ACCEPTED, accepted_at=20.0, requests=100),
        ),
    )
    found = pace.of(state)
    assert found is not None
    assert found.requests_per_hour == pytest.approx(200)
    assert found.seconds_to_go == pytest.approx(2 * 3_600)


def test_a_night_of_which_nothing_has_ended_has_no_pace() -> None:
    running = submission(State.ACCEPTED, accepted_at=0.0)
    assert pace.of(replace(STATE, submissions=(running,))) is None


@pytest.mark.parametrize(
    ("image", "shapes"),
    [
        (charts.bars([float(number) for number in range(100)]), 1),
        (charts.bars([0.0]), 1),
        (charts.bars([]), 1),
        (charts.proportions([(1, "#111111"), (0, "#222222"), (3, "#333333")]), 2),
        (charts.proportions([(0, "#111111")]), 0),
    ],
)
def test_charts_are_small_images_that_markdown_shows_inline(image: str, shapes: int) -> None:
    assert len(image) < INLINE_CHARACTERS
    match = re.fullmatch(r"!\[[^\]]+\]\(data:image/svg\+xml;base64,([^)]+)\)", image)
    assert match is not None
    svg = ET.fromstring(base64.b64decode(match[1]))
    assert len(svg) == shapes
