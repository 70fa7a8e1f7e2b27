"""A night from the table to the table, against the simulator; nothing is paid."""

import time
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from own_project.definitions import defs

from batch_pipeline.simulator import running_simulator

JOB = "contract_review"
PATIENCE_SECONDS = 60


@pytest.fixture(autouse=True)
def simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BATCH_PIPELINE_HOME", str(tmp_path / "home"))
    with running_simulator(turnaround=0.1, state_dir=tmp_path / "simulator") as running:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", running.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "any")
        yield


def run(instance: dg.DagsterInstance, *keys: str, partition: str | None = None) -> None:
    """Materialize assets, as their pages in Dagster do."""
    job = defs().resolve_implicit_global_asset_job_def()
    if partition is not None:
        job = defs().resolve_job_def(f"{JOB}_{'submit' if 'submitted' in keys[-1] else 'collect'}")
    result = job.execute_in_process(
        instance=instance,
        partition_key=partition,
        asset_selection=[dg.AssetKey.from_user_string(key) for key in keys],
    )
    assert result.success


def test_a_night_ends_in_a_table_with_a_row_for_each_contract() -> None:
    with dg.instance_for_test() as instance:
        run(instance, "contracts")
        steps = ("input_dataset", "pilot_sample", "submitted_batches")
        run(instance, *(f"{JOB}/{step}" for step in steps), partition="all")
        results = dg.AssetKey([JOB, "collected_results"])
        until = time.monotonic() + PATIENCE_SECONDS
        # What the sensor does once the batches have ended.
        while "all" not in instance.get_materialized_partitions(results):
            assert time.monotonic() < until
            run(instance, f"{JOB}/collected_results", partition="all")
        run(instance, "notice_periods")
        table = defs().load_asset_value("notice_periods", instance=instance)
    assert isinstance(table, pd.DataFrame)
    assert sorted(table["id"]) == sorted(f"contract {number}" for number in range(1, 25))
