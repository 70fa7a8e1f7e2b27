"""The circuit breaker: stops a night when too many of its first attempts need a fix.

Without it a wrong prompt or schema would be paid for in every request of the night. It counts first
attempts that were sent with the night's present declaration and that the API worked on; requests
that are sent again anyway (expired, overloaded, cancelled) are no evidence.

Belongs here: what counts, and the decision, from the ledger's rows alone. Does not belong here:
what a single result means (`outcomes`), and the pilot's own gate (`pilot`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from batch_pipeline.flow.gates.first_attempts import FirstAttempts
from batch_pipeline.jobs.spec import AlertsSpec
from batch_pipeline.ledger import nights, sums
from batch_pipeline.ledger import snapshots as inputs
from batch_pipeline.ledger.admission.night_state import ClosedGate
from batch_pipeline.ledger.control import approvals
from batch_pipeline.ledger.control.approvals import Approval, Gate
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.ledger.sums import Part

if TYPE_CHECKING:
    from batch_pipeline.flow.pipeline import Pipeline

from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)


def judge(
    alert_limits: AlertsSpec,
    snapshot: Snapshot | None,
    first: FirstAttempts,
    overruled: Sequence[Approval],
) -> ClosedGate | None:
    """Why the breaker is open: more first attempts need a fix than the limits allow, and no person
    approved of it; None: it is closed."""
    if snapshot is None or not first.done or first.done < alert_limits.after_items:
        return None
    if _approved(Gate.BREAKER, snapshot, overruled):
        return None
    share = first.needs_fix / first.done
    if share <= alert_limits.error_rate:
        return None
    [(kind, count)] = first.errors.most_common(1)
    return ClosedGate(
        f"{first.needs_fix:,} of {first.done:,} first attempts need a fix "
        f"({share:.1%}, over {alert_limits.error_rate:.1%}), most often {kind} ({count:,})",
        tuple(first.examples.get(kind, ())),
    )


def parts_that_count(
    snapshot: Snapshot, snapshots: Mapping[int, Snapshot], overruled: Sequence[Approval]
) -> set[Part]:
    """The parts of a night whose first attempts are evidence; `snapshots` are all of the night's.

    Parts sent with the present declaration count. A pilot counts only for the input that it was
    drawn from, since corrected input gets another pilot, and not where a person has overruled its
    gate.
    """
    counting: set[Part] = set()
    for snapshot_id, sent_for in snapshots.items():
        if sent_for.declaration_hash != snapshot.declaration_hash:
            continue
        counting.add((snapshot_id, False))
        same_input = sent_for.content_hash == snapshot.content_hash
        if same_input and not _approved(Gate.PILOT, sent_for, overruled):
            counting.add((snapshot_id, True))
    return counting


def first_attempts(
    connection: Connection, night_id: int, snapshot: Snapshot, overruled: Sequence[Approval]
) -> FirstAttempts:
    """What counts of a night's collected first attempts."""
    counting = parts_that_count(snapshot, inputs.snapshots_of(connection, night_id), overruled)
    total = FirstAttempts()
    for part, found in sums.first_attempts(connection, night_id).items():
        if part in counting:
            total.add(FirstAttempts(found.done, found.need_fix, found.errors, found.examples))
    return total


def look(
    connection: Connection,
    alert_limits: AlertsSpec,
    night: Night,
    calls: Iterable[FirstAttempts] = (),
) -> ClosedGate | None:
    """Why a night's breaker is open now, None where it is closed; `calls` are the first attempts
    of real-time calls that are not collected yet."""
    snapshot_id = nights.get_night(connection, night.id).snapshot_id
    if snapshot_id is None:
        return None
    snapshot = inputs.get_snapshot(connection, snapshot_id)
    overruled = approvals.of_night(connection, night.id)
    first = first_attempts(connection, night.id, snapshot, overruled)
    for attempts in calls:
        first.add(attempts)
    return judge(alert_limits, snapshot, first, overruled)


class Watch:
    """Logs when a night's breaker opens: once in each process that collects."""

    def __init__(self, pipeline: Pipeline, alert_limits: AlertsSpec, night: Night) -> None:
        self._pipeline, self._limits, self._night = pipeline, alert_limits, night
        self._before = self._look()

    def collected(self) -> None:
        """To be called after each submission that was collected."""
        after = self._look()
        if after is not None and self._before is None:
            name = f"{self._night.job} {self._night.partition}"
            log.warning("%s: the circuit breaker opened: %s", name, after.reason)
        self._before = after

    def _look(self) -> ClosedGate | None:
        with self._pipeline.ledger.read() as connection:
            return look(connection, self._limits, self._night)


def _approved(gate: Gate, snapshot: Snapshot, overruled: Sequence[Approval]) -> bool:
    return approvals.covers(overruled, gate, snapshot.declaration_hash, snapshot.content_hash)
