"""What a file sets on its assets in Dagster, among its attributes and beside them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from batch_pipeline import definitions as module
from batch_pipeline.errors import DeclarationError
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.jobs.yaml_files.loading import load_file, load_job
from batch_pipeline.orchestration.definitions.build import build_batch_job
from batch_pipeline.orchestration.names import ASSETS, Kind, asset_key
from batch_pipeline_tests.orchestration.nightly import Nightly, failure_of

MakeSpec = Callable[..., JobSpec]
ALL = [name for names in ASSETS.values() for name in names]


@pytest.fixture
def declare(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a job `review` with further keys beside its attributes; returns its file."""
    monkeypatch.setenv("BATCH_PIPELINE_HOME", str(home))
    monkeypatch.setenv("BATCH_PIPELINE_JOBS_DIR", str(tmp_path / "jobs"))

    def write(**beside: Any) -> Path:
        folder = tmp_path / "jobs" / "review"
        folder.mkdir(parents=True)
        attributes = {
            "name": "review",
            "input": {"path": "documents.jsonl"},
            "prompt": {"user": "{text}"},
            "model_id": "claude-haiku-4-5-20251001",
            "max_tokens": 10,
        }
        document = {"type": "batch_pipeline.BatchJobComponent", "attributes": attributes, **beside}
        (folder / "defs.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        return folder / "defs.yaml"

    return write


def spec_of(definitions: dg.Definitions, asset: str) -> dg.AssetSpec:
    [found] = [spec for spec in definitions.resolve_all_asset_specs() if spec.key.path[-1] == asset]
    return found


def test_assets_have_what_the_job_declares(make_spec: MakeSpec) -> None:
    spec = make_spec(
        owners=["team:contracts", "ann@example.com"],
        tags={"domain": "legal"},
        kinds=["snowflake"],
        group="contracts",
        run_tags={"cost_centre": "legal"},
        pool="anthropic",
        automation_condition="eager",
        freshness={"fail_window": "30h", "warn_window": "26h"},
    )
    definitions = build_batch_job(spec)
    for name in ALL:
        found = spec_of(definitions, name)
        assert list(found.owners) == ["team:contracts", "ann@example.com"]
        assert found.tags["domain"] == "legal"
        assert (found.kinds, found.group_name) == ({"snowflake"}, "contracts")
        starts = name in ASSETS[Kind.SUBMIT]
        assert (found.automation_condition is not None) == starts
        late = dg.FreshnessPolicy.time_window(timedelta(hours=30), timedelta(hours=26))
        assert found.freshness_policy == (late if name == "collected_results" else None)
    # What only looks at the ledger needs no place in it.
    every = definitions.resolve_asset_graph().assets_defs
    assert {assets.op.pool for assets in every if assets.keys} == {"anthropic"}
    for kind in Kind:
        assert definitions.resolve_job_def(f"review_{kind}").tags["cost_centre"] == "legal"
    sensor = definitions.resolve_sensor_def("review_automation")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    definitions.get_repository_def()


def test_a_deadline_of_results_is_dagsters_own(make_spec: MakeSpec) -> None:
    declared = {"deadline_cron": "0 6 * * *", "lower_bound_delta": "8h"}
    partitions = {"start": "2026-01-01", "timezone": "Europe/Zurich"}
    due = build_batch_job(make_spec(freshness=declared, partitions=partitions))
    assert spec_of(due, "collected_results").freshness_policy == dg.FreshnessPolicy.cron(
        "0 6 * * *", timedelta(hours=8), "Europe/Zurich"
    )
    with pytest.raises(DeclarationError, match="lower_bound_delta 2d is longer"):
        build_batch_job(make_spec(freshness=declared | {"lower_bound_delta": "2d"}))


def test_a_downstream_condition_fires_once_a_night_is_complete_and_runs_are_tagged(
    nightly: Callable[..., Nightly], nights: list[str]
) -> None:
    job = nightly(run_tags={"cost_centre": "legal"})
    results = asset_key(job.name, "collected_results")
    partitions = job.definitions.resolve_asset_graph().get(results).partitions_def

    @dg.asset(
        deps=[results],
        partitions_def=partitions,
        automation_condition=dg.AutomationCondition.eager(),
    )
    def table() -> None: ...

    together = dg.Definitions.merge(job.definitions, dg.Definitions(assets=[table]))
    cursor = None

    def requested() -> set[Any]:
        nonlocal cursor
        evaluated = dg.evaluate_automation_conditions(
            together, instance=job.instance, cursor=cursor
        )
        cursor = evaluated.cursor
        return set(evaluated.get_requested_partitions(dg.AssetKey("table")))

    night = nights[-1]
    assert requested() == set()
    assert job.launch(night).success
    assert requested() == set()
    job.run_to_the_end(night)
    assert requested() == {night}
    assert requested() == set()
    # A run that is launched from an asset's page has the tags of the job's own runs, too.
    implicit = job.definitions.resolve_implicit_global_asset_job_def()
    implicit.execute_in_process(
        instance=job.instance,
        partition_key=nights[0],
        asset_selection=[asset_key(job.name, "input_dataset")],
    )
    assert {run.tags["cost_centre"] for run in job.instance.get_runs()} == {"legal"}


def test_post_processing_is_dagsters_own(declare: Callable[..., Path]) -> None:
    file = declare(
        template_vars_module=".template_vars",
        requirements={"env": ["ANTHROPIC_API_KEY"]},
        post_processing={
            "assets": [
                {"target": "*", "attributes": {"owners": ["{{ owner }}"], "tags": {"tier": 1}}},
                {
                    "target": 'key:"review/collected_results"',
                    "attributes": {
                        "kinds": ["duckdb"],
                        "metadata": {"steward": "ann"},
                        "automation_condition": "{{ dg.AutomationCondition.on_missing() }}",
                    },
                },
            ]
        },
    )
    (file.parent / "template_vars.py").write_text(
        "import dagster as dg\n\n@dg.template_var\ndef owner():\n    return 'team:contracts'\n",
        encoding="utf-8",
    )
    loaded = module.defs()
    for name in ALL:
        found = spec_of(loaded, name)
        assert list(found.owners) == ["team:contracts"]
        assert found.tags["tier"] == "1"
        marked = name == "collected_results"
        assert (found.automation_condition is not None) == marked
        assert ("duckdb" in found.kinds) == marked
    results = spec_of(loaded, "collected_results")
    assert results.metadata["dagster/io_manager_key"] == "batch_results"
    assert results.metadata["steward"] == "ann"
    loaded.get_repository_def()
    with pytest.raises(DeclarationError, match=r"requirements\.env: not set in the environment"):
        load_file(file).require_env({})


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"partitions_def": {"type": "daily", "start_date": "2026-01-01"}}, "declare `partitions`"),
        ({"partitions_def": "{{ dg.DailyPartitionsDefinition('x') }}"}, "declare `partitions`"),
        ({"deps": []}, "input.upstream"),
        ({"skippable": False}, "it stays as it is"),
    ],
)
def test_what_would_break_a_night_is_refused(
    declare: Callable[..., Path], attributes: dict[str, Any], told: str
) -> None:
    file = declare(post_processing={"assets": [{"attributes": attributes}]})
    [key] = attributes
    with pytest.raises(
        DeclarationError, match=rf"post_processing\.assets\.0\.attributes\.{key}"
    ) as e:
        load_job(file)
    assert told in str(e.value)


def test_metadata_are_merged_and_never_replaced(declare: Callable[..., Path]) -> None:
    attributes = {"metadata": {"tier": "gold"}}
    file = declare(post_processing={"assets": [{"operation": "replace", "attributes": attributes}]})
    with pytest.raises(DeclarationError, match=r"assets\.0\.operation: would take away"):
        load_job(file)


def test_partitions_that_a_folder_above_has_changed_stop_the_night(
    nightly: Callable[..., Nightly], nights: list[str]
) -> None:
    job = nightly()
    other = dg.DailyPartitionsDefinition("2020-01-01")
    job.definitions = job.definitions.map_asset_specs(
        func=lambda spec: spec.replace_attributes(partitions_def=other)
    )
    stopped = job.launch(nights[-1])
    assert "remove partitions_def from the post_processing" in failure_of(stopped)


@pytest.mark.parametrize(
    "attributes",
    [{"ownerz": []}, {"owners": ["nobody"]}, {"automation_condition": "{{ nothing }}"}],
)
def test_what_dagster_refuses_is_told_with_file_and_line(
    declare: Callable[..., Path], attributes: dict[str, Any]
) -> None:
    file = declare(post_processing={"assets": [{"attributes": attributes}]})
    with pytest.raises(DeclarationError, match=rf"{file}:\d+: post_processing"):
        module.defs()


@pytest.mark.parametrize(
    "declared",
    [
        {"owners": ["ann"]},
        {"tags": {"a b": "c"}},
        {"tags": {"dagster/kind/x": ""}},
        {"kinds": ["a b"]},
        {"group": "a-b"},
        {"run_tags": {"batch_pipeline/job": "other"}},
        {"run_tags": {"dagster/partition": "x"}},
        {"automation_condition": "soon"},
        {"freshness": {}},
        {"freshness": {"fail_window": "1"}},
        {"freshness": {"fail_window": "123456d"}},
        {"freshness": {"fail_window": "1h", "warn_window": "2h"}},
        {"freshness": {"deadline_cron": "0 6 * * *"}},
    ],
)
def test_what_dagster_would_refuse_is_a_declaration_error(
    make_spec: MakeSpec, declared: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=next(iter(declared))):
        make_spec(**declared)
