"""Files of answers that no submission of their night bought: copies of answers bought otherwise.

Belongs here: which files a night has, and what was decided for a snapshot. Their rows are read with
those of submissions in `flow.answers`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now


class Stands(StrEnum):
    """Why former answers stand that might have been escalated: origins of rows without a name."""

    SHARE = "over_share"
    BUDGET = "no_budget"
    DEADLINE = "deadline"
    # The stronger model was asked, and gave no good answer.
    IN_VAIN = "stronger_failed"


@dataclass(frozen=True)
class AnswersFile:
    """A file of a night's answers, by its name in their folder, and why it was made.

    Without a name it records that there was nothing to be copied for the snapshot.
    """

    snapshot_id: int
    origin: str
    name: str | None
    units: int


def add(connection: Connection, night_id: int, file: AnswersFile) -> None:
    values = {**vars(file), "night_id": night_id, "recorded_at": now(connection)}
    connection.execute(sa.insert(tables.answers_file).values(values))


def of_night(connection: Connection, night_id: int) -> list[AnswersFile]:
    """All of a night's, those of former snapshots too, in the order in which they were made."""
    columns = tables.answers_file.c
    query = (
        sa.select(columns.snapshot_id, columns.origin, columns.name, columns.units)
        .where(columns.night_id == night_id)
        .order_by(columns.id)
    )
    return [AnswersFile(**row) for row in connection.execute(query).mappings()]


def standing(connection: Connection, night_id: int) -> dict[Stands, int]:
    """How many requests of a night keep an answer that might have been escalated, by cause."""
    found: Counter[Stands] = Counter()
    for file in of_night(connection, night_id):
        if file.name is None and file.origin in set(Stands):
            found[Stands(file.origin)] += file.units
    return dict(found)


def is_decided(connection: Connection, night_id: int, snapshot_id: int, origin: str) -> bool:
    """Whether it was decided for a snapshot what is copied for this reason."""
    found = of_night(connection, night_id)
    return any(file.snapshot_id == snapshot_id and file.origin == origin for file in found)
