"""A night from the DataFrame to the table, against the simulator; nothing is paid."""

import time
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from own_project.definitions import defs

from batch_pipeline.simulator import running_simulator

JOB = "contract_review"
RESULTS = dg.AssetKey([JOB, "collected_results"])
PATIENCE_SECONDS = 60


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BATCH_PIPELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WAREHOUSE", str(tmp_path / "warehouse.duckdb"))
    with running_simulator(turnaround=0.1, state_dir=tmp_path / "simulator") as running:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", running.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "any")
        yield


def test_a_night_ends_in_a_table_with_a_row_for_each_contract(tmp_path: Path) -> None:
    definitions = defs()
    with dg.instance_for_test() as instance:

        def materialize(asset: str) -> None:
            job = definitions.resolve_implicit_global_asset_job_def()
            selection = [dg.AssetKey(asset)]
            assert job.execute_in_process(instance=instance, asset_selection=selection).success

        def launch(job: str) -> None:
            found = definitions.resolve_job_def(f"{JOB}_{job}")
            assert found.execute_in_process(instance=instance, partition_key="all").success

        materialize("contracts")
        launch("submit")
        # What the job's sensor does once the batches have ended.
        until = time.monotonic() + PATIENCE_SECONDS
        while "all" not in instance.get_materialized_partitions(RESULTS):
            assert time.monotonic() < until
            launch("collect")
        materialize("notice_periods")
        check = dg.AssetCheckKey(dg.AssetKey("notice_periods"), "each_contract_once")
        [latest] = instance.event_log_storage.get_asset_check_execution_history(check, limit=1)
        assert latest.evaluation.passed
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as connection:
        rows = connection.execute(
            "SELECT contract, customer, months FROM notice_periods"
        ).fetchall()
    assert {contract for contract, _, _ in rows} == {f"contract {n}" for n in range(1, 25)}
    assert all(customer == f"customer {int(contract[9:]) % 5}" for contract, customer, _ in rows)
    assert all(isinstance(months, int) for _, _, months in rows)
