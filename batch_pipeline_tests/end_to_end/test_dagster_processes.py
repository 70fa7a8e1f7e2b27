"""Backfills in Dagster's own processes, from GraphQL to the results; for one, all of those are
killed. `make crash-test` has more blows."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pandas as pd

from batch_pipeline.flow import paths
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.yaml_files.loading import load_jobs
from batch_pipeline.orchestration.names import BACKFILL_TAG, RANGE_END_TAG, RANGE_START_TAG
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.end_to_end.crashes.crash_books import check_nights
from batch_pipeline_tests.end_to_end.crashes.crash_dagster import (
    SOONER,
    Hunt,
    is_of_a_complete_night,
)
from batch_pipeline_tests.end_to_end.dagster_processes import declare, running_dagster
from batch_pipeline_tests.support import settings

PATIENCE_SECONDS = 150.0
QUEUE = 60
# A fault would have the sensor rest for a minute.
OTHER_TENANTS = Faults.of(
    list={"lag": {"seconds": 0.4}}, foreign_batches={"probability": 0.5, "when": "both"}
)

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
HOURS = ["2025-10-26-02:00", "2025-10-26-02:00+0100", "2025-10-26-03:00"]


def test_backfills_are_collected_by_the_sensor_even_if_all_processes_are_killed(
    sim: Simulator, home: Path, tmp_path: Path
) -> None:
    """Over the end of summer time: two hours in one run, and a third whose processes are killed."""
    undisturbed, killed = HOURS[:2], HOURS[2:]
    documents = declare(
        tmp_path,
        HOURS,
        partitions={"every": "hour", "start": HOURS[0], "timezone": "Europe/Zurich"},
        backfill={"partitions_per_run": 2},
    )
    sim.set_turnaround(0.4)
    environment = {
        "BATCH_PIPELINE_HOME": str(home),
        "BATCH_PIPELINE_JOBS_DIR": str(tmp_path / "jobs"),
        "BATCH_PIPELINE_POLL_SECONDS": "2",
        "BATCH_PIPELINE_LEASE_SECONDS": "4",
        "BATCH_PIPELINE_RECONCILE_SECONDS": "12",
        "BATCH_PIPELINE_MAX_QUEUED_REQUESTS": str(QUEUE),
    }

    def reported(hours: list[str]) -> bool:
        return all(
            is_of_a_complete_night(home / paths.report("review", hour, ".json")) for hour in hours
        )

    with running_dagster(tmp_path / "dagster_home", environment, SOONER) as dagster:
        # What ends together is collected by one run.
        sim.hold()
        backfill = dagster.backfill(undisturbed)
        dagster.start("daemon")

        def submitted() -> bool:
            answer = dagster.ask(STATUS, id=backfill)
            return bool(answer["partitionBackfillOrError"]["status"] == "COMPLETED_SUCCESS")

        def stamped() -> bool:
            nodes = dagster.ask(COLLECTED)["assetNodes"]
            return {node["partitionStats"]["numMaterialized"] for node in nodes} == {2}

        # A question to the webserver takes long to answer.
        dagster.wait_until("the backfill", submitted, PATIENCE_SECONDS, every=2.0)
        sim.release()
        dagster.wait_until("the reports", lambda: reported(undisturbed), PATIENCE_SECONDS)
        dagster.wait_until("their assets", stamped, PATIENCE_SECONDS, every=2.0)
        runs = dagster.ask(RUNS)["runsOrError"]["results"]
        assert {run["jobName"] for run in runs} == {"review_submit", "review_collect"}
        assert {run["status"] for run in runs} <= {"SUCCESS", "STARTED"}
        assert ranges_of(runs, backfill) == {(HOURS[0], HOURS[1])}
        seen = dagster.ask(OBSERVATIONS)["assetOrError"]["assetObservations"]
        assert {observation["partition"] for observation in seen} == set(undisturbed)
        for warning in ("PreviewWarning", "BetaWarning", "SupersessionWarning", "Deprecat"):
            assert warning not in dagster.log()

        # Nobody launches the third hour again after its processes are gone.
        sim.set_faults(OTHER_TENANTS)
        hunt = Hunt(dagster, random.Random(0), killed, lambda: reported(killed))
        backfill = dagster.backfill(killed)
        hunt.kill_everything()
        assert hunt.figures.kills >= 2
        assert not reported(killed)
        dagster.wait_until("its report", lambda: reported(killed), PATIENCE_SECONDS)
        runs = dagster.ask(RUNS)["runsOrError"]["results"]
        assert ranges_of(runs, backfill) == {(HOURS[2], HOURS[2])}
    for night in HOURS:
        rows = pd.read_parquet(home / paths.results("review", night))
        assert sorted(rows["id"]) == sorted(str(row["id"]) for row in documents[night])
    spec = load_jobs(tmp_path / "jobs")["review"]
    check_nights(sim, Pipeline(settings(home)), spec, documents, QUEUE)


def ranges_of(runs: list[dict[str, Any]], backfill: str) -> set[tuple[str, str]]:
    """First and last partition of each run of a backfill."""
    tags = [{tag["key"]: tag["value"] for tag in run["tags"]} for run in runs]
    return {
        (each[RANGE_START_TAG], each[RANGE_END_TAG])
        for each in tags
        if each.get(BACKFILL_TAG) == backfill
    }
