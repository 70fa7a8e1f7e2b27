"""Take-overs before a deadline that are killed: nothing lost, nothing bought twice."""

from __future__ import annotations

from pathlib import Path

from batch_pipeline_tests.end_to_end.crashes.crash_nights import taken_over
from batch_pipeline_tests.end_to_end.crashes.crash_processes import Forks


def test_a_take_over_killed_at_its_points_in_turn_is_finished_by_two_at_once_and_paid_once(
    forks: Forks, tmp_path: Path
) -> None:
    """It cancels two batches."""
    in_turn = (
        ("before AnthropicApi.cancel_batch", 1),
        ("after AnthropicApi.cancel_batch", 1),
        ("after Files.publish", 1),
    )
    taken_over(forks, tmp_path / "night", in_turn)
