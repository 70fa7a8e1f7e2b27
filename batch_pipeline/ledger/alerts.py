"""Alerts in the ledger: one for each cause of a night, and whether it was sent.

Belongs here: the rows, and which process sends them. What causes an alert is decided in
`flow.status.alerts`, how it is sent in `flow.status.notification`. A cause is recorded in one
transaction, so that of two processes that see it one sends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.wording import iso

# With the pauses between them, attempts go on for more than an hour: a target that is down for so
# long still gets its alerts, one that is gone for good is given up.
MOST_ATTEMPTS = 5
FIRST_REST_SECONDS = 60.0
# Longer than sending takes: after it another process sends what a process that died has claimed.
LEASE_SECONDS = 180.0
MOST_AT_ONCE = 500


class AlertState(StrEnum):
    """LOGGED: there was no target. WAITING → SENDING → SENT, or WAITING again, at last FAILED."""

    LOGGED = "logged"
    WAITING = "waiting"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"


@dataclass(frozen=True)
class NewAlert:
    """A cause that holds for a night; `account_wide`: one alert for all nights of the account."""

    night_id: int
    cause: str
    code: str
    message: str
    account_wide: bool = False


@dataclass(frozen=True)
class Alert:
    """A recorded cause; `delivered` are positions of targets, times in seconds since the epoch."""

    id: int
    night_id: int
    cause: str
    code: str
    message: str
    recorded_at: float
    state: AlertState
    attempts: int
    next_at: float
    delivered: tuple[int, ...]
    sent_at: float | None

    def as_json(self) -> dict[str, Any]:
        """For `status --json`; without targets, whose addresses are secrets."""
        return {
            "code": self.code,
            "message": self.message,
            "recorded_at": iso(self.recorded_at),
            "state": str(self.state),
            "sent_at": None if self.sent_at is None else iso(self.sent_at),
        }


def known(connection: Connection, causes: Iterable[NewAlert]) -> set[tuple[int, str]]:
    """Those of these causes that are recorded already, as (night id, cause)."""
    wanted = list(causes)
    alert, night = tables.alert.c, tables.night.c
    nights = {cause.night_id for cause in wanted}
    rows = connection.execute(sa.select(alert.night_id, alert.cause).where(
        alert.night_id.in_(nights)
    ))  # fmt: skip
    asked = {(cause.night_id, cause.cause) for cause in wanted}
    found = asked & {(row.night_id, row.cause) for row in rows}
    for cause in wanted:
        if cause.account_wide and (cause.night_id, cause.cause) not in found:
            account = sa.select(night.owner).where(night.id == cause.night_id)
            query = (
                sa.select(alert.id)
                .join(tables.night, night.id == alert.night_id)
                .where(alert.cause == cause.cause, night.owner == account.scalar_subquery())
            )
            if connection.execute(query).first() is not None:
                found.add((cause.night_id, cause.cause))
    return found


def record(connection: Connection, causes: Iterable[NewAlert], *, send: bool) -> list[NewAlert]:
    """Record the causes that are not recorded yet and return them; `send`: there is a target."""
    added = []
    at = now(connection)
    for cause in causes:
        if (cause.night_id, cause.cause) in known(connection, [cause]):
            continue
        connection.execute(
            sa.insert(tables.alert).values(
                night_id=cause.night_id,
                cause=cause.cause,
                code=cause.code,
                message=cause.message,
                recorded_at=at,
                state=(AlertState.WAITING if send else AlertState.LOGGED).value,
                delivered=[],
            )
        )
        added.append(cause)
    return added


def anything_due(connection: Connection) -> bool:
    return (
        connection.execute(sa.select(tables.alert.c.id).where(_due(connection))).first() is not None
    )


def claim(connection: Connection) -> list[Alert]:
    """Take what is to be sent now, oldest first; other processes leave it alone for a lease."""
    at = now(connection)
    query = sa.select(tables.alert).where(_due(connection)).order_by(tables.alert.c.id)
    claimed = []
    for alert in map(_alert, connection.execute(query.limit(MOST_AT_ONCE)).mappings()):
        values: dict[str, Any] = {"state": AlertState.FAILED.value}
        if alert.attempts < MOST_ATTEMPTS:
            values = {
                "state": AlertState.SENDING.value,
                "attempts": alert.attempts + 1,
                "next_at": at + LEASE_SECONDS,
            }
            claimed.append(_alert({**vars(alert), **values}))
        connection.execute(
            sa.update(tables.alert).where(tables.alert.c.id == alert.id).values(**values)
        )
    return claimed


def settle(
    connection: Connection, claimed: Iterable[Alert], delivered: Sequence[int], *, sent: bool
) -> None:
    """Record how sending ended, unless another process has taken the alerts over meanwhile."""
    at = now(connection)
    for alert in claimed:
        values: dict[str, Any] = {"delivered": list(delivered)}
        if sent:
            values |= {"state": AlertState.SENT.value, "sent_at": at}
        elif alert.attempts >= MOST_ATTEMPTS:
            values |= {"state": AlertState.FAILED.value}
        else:
            rest = FIRST_REST_SECONDS * 4 ** (alert.attempts - 1)
            values |= {"state": AlertState.WAITING.value, "next_at": at + rest}
        connection.execute(
            sa.update(tables.alert)
            .where(
                tables.alert.c.id == alert.id,
                tables.alert.c.state == AlertState.SENDING.value,
                tables.alert.c.attempts == alert.attempts,
            )
            .values(**values)
        )


def of_night(connection: Connection, night_id: int) -> list[Alert]:
    """A night's alerts, oldest first."""
    query = (
        sa.select(tables.alert)
        .where(tables.alert.c.night_id == night_id)
        .order_by(tables.alert.c.id)
    )
    return [_alert(row) for row in connection.execute(query).mappings()]


def _due(connection: Connection) -> sa.ColumnElement[bool]:
    open_states = [AlertState.WAITING.value, AlertState.SENDING.value]
    return sa.and_(tables.alert.c.state.in_(open_states), tables.alert.c.next_at <= now(connection))


def _alert(row: Any) -> Alert:
    return Alert(**{**row, "state": AlertState(row["state"]), "delivered": tuple(row["delivered"])})
