"""Nights in the ledger: one partition of one job under one account each.

What is sent in a night follows from its current snapshot (`snapshots`), cut into `shards`.
`revision` counts the changes of what is to be sent, so that a plan made for an older revision is
discarded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import waits
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.wording import moment


@dataclass(frozen=True)
class Night:
    """One partition of one job, and whose it is."""

    id: int
    job: str
    partition: str
    owner: str
    created_at: float
    snapshot_id: int | None
    open_requests: int
    revision: int
    published: bool
    rebuilding: bool
    held_at: float | None
    refused: str | None
    wanted_room_at: float
    pilot: dict[str, Any] | None
    completed_at: float | None
    estimate: dict[str, Any] | None = None
    short_of_budget: dict[str, str] | None = None
    over_budget: str | None = None
    deadline_at: float | None = None
    realtime_since: float | None = None
    forecast: dict[str, Any] | None = None
    pruned_at: float | None = None
    retry_at: float | None = None
    retry_rounds: int = 0
    storm_since: float | None = None
    undecided: int = 0
    waits_for: str | None = None
    held_twins: int = 0
    output: dict[str, Any] | None = None
    # Accounts that may send it; NULL: its owner alone.
    accounts: list[str] | None = None
    # Why its last run ended without success; see `flow.status.failures`. NULL: it did not.
    failure: dict[str, Any] | None = None
    # When its submission was last asked for.
    asked_at: float | None = None

    @property
    def sent_by(self) -> list[str]:
        """The names of the accounts that may send it, as of its last opening."""
        return self.accounts or [self.owner]

    @property
    def unplanned(self) -> int:
        """Requests that are part of no shard and not settled."""
        return self.open_requests + self.undecided

    def resting(self, at: float) -> str | None:
        """Why requests that failed are not asked again at a time, as a clause; None: they are."""
        if self.retry_at is None or self.retry_at <= at:
            return None
        again = f"what failed is asked again at {moment(self.retry_at)}"
        if self.storm_since is None:
            return again
        return (
            f"nearly all answers have failed since {moment(self.storm_since)} for reasons that "
            f"pass (overload, an outage of the API); it counts no attempt, and {again}"
        )


def find_night(connection: Connection, job: str, partition: str, owner: str) -> Night | None:
    return _night(
        connection,
        tables.night.c.job == job,
        tables.night.c.partition == partition,
        tables.night.c.owner == owner,
    )


def shown_night(connection: Connection, job: str, partition: str) -> Night | None:
    """The night whose answers the results folder shows, of any account."""
    return _night(
        connection,
        tables.night.c.job == job,
        tables.night.c.partition == partition,
        tables.night.c.published.is_(True),
    )


def get_night(connection: Connection, night_id: int) -> Night:
    night = _night(connection, tables.night.c.id == night_id)
    assert night is not None
    return night


def open_night(connection: Connection, job: str, partition: str, owner: str) -> Night:
    """The night, added if it is new."""
    night = find_night(connection, job, partition, owner)
    if night is not None:
        return night
    connection.execute(
        sa.insert(tables.night).values(
            job=job, partition=partition, owner=owner, created_at=now(connection)
        )
    )
    night = find_night(connection, job, partition, owner)
    assert night is not None
    return night


def list_nights(
    connection: Connection,
    *,
    job: str | None = None,
    partition: str | None = None,
    owner: str | None = None,
    completed_since: float | None = None,
) -> list[Night]:
    """Nights, oldest partition first."""
    query = sa.select(tables.night).order_by(tables.night.c.partition, tables.night.c.id)
    if job is not None:
        query = query.where(tables.night.c.job == job)
    if partition is not None:
        query = query.where(tables.night.c.partition == partition)
    if owner is not None:
        query = query.where(tables.night.c.owner == owner)
    if completed_since is not None:
        query = query.where(tables.night.c.completed_at >= completed_since)
    return [
        Night(**tables.by_key(tables.night, row)) for row in connection.execute(query).mappings()
    ]


def worth_showing(nights: Sequence[Night]) -> list[Night]:
    """The nights without those that were opened for a guessed owner, while the API did not answer
    or refused the key, and had no input: another one has taken their place."""
    begun = {(each.job, each.partition) for each in nights if each.snapshot_id is not None}
    return [
        each
        for each in nights
        if each.snapshot_id is not None or (each.job, each.partition) not in begun
    ]


def update_night(connection: Connection, night_id: int, **values: Any) -> None:
    connection.execute(sa.update(tables.night).where(tables.night.c.id == night_id).values(values))


def back_off(
    connection: Connection, night_id: int, rest_seconds: float, *, again: int, storm: bool | None
) -> None:
    """Note what a collected submission says of the API: when requests that failed go again.

    `again` of its requests are to go again because they failed. `storm`: nearly all answers failed
    for reasons that pass; None: that cannot be said of so few. The pause is `rest_seconds` before
    the first round, and twice as long before each further one in a row.
    """
    night = get_night(connection, night_id)
    if storm:
        update_night(connection, night_id, storm_since=night.storm_since or now(connection))
    elif storm is False:
        update_night(connection, night_id, storm_since=None, retry_rounds=0)
        night = get_night(connection, night_id)
    if again:
        rest = waits.doubled(rest_seconds, night.retry_rounds)
        update_night(connection, night_id, retry_at=waits.until(connection, rest))


def release_twins(connection: Connection, night: Night, open_requests: int) -> None:
    """Note that no near duplicate waits for its leader any more, and how many requests are open."""
    update_night(
        connection,
        night.id,
        held_twins=0,
        open_requests=open_requests,
        revision=night.revision + 1,
    )


def mark_pruned(connection: Connection, pruned: Sequence[Night], at: float) -> None:
    """Note that snapshot and raw lines of these nights are about to be removed.

    Plans that are being made from them are discarded.
    """
    for night in pruned:
        update_night(connection, night.id, pruned_at=at, revision=night.revision + 1)


def show_night(connection: Connection, night: Night) -> None:
    """Let the results folder show this night, and that of no other account."""
    connection.execute(
        sa.update(tables.night)
        .where(tables.night.c.job == night.job, tables.night.c.partition == night.partition)
        .values(published=tables.night.c.id == night.id)
    )


def _night(connection: Connection, *conditions: sa.ColumnElement[bool]) -> Night | None:
    row = connection.execute(sa.select(tables.night).where(*conditions)).mappings().first()
    return None if row is None else Night(**tables.by_key(tables.night, row))
