"""Inputs that come from elsewhere in Dagster: an upstream asset's value, and a chain of jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl

from batch_pipeline.flow import paths
from batch_pipeline.orchestration.build import build_batch_job
from batch_pipeline.orchestration.names import Kind, asset_key
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.orchestration.conftest import MakeSpec
from batch_pipeline_tests.orchestration.nightly import Nightly, failure_of

KEY = dg.AssetKey(["raw", "contracts"])


class TypedManager(dg.IOManager):
    """Refuses an input without a type, as managers with several handlers do."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None: ...

    def load_input(self, context: dg.InputContext) -> object:
        assert context.dagster_type.typing_type is pl.DataFrame
        key = context.partition_key
        return pl.DataFrame({"id": [f"{key}/{n}" for n in range(2)], "text": ["a", "b"]})


def hourly(start: str) -> dg.HourlyPartitionsDefinition:
    return dg.HourlyPartitionsDefinition(f"{start}-00:00")


def test_mapped_partitions_of_an_upstream_asset_are_the_nights_rows(
    environment: Path, instance: dg.DagsterInstance, make_spec: MakeSpec, nights: list[str]
) -> None:
    night = nights[0]

    @dg.asset(key=KEY, partitions_def=hourly(night), io_manager_key="frames")
    def contracts() -> None: ...

    spec = make_spec(input={"asset": {"key": "raw/contracts", "as": "polars"}}, pilot={"size": 0})
    definitions = dg.Definitions.merge(
        build_batch_job(spec),
        dg.Definitions(assets=[contracts], resources={"frames": TypedManager()}),
    )
    job = Nightly(spec.name, definitions, instance)
    inputs = [asset_key(spec.name, "input_dataset")]
    refused = job.launch(night, assets=inputs)
    assert not refused.success
    assert f"raw/contracts {night}-00:00 was never materialized" in failure_of(refused)
    for hour in range(24):
        event = dg.AssetMaterialization(KEY, partition=f"{night}-{hour:02}:00")
        instance.report_runless_asset_event(event)
    assert job.launch(night).success
    shown = job.metadata("input_dataset", night)
    assert (shown["source"], len(shown["source_version"])) == ("asset raw/contracts", 64)
    columns = [(each.name, each.type) for each in shown["dagster/column_schema"].columns]
    assert columns == [("id", "string"), ("text", "string")]
    job.run_to_the_end(night)
    rows = pd.read_parquet(environment / paths.results(spec.name, night))
    wanted = {f"{night}-{hour:02}:00/{n}" for hour in range(24) for n in range(2)}
    assert set(rows["id"]) == wanted


def test_a_complete_night_starts_the_next_job_of_a_chain_once(
    environment: Path,
    instance: dg.DagsterInstance,
    make_spec: MakeSpec,
    nights: list[str],
    sim: Simulator,
) -> None:
    """Three stages, over two nights: each night waits for its own."""
    plain: dict[str, Any] = {"pilot": {"size": 0}, "limits": {}}
    asked = {**plain, "prompt": {"user": "{id} {content}"}}
    specs = [
        make_spec(name="first", **plain),
        make_spec(name="second", input={"job": "first"}, **asked),
        make_spec(name="third", input={"job": "second"}, **asked),
    ]
    definitions = dg.Definitions.merge(*map(build_batch_job, specs))
    first, *later = (Nightly(spec.name, definitions, instance) for spec in specs)
    assert [stage.tick().run_requests for stage in later] == [[], []]
    assert first.launch(nights[0]).success
    assert later[0].tick().run_requests == []
    first.run_to_the_end(nights[0])
    for stage in later:
        [begun] = stage.tick().run_requests
        assert (begun.job_name, begun.partition_key) == (
            f"{stage.name}_{Kind.SUBMIT}",
            nights[0],
        )
        assert begun.asset_selection is None
        [result] = stage.follow([begun])
        assert result.success
        stage.run_to_the_end(nights[0])
        assert stage.tick().run_requests == []
        rows = pd.read_parquet(environment / paths.results(stage.name, nights[0]))
        assert len(rows) == 40
    assert sim.books.accepted_requests == 120
    first.launch(nights[1])
    first.run_to_the_end(nights[1])
    [begun] = later[0].tick().run_requests
    assert begun.partition_key == nights[1]
    assert later[1].tick().run_requests == []


def test_the_lineage_shows_where_an_input_is_from(make_spec: MakeSpec) -> None:
    spec = make_spec(name="second", input={"job": "first"}, prompt={"user": "{id} {content}"})
    graph = build_batch_job(spec).resolve_asset_graph()
    assert graph.get(asset_key("second", "input_dataset")).parent_keys == {
        asset_key("first", "collected_results")
    }
