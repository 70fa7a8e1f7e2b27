"""What people did to nights, in the ledger: which action, by whom, why, and what came of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.wording import iso


class ActionKind(StrEnum):
    """What a person can do to a night."""

    CANCEL = "cancel"
    RESUME = "resume"
    APPROVE = "approve"
    REDRIVE = "redrive"
    PRUNE = "prune"


@dataclass(frozen=True)
class Action:
    """A recorded action; `done_at` is in seconds since the epoch."""

    job: str
    partition: str
    kind: str
    done_by: str
    reason: str
    outcome: str
    done_at: float

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "done_at": iso(self.done_at)}


def record(
    connection: Connection,
    job: str,
    partition: str,
    kind: ActionKind,
    *,
    by: str,
    reason: str,
    outcome: str,
) -> None:
    connection.execute(
        sa.insert(tables.action).values(
            job=job,
            partition=partition,
            kind=kind.value,
            done_by=by,
            reason=reason,
            outcome=outcome,
            done_at=now(connection),
        )
    )


def of_night(connection: Connection, job: str, partition: str) -> list[Action]:
    """The actions on a partition, oldest first."""
    columns = [column for column in tables.action.c if column.name != "id"]
    query = (
        sa.select(*columns)
        .where(tables.action.c.job == job, tables.action.c.partition == partition)
        .order_by(tables.action.c.id)
    )
    return [Action(**row) for row in connection.execute(query).mappings()]


def latest(
    connection: Connection, job: str, partition: str, kinds: Collection[ActionKind]
) -> float:
    """When the latest of these actions on a partition was done; 0.0: never."""
    return max(
        (a.done_at for a in of_night(connection, job, partition) if a.kind in kinds), default=0.0
    )
