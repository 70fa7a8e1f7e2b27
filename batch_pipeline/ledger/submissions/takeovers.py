"""Take-overs in the ledger: batches whose requests real-time calls are to answer before a deadline.

Belongs here: the rows with the money that is reserved for the calls. Whether a batch is taken over,
and whether that fits the budget, is decided in the transaction that reserves (`admission`); what is
then done at the API stands in `flow.deadline.takeover`.

    reserved → cancelled at the API → the batch ends and is collected → its open requests are
    claimed by real-time shards, which use the reservation up; what is left then is released
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import nights, shards
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import LIVE, Submission


@dataclass(frozen=True)
class Takeover:
    """One batch; amounts in USD, `left_usd` is the part that no real-time shard has claimed yet."""

    submission_id: int
    night_id: int
    usd: Decimal
    left_usd: Decimal
    reserved_at: float
    cancelled_at: float | None


def reserve(connection: Connection, submission: Submission, usd: Decimal) -> None:
    """Reserve the real-time price of a batch; the caller has checked that it fits."""
    connection.execute(
        sa.insert(tables.takeover).values(
            submission_id=submission.id,
            night_id=submission.night_id,
            usd=usd,
            left_usd=usd,
            reserved_at=now(connection),
        )
    )


def mark_cancelled(connection: Connection, submission_id: int) -> None:
    connection.execute(
        sa.update(tables.takeover)
        .where(
            tables.takeover.c.submission_id == submission_id,
            tables.takeover.c.cancelled_at.is_(None),
        )
        .values(cancelled_at=now(connection))
    )


def of_night(connection: Connection, night_id: int) -> dict[int, Takeover]:
    """The take-overs of a night by submission id, oldest first."""
    query = (
        sa.select(tables.takeover)
        .where(tables.takeover.c.night_id == night_id)
        .order_by(tables.takeover.c.submission_id)
    )
    rows = connection.execute(query).mappings()
    return {row["submission_id"]: Takeover(**row) for row in rows}


def use(connection: Connection, night_id: int, usd: Decimal) -> None:
    """Take the bound that a real-time shard of the night has claimed out of what is reserved."""
    for takeover in of_night(connection, night_id).values():
        used = min(takeover.left_usd, usd)
        if used:
            _set_left(connection, takeover.submission_id, takeover.left_usd - used)
            usd -= used


def settle(connection: Connection, night_id: int) -> None:
    """Release the reservation of a night once no real-time shard will claim it any more.

    That is when no batch that is taken over is in flight and no request of the night waits, or when
    the night is held.
    """
    reserved = [t for t in of_night(connection, night_id).values() if t.left_usd]
    if not reserved:
        return
    night = nights.get_night(connection, night_id)
    if night.held_at is None:
        live = {s.id for s in submissions.of_night(connection, night_id, *LIVE)}
        if night.open_requests or any(t.submission_id in live for t in reserved):
            return
        if shards.next_to_go(connection, night_id, "realtime") is not None:
            return
    release(connection, night_id)


def release(connection: Connection, night_id: int) -> None:
    """Release all that is reserved for a night and not claimed."""
    connection.execute(
        sa.update(tables.takeover)
        .where(tables.takeover.c.night_id == night_id)
        .values(left_usd=Decimal(0))
    )


def _set_left(connection: Connection, submission_id: int, usd: Decimal) -> None:
    connection.execute(
        sa.update(tables.takeover)
        .where(tables.takeover.c.submission_id == submission_id)
        .values(left_usd=usd)
    )
