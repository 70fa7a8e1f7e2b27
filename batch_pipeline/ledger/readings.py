"""Inputs that several workers read: their pieces, and who prepares each of them.

A reading is there only as long as it is not finished: the transaction that makes its snapshot the
night's own drops it. So a run that repeats a killed one goes on with the pieces that are done.

A worker claims a piece by a lease, and extends it while it works. A claim that has run out may be
taken over. That raises the fence, by which the former holder, should it wake up, cannot record what
it made; its files have the fence in their names. Putting all pieces together is claimed in the same
way, as the piece after the last one.

Each function is to be called in a transaction of its own, in which no file is touched.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now

# The first byte of a piece in the plan, and the one after its last.
Place = tuple[int, int]
# A piece that has ended this many workers is not begun again.
MOST_TRIES = 3


@dataclass(frozen=True)
class Reading:
    """An input that is being read.

    `key` says what is read and how, `token` names its folder in the home. `pieces` is None as long
    as the input is not cut, and 0 where one worker reads it alone. `problem` is why it cannot be
    read: the number of a piece, and a message.
    """

    id: int
    night_id: int
    key: str
    token: str
    pieces: int | None
    codec: str
    problem: dict[str, Any] | None
    created_at: float


@dataclass(frozen=True)
class Claim:
    """A piece that a worker has claimed; `tries` counts the workers that have begun it."""

    reading_id: int
    number: int
    place: Place | None
    holder: str
    fence: int
    tries: int


@dataclass(frozen=True)
class Done:
    """A piece that is prepared: under which fence, and what came of it."""

    number: int
    fence: int
    result: dict[str, Any]


def of_night(connection: Connection, night_id: int) -> Reading | None:
    query = sa.select(tables.reading).where(tables.reading.c.night_id == night_id)
    row = connection.execute(query).mappings().first()
    return None if row is None else Reading(**row)


def tokens(connection: Connection, most_seconds: float) -> set[str]:
    """The tokens of all readings that are not older than this."""
    columns = tables.reading.c
    oldest = now(connection) - most_seconds
    return set(connection.scalars(sa.select(columns.token).where(columns.created_at >= oldest)))


def begin(
    connection: Connection, night_id: int, key: str, codec: str, most_seconds: float
) -> Reading:
    """The night's reading with this key, added if there is none; any other one is dropped.

    One that is older than `most_seconds` is begun anew, since documents that it kept may be pruned.
    Where it had a problem, its pieces are tried again: a person is taken to have seen to it.
    """
    found = of_night(connection, night_id)
    if found is not None:
        too_old = now(connection) - found.created_at > most_seconds
        if found.key != key or too_old:
            drop(connection, night_id)
            found = None
    if found is None:
        connection.execute(
            sa.insert(tables.reading).values(
                night_id=night_id,
                key=key,
                token=uuid.uuid4().hex[:16],
                codec=codec,
                created_at=now(connection),
            )
        )
    elif found.problem is not None:
        of_reading = tables.reading.c.id == found.id
        connection.execute(sa.update(tables.reading).where(of_reading).values(problem=sa.null()))
        again = sa.update(tables.piece).where(*_unfinished(found.id))
        connection.execute(again.values(tries=0, holder=None))
    begun = of_night(connection, night_id)
    assert begun is not None
    return begun


def cut(connection: Connection, reading: Reading, places: Sequence[Place]) -> None:
    """Add the pieces of a reading, in their order; without any, one worker reads the input alone.

    Nothing happens where another process has cut the same input, or has dropped the reading.
    """
    mine = tables.reading.c.id == reading.id, tables.reading.c.pieces.is_(None)
    changed = sa.update(tables.reading).where(*mine).values(pieces=len(places))
    if connection.execute(changed).rowcount and places:
        rows = [
            {"reading_id": reading.id, "number": number, "place": place}
            for number, place in enumerate([*map(list, places), None])
        ]
        connection.execute(sa.insert(tables.piece), rows)


def claim_next(
    connection: Connection, reading: Reading, holder: str, lease_seconds: float, after: int
) -> Claim | None:
    """Claim the next piece above `after` that no worker has begun; None: there is none, the reading
    has a problem, or is gone."""
    columns = tables.piece.c
    return _first_claimed(
        connection,
        reading,
        holder,
        lease_seconds,
        [columns.number > after, columns.tries == 0, columns.holder.is_(None), _is_piece(reading)],
    )


def claim_left(
    connection: Connection,
    reading: Reading,
    holder: str,
    lease_seconds: float,
    is_gone: Callable[[str], bool],
) -> Claim | None:
    """Claim a piece that another worker has begun and left, or None.

    It may be what has ended that worker; those that have ended fewest come first. `is_gone` tells
    of the holder of a claim whether its process has certainly ended.
    """
    return _free(connection, reading, holder, lease_seconds, is_gone, _is_piece(reading))


def claim_end(
    connection: Connection,
    reading: Reading,
    holder: str,
    lease_seconds: float,
    is_gone: Callable[[str], bool],
) -> Claim | None:
    """Claim putting the pieces together; None: pieces are not done, another worker is at it, the
    reading has a problem, or is gone."""
    if left(connection, reading):
        return None
    end = tables.piece.c.number == reading.pieces
    return _free(connection, reading, holder, lease_seconds, is_gone, end)


def left(connection: Connection, reading: Reading) -> int:
    """How many pieces are not done."""
    query = sa.select(sa.func.count()).where(*_unfinished(reading.id), _is_piece(reading))
    return int(connection.scalar(query) or 0)


def keep(connection: Connection, reading: Reading, holder: str, lease_seconds: float) -> None:
    """Extend all claims of a holder."""
    until = now(connection) + lease_seconds
    held = *_unfinished(reading.id), tables.piece.c.holder == holder
    connection.execute(sa.update(tables.piece).where(*held).values(lease_until=until))


def done(connection: Connection, claim: Claim, result: dict[str, Any]) -> bool:
    """Record what came of a piece; False: it is another worker's by now, or the reading is gone."""
    recorded = sa.update(tables.piece).where(*_held(claim))
    return bool(connection.execute(recorded.values(result=result, holder=None)).rowcount)


def let_go(connection: Connection, claim: Claim, *, blameless: bool) -> None:
    """Give a claim up; where it is `blameless` for that, it does not count as begun."""
    given_up = sa.update(tables.piece).where(*_held(claim))
    tries = claim.tries - 1 if blameless else claim.tries
    connection.execute(given_up.values(holder=None, tries=tries))


def fail(connection: Connection, reading: Reading, number: int, message: str) -> None:
    """Record why the input cannot be read. Of several problems that of the first piece counts."""
    found = of_night(connection, reading.night_id)
    if found is None or found.id != reading.id:
        return
    if found.problem is None or found.problem["piece"] > number:
        problem = {"piece": number, "message": message}
        failed = sa.update(tables.reading).where(tables.reading.c.id == reading.id)
        connection.execute(failed.values(problem=problem))


def all_done(connection: Connection, reading: Reading) -> list[Done]:
    """What came of the pieces, in their order."""
    columns = tables.piece.c
    query = (
        sa.select(columns.number, columns.fence, columns.result)
        .where(columns.reading_id == reading.id, columns.result.is_not(None))
        .order_by(columns.number)
    )
    return [Done(*row) for row in connection.execute(query)]


def places_of(connection: Connection, reading: Reading) -> list[Place]:
    """Where the pieces stand in the plan, in their order."""
    columns = tables.piece.c
    query = (
        sa.select(columns.place)
        .where(columns.reading_id == reading.id, _is_piece(reading))
        .order_by(columns.number)
    )
    return [(first, end) for first, end in connection.scalars(query)]


def drop(connection: Connection, night_id: int, *, unless_key: str | None = None) -> None:
    """Drop the night's reading, unless it has this key. Its files are nothing to the ledger."""
    found = of_night(connection, night_id)
    if found is not None and found.key != unless_key:
        drop_one(connection, found.id)


def drop_one(connection: Connection, reading_id: int) -> None:
    """Drop a reading that may be gone already."""
    columns = tables.piece.c
    connection.execute(sa.delete(tables.piece).where(columns.reading_id == reading_id))
    connection.execute(sa.delete(tables.reading).where(tables.reading.c.id == reading_id))


def _unfinished(reading_id: int) -> tuple[sa.ColumnElement[bool], ...]:
    return tables.piece.c.reading_id == reading_id, tables.piece.c.result.is_(None)


def _is_piece(reading: Reading) -> sa.ColumnElement[bool]:
    """Not the one that stands for putting together."""
    return tables.piece.c.number < reading.pieces


def _held(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    columns = tables.piece.c
    return (
        *_unfinished(claim.reading_id),
        columns.number == claim.number,
        columns.holder == claim.holder,
        columns.fence == claim.fence,
    )


def _free(
    connection: Connection,
    reading: Reading,
    holder: str,
    lease_seconds: float,
    is_gone: Callable[[str], bool],
    which: sa.ColumnElement[bool],
) -> Claim | None:
    """Claim the first piece that no living worker holds."""
    columns = tables.piece.c
    query = sa.select(columns.holder, columns.lease_until).distinct()
    held = query.where(*_unfinished(reading.id), columns.holder.is_not(None))
    at = now(connection)
    living = [
        row.holder
        for row in connection.execute(held)
        if row.lease_until > at and not is_gone(row.holder)
    ]
    free = sa.or_(
        columns.holder.is_(None), columns.lease_until <= at, columns.holder.not_in(living)
    )
    return _first_claimed(connection, reading, holder, lease_seconds, [which, free])


def _first_claimed(
    connection: Connection,
    reading: Reading,
    holder: str,
    lease_seconds: float,
    which: Sequence[sa.ColumnElement[bool]],
) -> Claim | None:
    found = of_night(connection, reading.night_id)
    if found is None or found.id != reading.id or found.problem is not None:
        return None
    columns = tables.piece.c
    query = (
        sa.select(columns.number, columns.place, columns.fence, columns.tries)
        .where(*_unfinished(reading.id), *which)
        .order_by(columns.tries, columns.number)
        .limit(1)
    )
    row = connection.execute(query).first()
    if row is None:
        return None
    place = None if row.place is None else (row.place[0], row.place[1])
    claim = Claim(reading.id, row.number, place, holder, row.fence + 1, row.tries + 1)
    mine = columns.reading_id == reading.id, columns.number == row.number
    connection.execute(
        sa.update(tables.piece)
        .where(*mine)
        .values(
            holder=holder,
            lease_until=now(connection) + lease_seconds,
            fence=claim.fence,
            tries=claim.tries,
        )
    )
    return claim
