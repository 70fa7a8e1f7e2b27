"""Take-overs before a deadline that are killed at a point: nothing lost, nothing bought twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline_tests.end_to_end.crash_nights import one_of_kind, taken_over
from batch_pipeline_tests.end_to_end.crash_processes import Forks

# One point of each of these kinds.
KINDS = (
    "before AnthropicApi.cancel_batch",
    "after AnthropicApi.cancel_batch",
    "after Files.publish",
)
SEED = 14


@pytest.fixture(scope="module")
def points(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The points of a take-over that nobody disturbs, in their order."""
    folder = tmp_path_factory.mktemp("crash") / "undisturbed"
    _, points = taken_over(forks, folder, None)
    assert points.count("after AnthropicApi.cancel_batch") == 2
    return points


@pytest.mark.parametrize("kind", KINDS)
def test_a_take_over_killed_at_a_point_is_finished_and_paid_once(
    forks: Forks, points: list[str], tmp_path: Path, kind: str
) -> None:
    figures, _ = taken_over(forks, tmp_path / "night", one_of_kind(points, kind, SEED))
    assert figures.kills == 1


def test_a_second_process_beside_it_does_no_harm(
    forks: Forks, points: list[str], tmp_path: Path
) -> None:
    taken_over(forks, tmp_path / "night", len(points) // 2, beside=True)
