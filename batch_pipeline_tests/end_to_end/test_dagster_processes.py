"""A backfill over four hours in Dagster's own processes, from GraphQL to the results."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from batch_pipeline.flow import paths
from batch_pipeline.orchestration.names import BACKFILL_TAG, RANGE_END_TAG, RANGE_START_TAG
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.end_to_end.dagster_processes import declare, running_dagster

PATIENCE_SECONDS = 150.0

STATUS = """
query ($id: String!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } }
}
"""
COLLECTED = """
{
  assetNodes(group: {
    groupName: "review"
    repositoryName: "__repository__"
    repositoryLocationName: "batch_pipeline"
  }) { assetKey { path } partitionStats { numMaterialized numFailed } }
}
"""
RUNS = "{ runsOrError { ... on Runs { results { jobName status tags { key value } } } } }"
OBSERVATIONS = """
{
  assetOrError(assetKey: { path: ["review", "submitted_batches"] }) {
    ... on Asset { assetObservations(limit: 20) { partition description } }
  }
}
"""


# In Zurich the clocks are put back from 3 to 2 o'clock.
HOURS = ["2025-10-26-01:00", "2025-10-26-02:00", "2025-10-26-02:00+0100", "2025-10-26-03:00"]


def test_a_backfill_over_the_end_of_summer_time_is_collected_by_the_sensor(
    sim: Simulator, home: Path, tmp_path: Path
) -> None:
    """Three hours in one run, and the fourth in another."""
    documents = declare(
        tmp_path,
        HOURS,
        partitions={"every": "hour", "start": HOURS[0], "timezone": "Europe/Zurich"},
        backfill={"partitions_per_run": 3},
    )
    environment = {
        "BATCH_PIPELINE_HOME": str(home),
        "BATCH_PIPELINE_JOBS_DIR": str(tmp_path / "jobs"),
        "BATCH_PIPELINE_POLL_SECONDS": "2",
    }
    with running_dagster(tmp_path / "dagster_home", environment) as dagster:
        backfill = dagster.backfill(HOURS)
        dagster.start("daemon")

        def materialized() -> dict[str, int]:
            return {
                node["assetKey"]["path"][-1]: node["partitionStats"]["numMaterialized"]
                for node in dagster.ask(COLLECTED)["assetNodes"]
            }

        def submitted() -> bool:
            answer = dagster.ask(STATUS, id=backfill)
            return bool(answer["partitionBackfillOrError"]["status"] == "COMPLETED_SUCCESS")

        dagster.wait_until("the backfill", submitted, PATIENCE_SECONDS)
        dagster.wait_until(
            "the reports", lambda: materialized()["cost_report"] == len(HOURS), PATIENCE_SECONDS
        )
        assert set(materialized().values()) == {len(HOURS)}
        runs = dagster.ask(RUNS)["runsOrError"]["results"]
        assert {run["jobName"] for run in runs} == {"review_submit", "review_collect"}
        assert {run["status"] for run in runs} <= {"SUCCESS", "STARTED"}
        tags = [{tag["key"]: tag["value"] for tag in run["tags"]} for run in runs]
        ranges = {
            (each[RANGE_START_TAG], each[RANGE_END_TAG])
            for each in tags
            if each.get(BACKFILL_TAG) == backfill
        }
        assert ranges == {(HOURS[0], HOURS[2]), (HOURS[3], HOURS[3])}
        seen = dagster.ask(OBSERVATIONS)["assetOrError"]["assetObservations"]
        assert {observation["partition"] for observation in seen} == set(HOURS)
        for warning in ("PreviewWarning", "BetaWarning", "SupersessionWarning", "Deprecat"):
            assert warning not in dagster.log()
    for night in HOURS:
        rows = pd.read_parquet(home / paths.results("review", night))
        assert sorted(rows["id"]) == sorted(str(row["id"]) for row in documents[night])
    assert sim.books.billed_more_than_once == []
