"""A backfill over three nights in Dagster's own processes, from GraphQL to the results."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import yaml

from batch_pipeline.flow import paths
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.end_to_end.dagster_processes import running_dagster
from batch_pipeline_tests.support import MODEL, documents, write_rows

DOCUMENTS = 40
PATIENCE_SECONDS = 150.0

BACKFILL = """
mutation ($nights: [String!]!) {
  launchPartitionBackfill(backfillParams: {
    selector: {
      partitionSetName: "review_submit_partition_set"
      repositorySelector: {
        repositoryName: "__repository__", repositoryLocationName: "batch_pipeline"
      }
    }
    partitionNames: $nights
  }) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
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


def test_a_backfill_over_three_nights_is_collected_by_the_sensor(
    sim: Simulator, home: Path, tmp_path: Path
) -> None:
    today = datetime.now(UTC).date()
    nights = [(today - timedelta(days=days)).isoformat() for days in (3, 2, 1)]
    declare(tmp_path, nights)
    environment = {
        "BATCH_PIPELINE_HOME": str(home),
        "BATCH_PIPELINE_JOBS_DIR": str(tmp_path / "jobs"),
        "BATCH_PIPELINE_POLL_SECONDS": "2",
    }
    with running_dagster(tmp_path / "dagster_home", environment) as dagster:
        launched = dagster.ask(BACKFILL, nights=nights)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched

        def materialized() -> dict[str, int]:
            return {
                node["assetKey"]["path"][-1]: node["partitionStats"]["numMaterialized"]
                for node in dagster.ask(COLLECTED)["assetNodes"]
            }

        def submitted() -> bool:
            answer = dagster.ask(STATUS, id=launched["backfillId"])
            return bool(answer["partitionBackfillOrError"]["status"] == "COMPLETED_SUCCESS")

        dagster.wait_until("the backfill", submitted, PATIENCE_SECONDS)
        dagster.wait_until(
            "the reports", lambda: materialized()["cost_report"] == len(nights), PATIENCE_SECONDS
        )
        assert set(materialized().values()) == {len(nights)}
        runs = dagster.ask(RUNS)["runsOrError"]["results"]
        assert {run["jobName"] for run in runs} == {"review_submit", "review_collect"}
        assert {run["status"] for run in runs} <= {"SUCCESS", "STARTED"}
        seen = dagster.ask(OBSERVATIONS)["assetOrError"]["assetObservations"]
        assert {observation["partition"] for observation in seen} == set(nights)
        for warning in ("PreviewWarning", "BetaWarning", "SupersessionWarning", "Deprecat"):
            assert warning not in dagster.log()
    for night in nights:
        rows = pd.read_parquet(home / paths.results("review", night))
        assert rows["id"].nunique() == len(rows) == DOCUMENTS
    assert sim.books.billed_more_than_once == []


def declare(folder: Path, nights: list[str]) -> None:
    """The job in a folder of jobs, and its documents."""
    for number, night in enumerate(nights):
        (folder / "input" / night).mkdir(parents=True)
        rows = documents(DOCUMENTS, start=number * DOCUMENTS)
        write_rows(folder / "input" / night / "documents.jsonl", rows)
    job = folder / "jobs" / "review"
    job.mkdir(parents=True)
    attributes = {
        "name": "review",
        "input": {"path": str(folder / "input" / "{partition}" / "*.jsonl")},
        "prompt": {"user": "Sum up: {text}"},
        "model_id": MODEL,
        "max_tokens": 4_000,
        "partitions": {"start": nights[0]},
        "pilot": {"size": 4, "max_truncated_rate": 1.0},
        "limits": {"max_requests_per_batch": 20},
    }
    declared = {"type": "batch_pipeline.BatchJobComponent", "attributes": attributes}
    (job / "defs.yaml").write_text(yaml.safe_dump(declared), encoding="utf-8")
