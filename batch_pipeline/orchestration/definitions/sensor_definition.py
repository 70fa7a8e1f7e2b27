"""The job's sensor as Dagster knows it; a tick is in `sensor.tick`, which imports the flow."""

# Annotations are not postponed here: Dagster reads those of the sensor's function.

import dagster as dg

from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.definitions.executors import AssetJob
from batch_pipeline.orchestration.names import sensor_name
from batch_pipeline.orchestration.resources import PipelineResource
from batch_pipeline.settings import Settings


def build_sensor(spec: JobSpec, submit: AssetJob, collect: AssetJob) -> dg.SensorDefinition:
    """The job's sensor; it is on by default, since answers that are paid for must be fetched."""

    @dg.sensor(
        name=sensor_name(spec.name),
        jobs=[submit, collect],
        minimum_interval_seconds=max(1, round(Settings.from_environment().poll_seconds)),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Polls the API and goes on with the nights that are not complete.",
    )
    def batches(
        context: dg.SensorEvaluationContext, batch_pipeline: PipelineResource
    ) -> dg.SensorResult:
        from batch_pipeline.orchestration.sensor.tick import tick  # noqa: PLC0415  # the flow

        return tick(context, batch_pipeline.pipeline, spec)

    return batches
