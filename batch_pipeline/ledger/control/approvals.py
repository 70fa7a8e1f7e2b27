"""Approvals in the ledger: which person overruled which closed gate, and why.

Rows are never changed. The declaration and the input that an approval is meant for are recorded
with it. When a gate is closed is decided in `flow.gates` and `flow.pilot`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.wording import iso

# The value of `review` in a verdict, as a job declares it.
REQUIRED = "required"


class Gate(StrEnum):
    """The gates that a person may overrule."""

    PILOT = "pilot"
    BREAKER = "breaker"


@dataclass(frozen=True)
class Approval:
    """A gate of a night overruled, for one declaration; `content_hash` is the input's at the time.

    `approved_at` is in seconds since the epoch.
    """

    id: int
    night_id: int
    gate: Gate
    declaration_hash: str
    content_hash: str
    reason: str
    approved_by: str
    approved_at: float

    def as_json(self) -> dict[str, Any]:
        return {
            "gate": str(self.gate),
            "reason": self.reason,
            "approved_by": self.approved_by,
            "approved_at": iso(self.approved_at),
        }


def add(
    connection: Connection,
    night_id: int,
    gate: Gate,
    *,
    declaration_hash: str,
    content_hash: str,
    reason: str,
    approved_by: str,
) -> Approval:
    connection.execute(
        sa.insert(tables.approval).values(
            night_id=night_id,
            gate=gate.value,
            declaration_hash=declaration_hash,
            content_hash=content_hash,
            reason=reason,
            approved_by=approved_by,
            approved_at=now(connection),
        )
    )
    return of_night(connection, night_id)[-1]


def covers(
    approvals: Iterable[Approval], gate: Gate, declaration_hash: str, content_hash: str
) -> bool:
    """Whether a gate was overruled: the pilot's for this declaration and input, the breaker's for
    this declaration."""
    return any(
        approval.gate is gate
        and approval.declaration_hash == declaration_hash
        and (gate is Gate.BREAKER or approval.content_hash == content_hash)
        for approval in approvals
    )


def lets_go(verdict: Mapping[str, Any], given: Iterable[Approval]) -> bool:
    """Whether a night may go on after its pilot: the verdict is good and needs no person's review,
    or a person has approved it."""
    if verdict["open"] and not needs_review(verdict):
        return True
    return covers(given, Gate.PILOT, verdict["declaration_hash"], verdict["content_hash"])


def needs_review(verdict: Mapping[str, Any]) -> bool:
    """Whether a person has to look at the sample of a verdict, however good it is."""
    return verdict.get("review") == REQUIRED and verdict["sample"] > 0


def of_night(connection: Connection, night_id: int) -> tuple[Approval, ...]:
    """A night's approvals, oldest first."""
    query = (
        sa.select(tables.approval)
        .where(tables.approval.c.night_id == night_id)
        .order_by(tables.approval.c.id)
    )
    return tuple(
        Approval(**{**row, "gate": Gate(row["gate"])})
        for row in connection.execute(query).mappings()
    )
