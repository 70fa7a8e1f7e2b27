"""`approve`: a person overrules a closed gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from batch_pipeline.cli import opening
from batch_pipeline.cli.options import Job, Json, Partition
from batch_pipeline.cli.output import Output, as_typed
from batch_pipeline.safe_text import one_line

if TYPE_CHECKING:
    from batch_pipeline.ledger.control.approvals import Approval
    from batch_pipeline.ledger.nights import Night


def approve(
    context: typer.Context,
    job: Job,
    gate: Annotated[str, typer.Option("--gate", metavar="pilot|breaker", help="Which gate.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; others read it later.")],
    partition: Partition = None,
    as_json: Json = False,
) -> None:
    """Overrule a closed gate; the next run lets the night go as it is."""
    from batch_pipeline.flow.control import approval

    pipeline, spec, key = opening.open_night(context, job, partition)
    named, _ = approval.parse(gate)
    night = opening.shown_night(pipeline, spec, key)
    given = approval.approve(pipeline, spec, night, named, reason, approval.user_at_host())
    show_approval(context.obj, night, given)


def show_approval(output: Output, night: Night, given: Approval) -> None:
    """What was recorded, and what to do now."""
    document = {"job": night.job, "partition": night.partition, **given.as_json()}

    def show() -> None:
        overruled = f"the {given.gate} gate was approved by {given.approved_by}: {given.reason}"
        print(one_line(f"{night.job} {night.partition}: {overruled}"))
        print(f"Go on with: {as_typed()} run {night.job} --partition {night.partition}")

    output.answer(document, show)
