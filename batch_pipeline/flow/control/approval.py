"""Records that a person overruled a closed gate of a night, and why.

Nothing is sent here: the next run of the night is let through. The verdict of the gate stays on
record, with the approval beside it.
"""

from __future__ import annotations

import getpass
import os
import socket

from batch_pipeline.errors import UsageError
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.gates.night_gates import verdict_applies
from batch_pipeline.flow.pilot import page
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status import progress as progress_of
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.control import approvals
from batch_pipeline.ledger.control.approvals import Approval, Gate
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)


def approve(
    pipeline: Pipeline, spec: JobSpec, night: Night, gate: Gate, reason: str, who: str
) -> Approval:
    """Record that `who` overruled a closed gate of a night; the same again changes nothing.

    Raises UsageError where no reason is given, or that gate is not closed.
    """
    reason = reason.strip()
    if not reason:
        raise UsageError("An approval needs a reason: it is what others read later.")
    with pipeline.ledger.write() as connection:
        state = progress_of.of_night(connection, night.id)
        place = f"{night.job} {night.partition}"
        snapshot = state.snapshot
        if snapshot is None:
            raise UsageError(f"{place} has no input yet, so that no gate of it is closed.")
        if not Declaration.of(spec).has_made(snapshot):
            raise UsageError(
                f"The declaration of {spec.name} has changed since {place} was tried: what it is "
                "now has not been judged. Run the night again instead."
            )
        given = _given(state, snapshot, gate)
        if given is not None:
            return given
        if not _is_closed(state, snapshot, spec, gate):
            raise UsageError(
                f"The {gate} gate of {place} is not closed, there is nothing to approve."
                f"{_not_judged_yet(state, snapshot, gate)}"
            )
        approval = approvals.add(
            connection,
            night.id,
            gate,
            declaration_hash=snapshot.declaration_hash,
            content_hash=snapshot.content_hash,
            reason=reason,
            approved_by=who,
        )
    if gate is Gate.PILOT and state.night.pilot is not None:
        # It says from now on who approved it.
        page.write(pipeline, spec, night, snapshot, state.night.pilot)
    log.warning("%s: the %s gate was approved by %s: %s", place, gate, who, reason)
    return approval


def parse(text: str) -> tuple[Gate, str]:
    """`pilot: reason` or `breaker: reason`; raises UsageError for anything else."""
    name, _, reason = text.partition(":")
    try:
        gate = Gate(name.strip())
    except ValueError:
        gates = " or ".join(f"`{gate}: reason`" for gate in Gate)
        raise UsageError(f"An approval is written as {gates}, not {text!r}.") from None
    return gate, reason.strip()


def user_at_host() -> str:
    """The user of this process and its machine, to be recorded with an approval."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        # A container may run under a number that has no name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _not_judged_yet(state: Progress, snapshot: Snapshot, gate: Gate) -> str:
    """That the pilot has no verdict yet: there is nothing that a person can have looked at."""
    if gate is not Gate.PILOT or verdict_applies(state.night.pilot, snapshot):
        return ""
    return " Its pilot has not been judged yet: run the night, look at the pilot's page, approve."


def _given(state: Progress, snapshot: Snapshot, gate: Gate) -> Approval | None:
    """The latest approval that covers a gate already: the same command may be given twice."""
    covering = [
        approval
        for approval in state.approvals
        if approvals.covers([approval], gate, snapshot.declaration_hash, snapshot.content_hash)
    ]
    return covering[-1] if covering else None


def _is_closed(state: Progress, snapshot: Snapshot, spec: JobSpec, gate: Gate) -> bool:
    if gate is Gate.BREAKER:
        return state.breaker(spec.alerts) is not None
    verdict = state.night.pilot
    if verdict is None or not verdict_applies(verdict, snapshot):
        return False
    return not verdict["open"] or approvals.needs_review(verdict)
