"""The job `<job>_control`: what a person does to a night."""

# Annotations are not postponed here: Dagster reads the types of configuration at run time.

import dagster as dg

from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.names import SUBMITTED_BATCHES, asset_key, control_job
from batch_pipeline.orchestration.resources import PipelineResource
from batch_pipeline.orchestration.steps.control_config import ControlConfig, Prune


def build_control(spec: JobSpec) -> dg.JobDefinition:
    """The job's control job."""
    name = control_job(spec.name)

    @dg.op(name=f"{spec.name}__control", description="Does one action and records who did it.")
    def control(
        context: dg.OpExecutionContext, config: ControlConfig, batch_pipeline: PipelineResource
    ) -> None:
        from batch_pipeline.orchestration.steps import control_steps  # noqa: PLC0415  # the flow

        said = control_steps.do(batch_pipeline, spec, config.by, config.action)
        context.log.info(said)
        if isinstance(config.action, Prune):
            return
        context.log_event(
            dg.AssetObservation(
                asset_key=asset_key(spec.name, SUBMITTED_BATCHES),
                partition=config.action.partition,
                description=said,
                metadata={"last_action": said},
            )
        )

    @dg.job(
        name=name,
        executor_def=dg.in_process_executor,
        # What the launchpad begins with: without it, Dagster writes out all actions at once. An
        # empty `by` is refused.
        config={
            "ops": {
                f"{spec.name}__control": {
                    "config": {"by": "", "action": {"resume": {"partition": "", "reason": ""}}}
                }
            }
        },
        description=(
            "Cancel, resume, approve, redrive or prune, recorded with who did it. In the "
            "launchpad, for example:\n\n```yaml\nops:\n"
            f"  {spec.name}__control:\n    config:\n      by: your name\n      action:\n"
            '        redrive: {partition: "2026-01-31", reasons: [refused]}\n```\n\n'
            "The sensor goes on with the night afterwards."
        ),
    )
    def control_of_job() -> None:
        control()

    return control_of_job
