"""Inputs that come from elsewhere in Dagster: an upstream asset's value, and a chain of jobs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pytest

from batch_pipeline.flow import paths
from batch_pipeline.orchestration.definitions.build import build_batch_job
from batch_pipeline.orchestration.names import Kind, asset_key
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.orchestration.conftest import MakeSpec
from batch_pipeline_tests.orchestration.nightly import Nightly, failure_of
from batch_pipeline_tests.orchestration.steps.test_ranges import launch_range

KEY = dg.AssetKey(["raw", "contracts"])


class TypedManager(dg.IOManager):
    """Refuses an input without a type, as managers with several handlers do."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None: ...

    def load_input(self, context: dg.InputContext) -> object:
        assert context.dagster_type.typing_type is pl.DataFrame
        key = context.partition_key
        return pl.DataFrame({"id": [f"{key}/{n}" for n in range(2)], "text": ["a", "b"]})


def quarters(start: str) -> dg.TimeWindowPartitionsDefinition:
    """Four partitions a day."""
    return dg.TimeWindowPartitionsDefinition(
        start=f"{start}-00:00", fmt="%Y-%m-%d-%H:%M", cron_schedule="0 */6 * * *"
    )


def test_mapped_partitions_of_an_upstream_asset_are_the_nights_rows(
    environment: Path, instance: dg.DagsterInstance, make_spec: MakeSpec, nights: list[str]
) -> None:
    """Each night of a run over two has the rows of its own quarters; a third lacks one."""

    @dg.asset(key=KEY, partitions_def=quarters(nights[0]), io_manager_key="frames")
    def contracts() -> None: ...

    spec = make_spec(
        input={"asset": {"key": "raw/contracts", "as": "polars"}},
        pilot={"size": 0},
        backfill={"partitions_per_run": 3},
    )
    definitions = dg.Definitions.merge(
        build_batch_job(spec),
        dg.Definitions(assets=[contracts], resources={"frames": TypedManager()}),
    )
    job = Nightly(spec.name, definitions, instance)
    keys = {night: [f"{night}-{hour:02}:00" for hour in range(0, 24, 6)] for night in nights}
    for key in [*keys[nights[0]], *keys[nights[1]], *keys[nights[2]][1:]]:
        instance.report_runless_asset_event(dg.AssetMaterialization(KEY, partition=key))
    result = launch_range(job, nights[0], nights[2])
    assert not result.success
    told = failure_of(result)
    assert "1 of 3 partitions were stopped" in told
    assert f"raw/contracts {nights[2]}-00:00 was never materialized" in told
    shown = job.metadata("input_dataset", nights[0])
    assert (shown["source"], len(shown["source_version"])) == ("asset raw/contracts", 64)
    columns = [(each.name, each.type) for each in shown["dagster/column_schema"].columns]
    assert columns == [("id", "string"), ("text", "string")]
    job.run_to_the_end(*nights[:2])
    for night in nights[:2]:
        rows = pd.read_parquet(environment / paths.results(spec.name, night))
        assert set(rows["id"]) == {f"{key}/{n}" for key in keys[night] for n in range(2)}


@pytest.mark.parametrize(
    ("assets", "told"),
    [
        ([], "raw/contracts is not defined in this code location.*dg.AssetSpec"),
        ([dg.AssetSpec(KEY, partitions_def=quarters("2030-01-01"))], "has no partition"),
        ([dg.AssetSpec(KEY)], "raw/contracts was never materialized"),
    ],
)
def test_an_upstream_asset_that_has_no_value_for_a_night_is_told(
    environment: Path,
    instance: dg.DagsterInstance,
    make_spec: MakeSpec,
    nights: list[str],
    assets: list[dg.AssetSpec],
    told: str,
) -> None:
    spec = make_spec(input={"asset": {"key": "raw/contracts"}})
    definitions = dg.Definitions.merge(build_batch_job(spec), dg.Definitions(assets=assets))
    inputs = [asset_key(spec.name, "input_dataset")]
    refused = Nightly(spec.name, definitions, instance).launch(nights[0], assets=inputs)
    assert not refused.success
    assert re.search(told, failure_of(refused))
    assert "nothing was sent" in failure_of(refused)


def test_a_complete_night_starts_the_next_job_of_a_chain_once(
    environment: Path,
    instance: dg.DagsterInstance,
    make_spec: MakeSpec,
    nights: list[str],
    sim: Simulator,
) -> None:
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


def test_the_lineage_shows_where_an_input_is_from(make_spec: MakeSpec) -> None:
    spec = make_spec(name="second", input={"job": "first"}, prompt={"user": "{id} {content}"})
    graph = build_batch_job(spec).resolve_asset_graph()
    assert graph.get(asset_key("second", "input_dataset")).parent_keys == {
        asset_key("first", "collected_results")
    }
