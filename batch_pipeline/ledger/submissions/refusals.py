"""Refused creates: which shards are split for them, and when a night stops instead of going on.

    WAITING, refused → DROPPED, and its parts WAITING            halved, or one row taken out
                     → DROPPED, and its row's submission ENDED   the row at fault is known
    WAITING          → DROPPED, and its rows' submission ENDED   their documents have changed

One row can make the API refuse a whole batch. The shard is split until that row is found, which is
then a shard of its own that has "ended" with the refusal as its result; it is collected like any
other. Each arrow is one transaction, so that a process that is killed leaves a shard that is either
refused or split, and the next process goes on from there.

Belongs here: what the ledger keeps of it. How a shard is split is decided in
`flow.batches.refused_shards`, which failure is a refusal in `flow.answers.outcomes`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import nights, shards
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.shards import NewShard, Shard, ShardState
from batch_pipeline.ledger.submissions import submissions, transitions
from batch_pipeline.ledger.submissions.submissions import State, Submission

# Refused creates for one shard and its parts, after which the night stops: enough to find one row
# among 100,000 by halving.
MOST_CREATES = 20
# If the first parts of a shard, this number of them, are all refused with the same message, then
# the fault is not one row's.
SYSTEMATIC = 6
# Creates in a row that a gateway answers with a page of its own, after which the night stops.
MOST_PAGES = 3
PROVES_NOTHING = (
    "{} in a row had an answer that proves nothing: is a gateway, a proxy or a login in between? "
    "The last one: {}"
)
# What differs in two messages about the same fault.
_VARIES = re.compile(r"\b[a-z2-7]{16}_\d+\b|\breq_\w+|\w*\d\w*")


@dataclass(frozen=True)
class Refusal:
    """What the API or a gateway answered to a create.

    `told` is the whole of it in one line, with the status. `too_large`: it is about the size of the
    body. `page`: it is no answer of the API. `row`: the position in the body that `message` names.
    `messages` are those of several rows that were not sent, each for what it holds itself.
    """

    error_type: str
    message: str
    told: str
    too_large: bool = False
    page: bool = False
    row: int | None = None
    messages: tuple[str, ...] = ()

    @property
    def kind(self) -> object:
        """What is equal for two refusals with the same message. A row's position is part of it:
        refusals of different rows are no sign of a fault that all rows have."""
        return self.row, _VARIES.sub("#", self.message)


def refuse_body(connection: Connection, submission: Submission, refusal: Refusal) -> None:
    """Have the shard of a refused submission split; the night stops where that is of no use.

    While no part of the same shard was taken in, its other parts that are about as large are split
    too, without being sent. If the fault is that of all documents, or the size, they would be
    refused as well; so the first parts that are sent become small quickly, and a small part that is
    taken in shows that the fault is that of a few documents.
    """
    _keep(connection, submission, refusal)
    shard = shards.get_shard(connection, submission.shard_id)
    if shard.state is not ShardState.WAITING:
        return
    columns, origin = tables.shard.c, shard.origin or shard.id
    changed = sa.update(tables.shard)
    connection.execute(
        changed.where(columns.id == shard.id).values(origin=origin, refused_by=submission.id)
    )
    found, accepted = _so_far(connection, shard.night_id, origin)
    if shard.requests > 1 and not accepted:
        connection.execute(
            changed.where(
                columns.night_id == shard.night_id,
                columns.origin == origin,
                columns.state == ShardState.WAITING.value,
                columns.refused_by.is_(None),
                columns.requests > 1,
                columns.bytes > shard.bytes // 2,
            ).values(refused_by=submission.id)
        )
    why = None
    if len(found) >= SYSTEMATIC and not accepted and len({each.kind for each in found}) == 1:
        why = (
            f"the first {len(found)} parts of a batch were all refused with the same message, so "
            f"that it is not the fault of one document: {refusal.told}"
        )
    elif len(found) >= MOST_CREATES:
        why = (
            f"{len(found)} creates were refused while the documents at fault in one batch were "
            f"looked for, the last one with: {refusal.told}"
        )
    _stop(connection, shard.night_id, why)


def note_page(connection: Connection, submission: Submission, refusal: Refusal) -> None:
    """Keep a gateway's page on a submission; after several in a row the night stops."""
    _keep(connection, submission, refusal)
    columns = tables.submission.c
    query = (
        sa.select(columns.refusal, columns.batch_id)
        .where(
            columns.night_id == submission.night_id,
            columns.refusal.is_not(sa.null()) | columns.batch_id.is_not(None),
        )
        .order_by(columns.id.desc())
        .limit(MOST_PAGES)
    )
    latest = connection.execute(query).all()
    pages = [row.batch_id is None and row.refusal["page"] for row in latest]
    if len(pages) == MOST_PAGES and all(pages):
        _stop(
            connection,
            submission.night_id,
            PROVES_NOTHING.format(f"{MOST_PAGES} creates", refusal.told),
        )


def of(submission: Submission) -> Refusal | None:
    """What the create of a submission was refused with."""
    return None if submission.refusal is None else _read(submission.refusal)


def before(connection: Connection, shard: Shard) -> Refusal | None:
    """The refusal before that of a refused shard, among the parts of the same shard."""
    assert shard.origin is not None
    found, _ = _so_far(connection, shard.night_id, shard.origin, until=shard.refused_by)
    return found[-2] if len(found) > 1 else None


def split(connection: Connection, shard: Shard, parts: Sequence[NewShard]) -> bool:
    """Replace a refused shard by its parts. False: it is not waiting to be split any more."""
    current = shards.get_shard(connection, shard.id)
    if current.state is not ShardState.WAITING or current.refused_by != shard.refused_by:
        return False
    shards.set_shard_state(connection, shard.id, ShardState.DROPPED)
    shards.insert(connection, shard.night_id, shard.snapshot_id, parts, origin=shard.origin)
    return True


def set_aside(
    connection: Connection,
    shard: Shard,
    row: NewShard,
    refusal: Refusal,
    holder: str,
    account: str | None = None,
) -> None:
    """Make the row at fault a shard that has ended, with the refusal as its result; several rows
    with one of its messages each. `account` has tried to send it, the one whose body was refused
    unless given.

    To be called in the transaction of `split`.
    """
    shards.insert(connection, shard.night_id, shard.snapshot_id, [row], origin=shard.origin)
    alone = shards.by_manifest(connection, shard.night_id, row.manifest)
    night = nights.get_night(connection, shard.night_id)
    submission = transitions.claim(
        connection,
        alone,
        night,
        State.ENDED,
        holder,
        0.0,
        account=account or _refused_by(connection, shard, night),
        usd_bound=Decimal(0),
    )
    submissions.change(
        connection, tables.submission.c.id == submission.id, ended_at=now(connection)
    )
    _keep(connection, submission, refusal)


def take_out(
    connection: Connection,
    submission: Submission,
    rows: NewShard,
    rest: NewShard | None,
    refusal: Refusal,
    holder: str,
) -> bool:
    """Take rows out of a shard that was given back unsent; the rest, if there is any, waits.

    To be called in the transaction that gave it back. False: it waits no more.
    """
    shard = shards.get_shard(connection, submission.shard_id)
    if shard.state is not ShardState.WAITING:
        return False
    shards.set_shard_state(connection, shard.id, ShardState.DROPPED)
    if rest is not None:
        shards.insert(connection, shard.night_id, shard.snapshot_id, [rest], origin=shard.origin)
    set_aside(connection, shard, rows, refusal, holder, submission.account)
    return True


def forget(connection: Connection, night_id: int) -> None:
    """Count refusals anew for what waits: a person has looked at the night."""
    connection.execute(
        sa.update(tables.shard)
        .where(
            tables.shard.c.night_id == night_id,
            tables.shard.c.state == ShardState.WAITING.value,
            tables.shard.c.origin > 0,
        )
        .values(origin=sa.case((tables.shard.c.refused_by > 0, tables.shard.c.id)))
    )


def count_set_aside(connection: Connection, night_id: int) -> int:
    """Collected submissions of a night that stand for a refused row, and for no batch."""
    columns = tables.submission.c
    query = sa.select(sa.func.count()).where(
        columns.night_id == night_id,
        columns.state == State.COLLECTED.value,
        columns.refusal.is_not(sa.null()),
        columns.batch_id.is_(None),
    )
    return int(connection.scalar(query) or 0)


def _so_far(
    connection: Connection, night_id: int, origin: int, *, until: int | None = None
) -> tuple[list[Refusal], bool]:
    """The refusals of a shard's parts, in their order, and whether a part was taken in.

    `until` is the submission of the last one to be returned.
    """
    part = tables.shard.c.night_id == night_id, tables.shard.c.origin == origin
    columns = tables.submission.c
    refused = sa.select(tables.shard.c.refused_by).where(*part, tables.shard.c.refused_by > 0)
    query = sa.select(columns.refusal).where(columns.id.in_(refused)).order_by(columns.id)
    if until is not None:
        query = query.where(columns.id <= until)
    taken_in = sa.exists().where(
        columns.shard_id.in_(sa.select(tables.shard.c.id).where(*part)),
        columns.batch_id.is_not(None),
    )
    refusals = [_read(found) for found in connection.scalars(query)]
    return refusals, bool(connection.scalar(sa.select(taken_in)))


def _refused_by(connection: Connection, shard: Shard, night: nights.Night) -> str:
    if shard.refused_by is None:
        return night.owner
    return submissions.get(connection, shard.refused_by).account


def _read(kept: dict[str, Any]) -> Refusal:
    return Refusal(**{**kept, "messages": tuple(kept.get("messages", ()))})


def _keep(connection: Connection, submission: Submission, refusal: Refusal) -> None:
    submissions.change(connection, tables.submission.c.id == submission.id, refusal=asdict(refusal))


def _stop(connection: Connection, night_id: int, why: str | None) -> None:
    if why is not None:
        nights.update_night(connection, night_id, refused=why)
