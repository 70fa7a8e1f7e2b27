"""What an asset downstream of a night's results is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from batch_pipeline import BatchResultsIOManager, build_batch_job
from batch_pipeline.flow import paths
from batch_pipeline.orchestration.definitions.io_manager import IO_MANAGER_KEY
from batch_pipeline.orchestration.names import asset_key
from batch_pipeline_tests.orchestration.conftest import MakeSpec
from batch_pipeline_tests.orchestration.nightly import Nightly

RESULTS = asset_key("review", "collected_results")
REPORT = asset_key("review", "cost_report")


def test_downstream_assets_load_nights_without_configuration(
    nightly: Callable[..., Nightly],
    make_spec: MakeSpec,
    nights: list[str],
    environment: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = nightly()
    for night in nights[:2]:
        assert job.launch(night).success
    job.run_to_the_end(*nights[:2])
    daily = dg.DailyPartitionsDefinition(start_date=nights[0])
    seen: dict[str, Any] = {}

    @dg.asset(
        partitions_def=daily,
        ins={"results": dg.AssetIn(RESULTS), "report": dg.AssetIn(REPORT)},
    )
    def good(results: pd.DataFrame, report: dict) -> None:  # type: ignore[type-arg]
        seen["pandas"], seen["report"] = results, report

    @dg.asset(
        ins={"results": dg.AssetIn(RESULTS, metadata={"columns": ["id", "cost_usd", "partition"]})}
    )
    def every_night(results: pl.LazyFrame) -> None:
        seen["lazy"] = results.collect()

    two = dg.TimeWindowPartitionMapping(start_offset=-1)

    @dg.asset(partitions_def=daily, ins={"results": dg.AssetIn(RESULTS, partition_mapping=two)})
    def two_nights(results: pa.Table) -> None:
        seen["arrow"] = results

    # All jobs share the one IO manager: definitions of several jobs merge.
    other = build_batch_job(make_spec(name="other"))
    downstream = dg.Definitions(assets=[good, every_night, two_nights])
    whole = dg.Definitions.merge(job.definitions, other, downstream)

    def run(asset: dg.AssetsDefinition, partition: str | None) -> dg.ExecuteInProcessResult:
        return whole.resolve_implicit_global_asset_job_def().execute_in_process(
            asset_selection=[asset.key], partition_key=partition, instance=instance,
            raise_on_error=False,
        )  # fmt: skip

    assert run(good, nights[0]).success
    frame = seen["pandas"]
    assert sorted(frame["id"]) == sorted(f"{nights[0]} {number}" for number in range(40))
    assert set(frame["partition"]) == {nights[0]}
    assert frame["cost_usd"].sum() == sum(
        pd.read_parquet(environment / paths.results("review", nights[0]))["cost_usd"]
    )
    assert seen["report"]["items"] == 40
    assert run(two_nights, nights[1]).success
    assert seen["arrow"].num_rows == 80
    refused = run(two_nights, nights[2])
    assert not refused.success
    assert f"{nights[2]} has no results" in str(
        [e.step_failure_data.error for e in refused.all_events if e.is_step_failure]
    )
    assert run(every_night, None).success
    assert seen["lazy"].columns == ["id", "cost_usd", "partition"]
    assert sorted(seen["lazy"]["partition"].unique()) == nights[:2]

    # Another code location knows the asset by a spec that names the key, and the home.
    @dg.asset(ins={"results": dg.AssetIn(RESULTS)})
    def elsewhere(results: pl.DataFrame) -> None:
        seen["elsewhere"] = results

    there = dg.AssetSpec(RESULTS).with_io_manager_key(IO_MANAGER_KEY)
    manager = BatchResultsIOManager(home=str(environment))
    monkeypatch.delenv("BATCH_PIPELINE_HOME")
    made = dg.Definitions(assets=[there, elsewhere], resources={IO_MANAGER_KEY: manager})
    assert made.resolve_implicit_global_asset_job_def().execute_in_process().success
    assert len(seen["elsewhere"]) == 80
