"""A night under Dagster whose processes are killed; the short version of `make crash-test`."""

from __future__ import annotations

from pathlib import Path

from batch_pipeline.simulator import Faults
from batch_pipeline_tests.end_to_end.crash_dagster import hunted_under_dagster

# After a fault a sensor rests for a minute, which is left to the long version.
OTHER_TENANTS = Faults.of(
    list={"lag": {"seconds": 0.4}}, foreign_batches={"probability": 0.5, "when": "both"}
)
# The first blow falls on everything at once, the second on a worker.
SEED = 12


def test_a_night_whose_dagster_is_killed_comes_to_its_end_by_itself(tmp_path: Path) -> None:
    figures = hunted_under_dagster(tmp_path / "night", SEED, blows=2, count=1, faults=OTHER_TENANTS)
    assert figures.kills >= 3
    assert figures.restarts == 1
