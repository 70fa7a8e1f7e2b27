"""What a job's definitions are called and how they hang together."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from batch_pipeline.errors import DeclarationError, UsageError
from batch_pipeline.flow.answers.schemas import DEAD_LETTER_SCHEMA, RESULTS_SCHEMA
from batch_pipeline.jobs.partitions import partitions
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.dagster_partitions import partitions_definition
from batch_pipeline.orchestration.definitions.build import build_batch_job
from batch_pipeline.orchestration.names import ASSETS, FOLLOW_UP_TAG, Kind, asset_key
from batch_pipeline.orchestration.runs import selected_of
from batch_pipeline.orchestration.shown import columns

MakeSpec = Callable[..., JobSpec]
ROOT = Path(__file__).parents[3]
JOB = """
type: batch_pipeline.BatchJobComponent
attributes:
  name: {name}
  input: {{path: "{{partition}}.jsonl"}}
  prompt: {{user: "Sum up: {{text}}"}}
  model_id: claude-haiku-4-5-20251001
  max_tokens: 100
  partitions: {{start: "2026-01-01", timezone: Europe/Zurich}}
  schedule: "30 1 * * *"
"""

# Steps of an asset whose work is spread.
SPREAD = "review__submitted_batches.review__submitted_batches"

# Users script against these: a change here is a change of the contract.
SNAPSHOT = {
    "assets": {
        "review/input_dataset": ["raw/documents"],
        "review/pilot_sample": ["review/input_dataset"],
        "review/submitted_batches": ["review/pilot_sample"],
        "review/collected_results": ["review/submitted_batches"],
        "review/dead_letter": ["review/collected_results"],
        "review/cost_report": ["review/collected_results", "review/dead_letter"],
    },
    "checks": [
        "review/collected_results:error_rate",
        "review/collected_results:every_item_one_row",
        "review/cost_report:estimate_against_actual",
        "review/cost_report:within_budget",
        "review/dead_letter:dead_letter_rate",
        "review/dead_letter:systematic_errors",
        "review/input_dataset:every_due_night_began",
        "review/pilot_sample:pilot_gate",
        "review/submitted_batches:no_night_is_stopped",
    ],
    "jobs": {
        "review_submit": ["input_dataset", "pilot_sample", "submitted_batches"],
        "review_collect": ["collected_results", "cost_report", "dead_letter"],
        "review_control": [],
    },
    "schedules": {"review_nightly": ("review_submit", "30 1 * * *", "Europe/Zurich", "STOPPED")},
    "sensors": {"review_batches": (["review_collect", "review_submit"], 60, "RUNNING")},
}


def snapshot(definitions: dg.Definitions) -> dict[str, object]:
    repository = definitions.get_repository_def()
    graph = repository.asset_graph
    return {
        "assets": {
            key.to_user_string(): sorted(
                parent.to_user_string() for parent in graph.get(key).parent_keys
            )
            for key in graph.materializable_asset_keys
        },
        "checks": sorted(key.to_user_string() for key in graph.asset_check_keys),
        "jobs": {
            job.name: sorted(key.path[-1] for key in job.asset_layer.executable_asset_keys)
            for job in repository.get_all_jobs()
            if not job.name.startswith("__")
        },
        "schedules": {
            schedule.name: (
                schedule.job_name,
                schedule.cron_schedule,
                schedule.execution_timezone,
                schedule.default_status.value,
            )
            for schedule in repository.schedule_defs
        },
        "sensors": {
            sensor.name: (
                sorted(job.name for job in sensor.jobs),
                sensor.minimum_interval_seconds,
                sensor.default_status.value,
            )
            for sensor in repository.sensor_defs
        },
    }


def test_the_definitions_of_a_job(make_spec: MakeSpec) -> None:
    spec = make_spec(
        input={"path": "/data/{partition}.jsonl", "upstream": ["raw/documents"]},
        partitions={"start": "2026-01-01", "timezone": "Europe/Zurich"},
        schedule="30 1 * * *",
    )
    with warnings.catch_warnings():
        # Nothing that Dagster calls a preview, superseded or about to go.
        for category in (dg.PreviewWarning, dg.BetaWarning, dg.SupersessionWarning):
            warnings.simplefilter("error", category)
        warnings.filterwarnings("error", category=DeprecationWarning, module="batch_pipeline")
        definitions = build_batch_job(spec)
        assert snapshot(definitions) == SNAPSHOT
    for key in definitions.resolve_asset_graph().materializable_asset_keys:
        node = definitions.resolve_asset_graph().get(key)
        assert node.group_name == "review"
        assert node.kinds
    described = definitions.resolve_asset_graph().get(asset_key("review", "input_dataset"))
    assert "| model | `claude-haiku-4-5-20251001`" in (described.description or "")


def test_the_columns_that_are_shown_are_those_of_the_files() -> None:
    for table, schema in (
        (columns.RESULTS, RESULTS_SCHEMA), (columns.DEAD_LETTERS, DEAD_LETTER_SCHEMA),
    ):  # fmt: skip
        shown = [(name, kind) for name, kind, _ in table]
        assert shown == [(field.name, str(field.type)) for field in schema]


def test_a_job_without_partitions_or_schedule(make_spec: MakeSpec) -> None:
    repository = build_batch_job(make_spec(partitions=None)).get_repository_def()
    assert repository.schedule_defs == []
    node = repository.asset_graph.get(asset_key("review", "input_dataset"))
    assert node.partitions_def is not None
    assert node.partitions_def.get_partition_keys() == [partitions.SINGLE_KEY]


@pytest.mark.parametrize("end_offset", [0, 1])
def test_dagster_and_the_command_line_mean_the_same_partitions(
    make_spec: MakeSpec, end_offset: int
) -> None:
    spec = make_spec(
        partitions={"start": "2026-10-20", "timezone": "Europe/Zurich", "end_offset": end_offset}
    )
    now = datetime(2026, 11, 1, 0, 30, tzinfo=UTC)
    keys = partitions_definition(spec).get_partition_keys(current_time=now)
    assert list(keys) == partitions.all_keys(spec.partitions, now)


HOURS = {"every": "hour", "start": "2026-10-01", "timezone": "Europe/Zurich"}
# What is declared, the time of a tick, and what it runs.
TICKS: list[tuple[Any, datetime, list[str]]] = [
    ({"start": "2026-11-01"}, datetime(2026, 11, 10, 1, tzinfo=UTC), ["2026-11-09"]),
    (
        {"start": "2026-11-01", "timezone": "Europe/Zurich"},
        datetime(2026, 11, 9, 23, 30, tzinfo=UTC),
        ["2026-11-09"],
    ),
    ({"start": "2026-11-01", "end_offset": 1}, datetime(2026, 11, 10, tzinfo=UTC), ["2026-11-10"]),
    # The clocks are put back from 03:00 to 02:00, at 01:00 in UTC.
    (HOURS, datetime(2026, 10, 25, 1, 5, tzinfo=UTC), ["2026-10-25-02:00"]),
    (HOURS, datetime(2026, 10, 25, 2, 5, tzinfo=UTC), ["2026-10-25-02:00+0100"]),
    (["acme", "globex"], datetime(2026, 11, 10, tzinfo=UTC), ["acme", "globex"]),
    (None, datetime(2026, 11, 10, tzinfo=UTC), ["all"]),
    ({"start": "2026-11-10"}, datetime(2026, 11, 10, 1, tzinfo=UTC), []),
]


def test_a_tick_of_the_schedule_runs_what_has_ended_last(
    make_spec: MakeSpec, instance: dg.DagsterInstance
) -> None:
    for declared, tick, expected in TICKS:
        definitions = build_batch_job(make_spec(partitions=declared, schedule="0 1 * * *"))
        context = dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=tick,
            repository_def=definitions.get_repository_def(),
        )
        data = definitions.resolve_schedule_def("review_nightly").evaluate_tick(context)
        if not expected:
            assert "no partition yet" in str(data.skip_message)
        requests = data.run_requests or ()
        assert [request.partition_key for request in requests] == expected
        for request in requests:
            assert request.run_key == f"{request.partition_key}@{tick.isoformat()}"
            # What tells its runs from those of the sensor.
            assert FOLLOW_UP_TAG not in request.tags


@pytest.mark.parametrize(
    ("selection", "steps", "first"),
    [
        (None, None, "input_dataset"),
        (["pilot_sample", "submitted_batches"], None, "pilot_sample"),
        (["submitted_batches", "collected_results"], None, "submitted_batches"),
        (None, ["review__submitted_batches"], "submitted_batches"),
        (None, [f"{SPREAD}_share[1]", f"{SPREAD}_end"], "submitted_batches"),
    ],
)
def test_the_first_step_of_a_run(
    selection: list[str] | None, steps: list[str] | None, first: str
) -> None:
    every = [*ASSETS[Kind.SUBMIT], *ASSETS[Kind.COLLECT]]
    chosen = [asset_key("review", name) for name in selection or every]
    run = dg.DagsterRun(job_name="any", step_keys_to_execute=steps)
    assert selected_of(run, chosen, "review")[0] == first


def test_both_kinds_have_their_assets() -> None:
    assert [len(ASSETS[kind]) for kind in Kind] == [3, 3]


class TestCodeLocation:
    """`batch_pipeline.definitions`, as Dagster loads it."""

    @pytest.fixture(autouse=True)
    def _jobs_folder(
        self, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A folder of two jobs, to which the environment points."""
        monkeypatch.setenv("BATCH_PIPELINE_JOBS_DIR", str(tmp_path / "jobs"))
        for name in ("contracts", "tickets"):
            self.declare(tmp_path, name, JOB.format(name=name))

    def declare(self, folder: Path, name: str, text: str) -> Path:
        file = folder / "jobs" / name / "defs.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def load(self) -> dg.Definitions:
        from batch_pipeline.definitions import defs  # noqa: PLC0415

        loaded = defs()
        assert isinstance(loaded, dg.Definitions)
        return loaded

    def test_every_job_of_the_folder_is_there(self) -> None:
        repository = self.load().get_repository_def()
        assert {sensor.name for sensor in repository.sensor_defs} == {
            "contracts_batches",
            "tickets_batches",
        }

    def test_one_wrong_declaration_fails_the_whole_location(self, tmp_path: Path) -> None:
        file = self.declare(
            tmp_path, "wrong", JOB.format(name="wrong").replace("model_id", "model")
        )
        with pytest.raises(DeclarationError, match=f"{file}:7: attributes.model: unknown key"):
            self.load()

    def test_a_relative_home_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BATCH_PIPELINE_HOME", "home")
        with pytest.raises(UsageError, match="relative"):
            self.load()


def test_the_workspace_and_the_instance_are_read_by_dagster(tmp_path: Path) -> None:
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_bytes())
    [location] = workspace["load_from"]
    assert location["python_module"] == {
        "module_name": "batch_pipeline.definitions",
        "location_name": "batch_pipeline",
    }
    (tmp_path / "dagster.yaml").write_bytes((ROOT / "dagster.yaml").read_bytes())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        assert instance.run_retries_enabled
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] == 300
        assert "batch_pipeline" in instance.managed_python_loggers
