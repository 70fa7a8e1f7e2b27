"""All Dagster definitions of one job; assembly only."""

from __future__ import annotations

import dagster as dg

from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.dagster_partitions import partitions_definition
from batch_pipeline.orchestration.definitions import asset_options
from batch_pipeline.orchestration.definitions.assets import build_assets
from batch_pipeline.orchestration.definitions.check_definitions import build_checks
from batch_pipeline.orchestration.definitions.control import build_control
from batch_pipeline.orchestration.definitions.io_manager import DEFAULT_IO_MANAGER, IO_MANAGER_KEY
from batch_pipeline.orchestration.definitions.jobs import build_jobs, build_schedule
from batch_pipeline.orchestration.definitions.sensor_definition import build_sensor
from batch_pipeline.orchestration.names import Kind
from batch_pipeline.orchestration.resources import DEFAULT, RESOURCE_KEY, PipelineResource


def build_batch_job(spec: JobSpec, *, resource: PipelineResource = DEFAULT) -> dg.Definitions:
    """All that Dagster needs for one job: assets, three jobs, schedule, sensor, resource,
    and the IO manager that gives results to assets downstream.

    Definitions of several jobs merge with `dagster.Definitions.merge`. Tests replace
    `resource`.
    """
    partitions = partitions_definition(spec)
    jobs = build_jobs(spec)
    schedule = build_schedule(spec)
    automation = asset_options.automation_sensor(spec)
    return dg.Definitions(
        assets=build_assets(spec, partitions),
        asset_checks=build_checks(spec),
        jobs=[*jobs.values(), build_control(spec)],
        schedules=[] if schedule is None else [schedule],
        sensors=[
            build_sensor(spec, jobs[Kind.SUBMIT], jobs[Kind.COLLECT]),
            *([] if automation is None else [automation]),
        ],
        resources={RESOURCE_KEY: resource, IO_MANAGER_KEY: DEFAULT_IO_MANAGER},
    )
