"""A job as Dagster's daemons would run it, a step at a time and in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from dagster import AssetKey

from batch_pipeline.orchestration.names import Kind, asset_key, dagster_job, sensor_name
from batch_pipeline.orchestration.resources import DEFAULT, RESOURCE_KEY

PATIENCE_SECONDS = 30


@dataclass
class Nightly:
    """The definitions of one job, an instance, and what its sensor said so far."""

    name: str
    definitions: dg.Definitions
    instance: dg.DagsterInstance
    cursor: str | None = None
    run_keys: set[str] = field(default_factory=set)
    observations: list[dg.AssetObservation] = field(default_factory=list)
    checks: list[dg.AssetCheckEvaluation] = field(default_factory=list)

    def launch(
        self,
        partition: str | None,
        *,
        kind: Kind = Kind.SUBMIT,
        assets: Sequence[AssetKey] | None = None,
        tags: dict[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        job = self.definitions.resolve_job_def(dagster_job(self.name, kind))
        return job.execute_in_process(
            partition_key=partition,
            instance=self.instance,
            asset_selection=assets,
            tags=tags,
            raise_on_error=False,
        )

    def launch_everything(self, partition: str) -> dg.ExecuteInProcessResult:
        """What "Materialize all" does."""
        job = self.definitions.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            partition_key=partition, instance=self.instance, raise_on_error=False
        )

    def tick(self) -> Any:
        """Evaluate the sensor as its daemon does; the run requests are returned, not executed."""
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            definitions=self.definitions,
            resources={RESOURCE_KEY: DEFAULT},
            sensor_name=sensor_name(self.name),
        )
        sensor = self.definitions.resolve_sensor_def(sensor_name(self.name))
        data = sensor.evaluate_tick(context)
        self.cursor = data.cursor
        for event in data.asset_events:
            self.instance.report_runless_asset_event(event)
            if isinstance(event, dg.AssetCheckEvaluation):
                self.checks.append(event)
                continue
            assert isinstance(event, dg.AssetObservation)
            self.observations.append(event)
        return data

    def follow(self, requests: Sequence[dg.RunRequest]) -> list[dg.ExecuteInProcessResult]:
        """Run what the sensor asked for, each run key once for ever."""
        results = []
        for request in requests:
            assert request.run_key is not None
            assert request.job_name is not None
            if request.run_key in self.run_keys:
                continue
            self.run_keys.add(request.run_key)
            job = self.definitions.resolve_job_def(request.job_name)
            result = job.execute_in_process(
                partition_key=request.partition_key,
                instance=self.instance,
                asset_selection=request.asset_selection,
                tags=dict(request.tags),
                raise_on_error=False,
            )
            results.append(result)
        return results

    def run_to_the_end(self, *partitions: str) -> None:
        """Tick and follow until the results of the nights are there."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(self.materialized("collected_results", p) for p in partitions):
            assert time.monotonic() < deadline, self.tick().skip_message
            if not self.follow(self.tick().run_requests):
                time.sleep(0.1)

    def materialized(self, asset: str, partition: str) -> bool:
        key = asset_key(self.name, asset)
        return partition in self.instance.get_materialized_partitions(key)

    def metadata(self, asset: str, partition: str) -> dict[str, Any]:
        """The metadata of the latest materialization, as plain values."""
        found = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(
                asset_key=asset_key(self.name, asset), asset_partitions=[partition]
            ),
            limit=1,
        )
        materialization = found.records[0].asset_materialization
        assert materialization is not None
        return {name: value.value for name, value in materialization.metadata.items()}


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """What a person reads of a failed run."""
    [event] = [event for event in result.all_events if event.is_step_failure]
    failure = event.step_failure_data
    assert failure.user_failure_data is not None
    return str(failure.user_failure_data.description)
