"""The two checks of all nights together: the sensor reports them, and "Execute" looks at once.

How they look is in `missing_nights` and `stopped_nights`, which import the flow.
"""

# Annotations are not postponed here: Dagster reads those of a check's function.

import dagster as dg

from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.checks.due_nights import LOOK_BACK
from batch_pipeline.orchestration.names import (
    EVERY_DUE_NIGHT_BEGAN,
    INPUT_DATASET,
    NO_NIGHT_IS_STOPPED,
    SUBMITTED_BATCHES,
    asset_key,
    control_job,
)
from batch_pipeline.orchestration.resources import PipelineResource


def build_checks(spec: JobSpec) -> list[dg.AssetChecksDefinition]:
    """The checks of a job; that its due nights began only where it has a schedule."""
    return [*([] if spec.schedule is None else [_due_nights(spec)]), _stopped_nights(spec)]


def _due_nights(spec: JobSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset_key(spec.name, INPUT_DATASET),
        name=EVERY_DUE_NIGHT_BEGAN,
        description=(
            "Each night that the schedule was to run has begun within an hour, since the job's "
            f"first night and for {LOOK_BACK.days} days. The sensor looks at every tick."
        ),
    )
    def every_due_night_began(
        context: dg.AssetCheckExecutionContext, batch_pipeline: PipelineResource
    ) -> dg.AssetCheckResult:
        from batch_pipeline.orchestration.checks import missing_nights  # noqa: PLC0415  # the flow

        with batch_pipeline.pipeline() as pipeline:
            return missing_nights.look(context.instance, pipeline, spec)

    return every_due_night_began


def _stopped_nights(spec: JobSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset_key(spec.name, SUBMITTED_BATCHES),
        name=NO_NIGHT_IS_STOPPED,
        description=(
            "No unfinished night waits for a person: a closed gate, a budget, a refusal, a paused "
            "account; a warning for nights that a person holds. The sensor looks at every tick. "
            f"The job {control_job(spec.name)} overrules a gate and lets a held night go on."
        ),
    )
    def no_night_is_stopped(
        context: dg.AssetCheckExecutionContext,  # noqa: ARG001  # Dagster gives it
        batch_pipeline: PipelineResource,
    ) -> dg.AssetCheckResult:
        from batch_pipeline.orchestration.checks import stopped_nights  # noqa: PLC0415  # the flow

        with batch_pipeline.pipeline() as pipeline:
            return stopped_nights.look(pipeline, spec)

    return no_night_is_stopped
