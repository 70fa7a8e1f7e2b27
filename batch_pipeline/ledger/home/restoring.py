"""Rows of a ledger that was lost, made again from what the home and the API know of them.

Belongs here: the rows. What they are made from is read in `flow.recovery`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import shards, snapshots
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.home.identity import Sent
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import ShardState
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.ledger.submissions import submissions, transitions
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.ledger.sums import Counts
from batch_pipeline.pricing.bounds import Part

# The holder of a restored submission: no process, so that the next one goes on with it at once.
NOBODY = "recovered"


def known(connection: Connection) -> dict[str, State]:
    """All tokens that the ledger knows, with the states of their submissions."""
    query = sa.select(tables.submission.c.token, tables.submission.c.state)
    return {row.token: State(row.state) for row in connection.execute(query)}


def manifests_sent(connection: Connection) -> set[str]:
    """The manifests of all shards that have had a submission."""
    query = sa.select(tables.shard.c.manifest).join_from(
        tables.submission, tables.shard, tables.shard.c.id == tables.submission.c.shard_id
    )
    return set(connection.scalars(query))


def snapshot(connection: Connection, night: Night, new: NewSnapshot) -> int:
    """The id of a night's snapshot with this folder, added if the ledger does not know it."""
    for known_id, found in snapshots.snapshots_of(connection, night.id).items():
        if found.folder == new.folder:
            return known_id
    return snapshots.add(connection, night, new, {}).id


def submission(
    connection: Connection,
    night: Night,
    snapshot_id: int,
    sent: Sent,
    batch_id: str | None,
    *,
    parts: Sequence[Part] | None = None,
) -> Submission:
    """The submission with this token, added if it is unknown, in a state to go on from.

    `parts` are its shard's requests by what they are priced at (None: all at the same).

    A batch whose id is known is ACCEPTED, any other may be at the API: UNKNOWN. Calls go on from
    their journal. A shard that another submission has answered stays as it is.
    """
    found = submissions.by_token(connection, sent.account, sent.token)
    at = now(connection)
    if found is None:
        shard_id = _shard(connection, night, snapshot_id, sent, parts)
        connection.execute(
            sa.insert(tables.submission).values(
                shard_id=shard_id, night_id=night.id, snapshot_id=snapshot_id, pilot=sent.pilot,
                account=sent.account, engine=sent.engine, token=sent.token,
                requests=sent.requests, usd_bound=sent.usd_bound,
                stated_prices=sent.stated_prices, state=State.INTENT.value, holder=NOBODY, fence=1,
                lease_until=at, intent_at=sent.intent_at,
            )
        )  # fmt: skip
        found = submissions.by_token(connection, sent.account, sent.token)
        assert found is not None
    if found.state in (State.INTENT, State.SEALED):
        if sent.engine == "realtime":
            values: dict[str, Any] = {"state": State.CALLING.value}
        else:
            # Looked for from now on: the list may lag.
            values = {"state": State.UNKNOWN.value, "window_from": at, "error": "recovered"}
        submissions.change(connection, tables.submission.c.id == found.id, **values)
        shard = shards.get_shard(connection, found.shard_id)
        if shard.state is not ShardState.COLLECTED:
            shards.set_shard_state(connection, found.shard_id, ShardState.CLAIMED)
    if batch_id is not None and found.batch_id is None:
        transitions.accept(connection, found.id, batch_id, accepted_at=at, expires_at=None)
    return submissions.get(connection, found.id)


def collected(
    connection: Connection,
    found: Submission,
    answers: Sequence[tuple[Counts, Decimal]],
    *,
    whole: bool,
) -> None:
    """Mark a submission, whose answers are in the home, as collected.

    `answers` are counts and costs of what was published first, and of the rest. Unless they are
    `whole` other lines are missing, and stay with their batch.
    """
    shard = shards.get_shard(connection, found.shard_id)
    duplicate = shard.state is ShardState.COLLECTED
    ended = {"state": State.ENDED.value, "ended_at": now(connection), "answer_files": None}
    submissions.change(connection, tables.submission.c.id == found.id, **ended)
    # Items that are settled are counted anew from all answers, see `settled`.
    booked = [replace(counts, items={}, open=0, duplicate=duplicate) for counts, _ in answers]
    found = submissions.get(connection, found.id)
    if not whole or len(answers) > 1:
        transitions.publish(connection, found, booked[0], answers[0][1])
    if whole:
        total, cost = booked[0], sum((cost for _, cost in answers), Decimal(0))
        for rest in booked[1:]:
            total += rest
        transitions.collect(connection, found, total, cost)


def settled(connection: Connection, snapshot_id: int, counts: Mapping[str, int]) -> None:
    """Record how many items of a snapshot are settled, by status, in place of former counts."""
    items = tables.settled_items
    connection.execute(sa.delete(items).where(items.c.snapshot_id == snapshot_id))
    connection.execute(
        sa.update(tables.snapshot)
        .where(tables.snapshot.c.id == snapshot_id)
        .values(settled=dict(counts))
    )


def _shard(
    connection: Connection,
    night: Night,
    snapshot_id: int,
    sent: Sent,
    parts: Sequence[Part] | None,
) -> int:
    """The id of a submission's shard, found by its manifest, or added."""
    columns = tables.shard.c
    if sent.manifest:
        query = sa.select(columns.id).where(
            columns.night_id == night.id, columns.manifest == sent.manifest
        )
        found = connection.scalar(query)
        if found is not None:
            return int(found)
    added = connection.execute(
        sa.insert(tables.shard).values(
            night_id=night.id, snapshot_id=snapshot_id, engine=sent.engine, pilot=sent.pilot,
            manifest=sent.manifest, requests=sent.requests, bytes=sent.bytes,
            usd_bound=sent.usd_bound, largest_bytes=sent.largest_bytes,
            prompt_size=sent.prompt_size,
            output_tokens=sent.output_tokens, for_deadline=sent.for_deadline,
            state=ShardState.CLAIMED.value, created_at=now(connection),
            parts=None if parts is None else [asdict(part) for part in parts],
        )
    )  # fmt: skip
    return int(added.inserted_primary_key[0])  # type: ignore[index]
