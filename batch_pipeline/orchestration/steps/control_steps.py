"""What the op of `<job>_control` does: one action of a person on a night."""

from __future__ import annotations

from batch_pipeline import safe_text
from batch_pipeline.flow.control.actions import Control
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.control.approvals import Gate
from batch_pipeline.orchestration import dagster_failures
from batch_pipeline.orchestration.resources import PipelineResource
from batch_pipeline.orchestration.steps.control_config import (
    Action,
    Approve,
    Cancel,
    Prune,
    Redrive,
    Resume,
)


def do(resource: PipelineResource, spec: JobSpec, by: str, action: Action) -> str:
    """Do an action; returns what was done, in a sentence."""
    with dagster_failures.failing_clearly(), resource.pipeline() as pipeline:
        return safe_text.one_line(_do(Control(pipeline, spec, by), action))


def _do(person: Control, action: Action) -> str:
    match action:
        case Cancel():
            return person.cancel(action.partition, action.reason)
        case Resume():
            return person.resume(action.partition, action.reason)
        case Approve():
            return person.approve(action.partition, Gate(action.gate.value), action.reason)
        case Redrive():
            return person.redrive(action.partition, action.reasons, action.reason)
        case Prune():
            return person.prune(
                action.before, action.partition, dry_run=action.dry_run, reason=action.reason
            )
