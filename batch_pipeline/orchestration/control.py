"""The job `<job>_control`: what a person does to a night, with typed configuration.

The launchpad offers the actions and their fields; "Scaffold missing config" writes them out. `by`
is required, since open-source Dagster does not know its users.
"""

# Annotations are not postponed here: Dagster reads the types of configuration at run time.

from enum import Enum
from typing import Literal

import dagster as dg
from pydantic import Field

from batch_pipeline.flow.outcomes import REASONS
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.names import SUBMITTED_BATCHES, asset_key, control_job
from batch_pipeline.orchestration.resources import PipelineResource

_PARTITION = "The night, as its partition key: 2026-01-31, or `all`."
_WHY = "Why; others read it later."


class GateName(Enum):
    """The gates that a person may overrule; Dagster shows these names."""

    pilot = "pilot"
    breaker = "breaker"


class Cancel(dg.Config):
    """Cancel what is in flight, keep what is done, hold the night until it is resumed."""

    action: Literal["cancel"] = "cancel"
    partition: str = Field(description=_PARTITION)
    reason: str = Field(default="", description=_WHY)


class Resume(dg.Config):
    """Lift a cancel: the night goes on, also where its last run was terminated."""

    action: Literal["resume"] = "resume"
    partition: str = Field(description=_PARTITION)
    reason: str = Field(default="", description=_WHY)


class Approve(dg.Config):
    """Overrule a closed gate: the night goes on as it is."""

    action: Literal["approve"] = "approve"
    partition: str = Field(description=_PARTITION)
    gate: GateName = Field(description="Which gate is closed: pilot or breaker.")
    reason: str = Field(description=_WHY)


class Redrive(dg.Config):
    """Send dead letters again, after a fix of prompt or data."""

    action: Literal["redrive"] = "redrive"
    partition: str = Field(description=_PARTITION)
    reasons: list[str] = Field(
        default=[], description=f"Only these: {', '.join(REASONS)}. Empty: all of them."
    )
    reason: str = Field(default="", description=_WHY)


class Prune(dg.Config):
    """Remove snapshots and raw lines of finished nights; results and reports stay."""

    action: Literal["prune"] = "prune"
    before: str | None = Field(
        default=None, description="The first night that stays, as its partition key or a day."
    )
    partition: str | None = Field(
        default=None, description="One night, in place of `before`: where partitions are names."
    )
    dry_run: bool = Field(default=True, description="Say what would go, remove nothing.")
    reason: str = Field(default="", description=_WHY)


Action = Cancel | Resume | Approve | Redrive | Prune


class ControlConfig(dg.Config):
    """Who does what."""

    by: str = Field(description="Who does this; recorded in the ledger.")
    action: Action = Field(
        discriminator="action", description="One of: cancel, resume, approve, redrive, prune."
    )


def build_control(spec: JobSpec) -> dg.JobDefinition:
    """The job's control job."""
    name = control_job(spec.name)

    @dg.op(name=f"{spec.name}__control", description="Does one action and records who did it.")
    def control(
        context: dg.OpExecutionContext, config: ControlConfig, batch_pipeline: PipelineResource
    ) -> None:
        from batch_pipeline.orchestration import control_steps  # noqa: PLC0415  # the flow

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
