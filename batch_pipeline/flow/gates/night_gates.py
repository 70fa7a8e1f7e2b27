"""A night's gates, read for admission: the declaration, the pilot's verdict, the circuit breaker.

Belongs here: what of a verdict counts for a night, and which gates are closed for a shard. How a
pilot is judged stands in `pilot`, when the breaker opens in `breaker`, and how a closed gate is
worded in `ledger.admission.night_state`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.gates import breaker
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger import snapshots as inputs
from batch_pipeline.ledger.admission.admission import ReadGates
from batch_pipeline.ledger.admission.night_state import ClosedGate, Gates
from batch_pipeline.ledger.control import approvals
from batch_pipeline.ledger.control.approvals import Approval
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard
from batch_pipeline.ledger.snapshots import Snapshot


def read_gates(spec: JobSpec) -> ReadGates:
    """The function with which admission reads the gates of a night of this job."""
    declaration = Declaration.of(spec)

    def read(connection: Connection, night: Night, shard: Shard) -> Gates:
        return gates_of(connection, spec, declaration, night, pilot_shard=shard.pilot)

    return read


def gates_of(
    connection: Connection,
    spec: JobSpec,
    declaration: Declaration,
    night: Night,
    *,
    pilot_shard: bool = False,
) -> Gates:
    """Which gates are closed for a shard of a night; the pilot's own goes without its verdict."""
    night = nights.get_night(connection, night.id)
    snapshot = None
    if night.snapshot_id is not None:
        snapshot = inputs.get_snapshot(connection, night.snapshot_id)
    verdict = night.pilot if verdict_applies(night.pilot, snapshot) else None
    overruled = approvals.of_night(connection, night.id)
    return Gates(
        declaration_changed=snapshot is not None and not declaration.has_made(snapshot),
        pilot=None if pilot_shard else pilot_gate(verdict, overruled),
        judged=pilot_shard or verdict is not None,
        breaker=breaker.look(connection, spec.alerts, night),
    )


def pilot_gate(
    verdict: Mapping[str, Any] | None, overruled: Sequence[Approval] = ()
) -> ClosedGate | None:
    """Why a verdict keeps the rest of its night back; None: it does not, or there is none yet.

    What broke the limits comes first; a good verdict is held where a person has to review it.
    """
    if verdict is None or approvals.lets_go(verdict, overruled):
        return None
    tried = f"{verdict.get('sample', 0):,} requests were tried, nothing else was sent"
    reasons, review = list(verdict["reasons"]), bool(verdict["open"])
    if review:
        reasons = ["pilot.review is required, and no person has approved this pilot yet"]
        if verdict.get("page") is None:
            reasons.append("its page could not be written, and is with the next run")
    return ClosedGate(
        f"{'; '.join(reasons)} ({tried})",
        tuple(verdict.get("examples", ())),
        page=verdict.get("page"),
        review=review,
    )


def verdict_applies(verdict: Mapping[str, Any] | None, snapshot: Snapshot | None) -> bool:
    """Whether there is a pilot's verdict, and it is valid for this snapshot."""
    return verdict is not None and snapshot is not None and snapshot.is_judged_by(verdict)
