"""What a person does to a night, recorded with a name; the actions of `<job>_control`.

Each action is done and then recorded, with who did it: open-source Dagster does not know its users,
so that the name is asked for. The command line records its own with the user of its process. An
action that is refused raises UsageError and is not recorded.
"""

from __future__ import annotations

from collections.abc import Collection

from batch_pipeline.errors import UsageError
from batch_pipeline.flow import steps
from batch_pipeline.flow.batches import cancel as cancelling
from batch_pipeline.flow.control import approval
from batch_pipeline.flow.control import prune as pruning
from batch_pipeline.flow.control import redrive as redriving
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.partitions.partitions import check_boundary
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.control import actions
from batch_pipeline.ledger.control.actions import ActionKind
from batch_pipeline.ledger.control.approvals import Gate
from batch_pipeline.ledger.nights import Night
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

NAME_CHARACTERS = 200
# After one of these actions the night goes on: the sensor may send what waits.
GOES_ON = (ActionKind.RESUME, ActionKind.APPROVE, ActionKind.REDRIVE)


class Control:
    """The actions on nights of a job by one person; each returns what was done, in a sentence."""

    def __init__(self, pipeline: Pipeline, spec: JobSpec, by: str) -> None:
        self.pipeline, self.spec, self.by = pipeline, spec, by.strip()
        if not self.by:
            raise UsageError("`by` is empty: say who does this, a name that others know.")
        if len(self.by) > NAME_CHARACTERS:
            raise UsageError(f"`by` is longer than {NAME_CHARACTERS} characters.")

    def cancel(self, partition: str, reason: str = "") -> str:
        """Hold the night and cancel its batches; what is done is kept."""
        night = self._night(partition)
        if steps.progress(self.pipeline, night).complete:
            raise UsageError(f"{self._place(partition)} is complete; there is nothing to cancel.")
        count = cancelling.hold(self.pipeline, night)
        outcome = f"held; batches being cancelled: {count}"
        return self._record(ActionKind.CANCEL, partition, reason, outcome)

    def resume(self, partition: str, reason: str = "") -> str:
        """Lift a cancel, a refusal and a pause: the night goes on."""
        night = self._night(partition)
        held = night.held_at is not None
        steps.release(self.pipeline, night, resume=True)
        steps.note_asked(self.pipeline, night)
        outcome = "goes on" if held else "was not held; pauses are lifted and it is tried again"
        return self._record(ActionKind.RESUME, partition, reason, outcome)

    def approve(self, partition: str, gate: Gate, reason: str) -> str:
        """Approve a closed gate: overrule it, or let a reviewed pilot go."""
        night = self._night(partition)
        given = approval.approve(self.pipeline, self.spec, night, gate, reason, self.by)
        outcome = f"the {given.gate} gate is approved"
        return self._record(ActionKind.APPROVE, partition, given.reason, outcome)

    def redrive(self, partition: str, statuses: Collection[str] = (), reason: str = "") -> str:
        """Send dead letters again, all or those of some statuses."""
        found = redriving.redrive(self.pipeline, self.spec, partition, statuses)
        return self._record(ActionKind.REDRIVE, partition, reason, found.describe())

    def prune(
        self,
        before: str | None,
        partition: str | None = None,
        *,
        dry_run: bool,
        reason: str = "",
    ) -> str:
        """Remove snapshots and raw lines of finished nights before a partition, or of one."""
        night = before or partition
        if night is None or (before and partition):
            raise UsageError("Give either `before` or `partition`.")
        if before is not None:
            check_boundary(self.spec.partitions, before)
        pruned = pruning.prune(
            self.pipeline, self.spec, before, partition=partition, dry_run=dry_run
        )
        outcome = "; ".join(pruning.describe(pruned, dry_run=dry_run))
        if dry_run:
            return f"{self.spec.name} {'before ' if before else ''}{night}: {outcome}"
        return self._record(ActionKind.PRUNE, night, reason, outcome)

    def _night(self, partition: str) -> Night:
        """The night of the job's present owner, which has to have begun."""
        owner = self.pipeline.owner(self.spec).name
        with self.pipeline.ledger.read() as connection:
            night = nights.find_night(connection, self.spec.name, partition, owner)
        if night is None:
            raise UsageError(
                f"{self._place(partition)} has not been run for owner {owner!r}: materialize "
                "input_dataset, pilot_sample and submitted_batches of it."
            )
        return night

    def _place(self, partition: str) -> str:
        return f"{self.spec.name} {partition}"

    def _record(self, kind: ActionKind, partition: str, reason: str, outcome: str) -> str:
        record(self.pipeline, self.spec.name, partition, kind, self.by, outcome, reason)
        return f"{self._place(partition)}: {kind} by {self.by}: {outcome}"


def record(
    pipeline: Pipeline,
    job: str,
    partition: str,
    kind: ActionKind,
    by: str,
    outcome: str,
    reason: str = "",
) -> None:
    """Record an action that was done, in the ledger and in the log."""
    with pipeline.ledger.write() as connection:
        actions.record(
            connection, job, partition, kind, by=by, reason=reason.strip(), outcome=outcome
        )
    log.info("%s %s: %s by %s: %s", job, partition, kind, by, outcome)
