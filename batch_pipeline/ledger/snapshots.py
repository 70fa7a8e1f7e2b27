"""Snapshots in the ledger: a night's input as it was read, and which one is current.

Belongs here: what the ledger knows of a snapshot. The files that hold its items are in
`flow.dataset.snapshot`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import nights, readings, shards
from batch_pipeline.ledger.control import approvals
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.nights import Night

# The cause in `avoided` of requests that answers of earlier nights answer.
REUSE = "reuse"


@dataclass(frozen=True)
class Layer:
    """Part files of a snapshot, and the declaration that made the requests of their rows."""

    folder: str
    parts: int
    declaration_hash: str


@dataclass(frozen=True)
class NewSnapshot:
    """A night's input as it was read, and the declaration that turned it into requests.

    `items` rows, of which those in `set_aside` are not sent, by status and reason, and `duplicates`
    are answered by the request of an earlier row; `request_bytes` is the size of all requests.
    `kept` requests are those of a former declaration, which are answered.

    `avoided` counts, by cause, the requests that rows asked for and that are not sent, and their
    bytes: `{cause: {"documents": n, "bytes": b}}`.

    `source` says where rows are from that are not files: kind, origin, version, rows, columns.

    `prompt_size` is what the tokens of all requests follow from, `visual_tokens` are those of pages
    and images among it, and `documents` count, by media type, files, pages and bytes of text; None
    where no request has documents, whose tokens follow from `request_bytes`.

    A redrive reads its items alone: they are a layer of their own on the layers `below`, and take
    the place of the rows with the same ids there. Counts are of all layers together.
    """

    folder: str
    signature: str
    content_hash: str
    declaration_hash: str
    declaration: dict[str, Any]
    parts: int
    items: int
    set_aside: dict[str, dict[str, int]]
    duplicates: int
    request_bytes: int
    kept: int = field(default=0, kw_only=True)
    below: tuple[Layer, ...] = field(default=(), kw_only=True)
    avoided: dict[str, dict[str, int]] = field(default_factory=dict, kw_only=True)
    source: dict[str, Any] | None = field(default=None, kw_only=True)
    prompt_size: int | None = field(default=None, kw_only=True)
    visual_tokens: int | None = field(default=None, kw_only=True)
    documents: dict[str, dict[str, int]] | None = field(default=None, kw_only=True)

    @property
    def size_of_prompts(self) -> int:
        """What the tokens of all requests follow from."""
        return self.request_bytes if self.prompt_size is None else self.prompt_size

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NewSnapshot:
        """The inverse of `asdict`."""
        return cls(**{**data, "below": tuple(Layer(**layer) for layer in data["below"])})

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers, the lowest first."""
        return (*self.below, Layer(self.folder, self.parts, self.declaration_hash))

    @property
    def asked(self) -> int:
        """Rows that are not set aside."""
        return self.items - self.count_set_aside()

    @property
    def units(self) -> int:
        """Distinct requests that its own declaration makes."""
        return self.asked - self.duplicates - self.kept

    @property
    def reused(self) -> int:
        """Distinct requests that answers of earlier nights answer."""
        return self.avoided.get(REUSE, {}).get("documents", 0)

    @property
    def bought(self) -> int:
        """Distinct requests that its own declaration makes, and that the night itself buys."""
        near = self.declaration.get("near_duplicates") or {}
        # Those that are filtered are none of its units.
        led = self.avoided.get("near_duplicates", {}) if near.get("action") == "reuse" else {}
        return self.units - self.reused - led.get("documents", 0)

    @property
    def filtered_by(self) -> dict[str, int]:
        """Rows that filters set aside, by filter."""
        return self.set_aside.get("filtered", {})

    def count_set_aside(self, *statuses: str) -> int:
        """Rows that are set aside with one of these statuses; without any, with whatever status."""
        found = [self.set_aside.get(status, {}) for status in statuses or self.set_aside]
        return sum(sum(reasons.values()) for reasons in found)

    def describe_set_aside(self) -> str:
        """How many rows are set aside and why, the most frequent reason first; for people."""
        counts = Counter({why: n for whys in self.set_aside.values() for why, n in whys.items()})
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
        return f"{counts.total():,}" + (f" ({reasons})" if reasons else "")


@dataclass(frozen=True)
class Snapshot(NewSnapshot):
    """A snapshot in the ledger."""

    id: int
    night_id: int
    settled: dict[str, int]
    taken_at: float

    def is_judged_by(self, verdict: Mapping[str, Any]) -> bool:
        """Whether a pilot's verdict is valid for this snapshot.

        An open one is valid for all input under its declaration, a closed one for its own input
        alone: corrected data get a pilot of their own. So is one that a person has to review: what
        was approved is this input, and what of it is redriven. Near duplicates that may share
        answers are judged for their threshold.
        """
        if verdict["declaration_hash"] != self.declaration_hash:
            return False
        near = self.declaration.get("near_duplicates") or {}
        judged = verdict.get("near_duplicates") or {}
        if near.get("action") == "reuse" and judged.get("threshold") != near["threshold"]:
            return False
        if verdict["content_hash"] == self.content_hash:
            return True
        return bool(verdict["open"]) and (bool(self.below) or not approvals.needs_review(verdict))

    def as_json(self) -> dict[str, Any]:
        """What `NewSnapshot.from_json` reads."""
        own = {"id", "night_id", "settled", "taken_at"}
        return {key: value for key, value in asdict(self).items() if key not in own}


def get_snapshot(connection: Connection, snapshot_id: int) -> Snapshot:
    query = sa.select(tables.snapshot).where(tables.snapshot.c.id == snapshot_id)
    return _snapshot(connection.execute(query).mappings().one())


def _snapshot(row: sa.RowMapping) -> Snapshot:
    below = tuple(Layer(**layer) for layer in row["below"])
    return Snapshot(**{**row, "below": below})


def declarations(connection: Connection, night_id: int) -> dict[str, dict[str, Any]]:
    """All declarations that snapshots of a night were taken with, by hash."""
    query = sa.select(tables.snapshot.c.declaration_hash, tables.snapshot.c.declaration)
    rows = connection.execute(query.where(tables.snapshot.c.night_id == night_id))
    return {row.declaration_hash: row.declaration for row in rows}


def snapshots_of(connection: Connection, night_id: int) -> dict[int, Snapshot]:
    """All snapshots that a night has had, by id."""
    query = sa.select(tables.snapshot).where(tables.snapshot.c.night_id == night_id)
    return {row["id"]: _snapshot(row) for row in connection.execute(query).mappings()}


def newest_source(
    connection: Connection, job: str, partition: str, kind: str
) -> tuple[str, dict[str, Any]] | None:
    """The partition and the `source` of the snapshot that was taken last of another night of the
    job, from the same kind of source; None where there is none."""
    query = (
        sa.select(tables.night.c.partition, tables.snapshot.c.source)
        .join(tables.night, tables.night.c.snapshot_id == tables.snapshot.c.id)
        .where(
            tables.night.c.job == job,
            tables.night.c.partition != partition,
            tables.snapshot.c.source.is_not(None),
        )
        .order_by(tables.snapshot.c.taken_at.desc())
    )
    for row in connection.execute(query):
        if row.source["kind"] == kind:
            return row.partition, row.source
    return None


def add(
    connection: Connection, night: Night, new: NewSnapshot, settled: dict[str, int]
) -> Snapshot:
    """Add a snapshot to those of a night; its current one stays.

    `settled` is the number of its items that are settled already, by status.
    """
    columns = {**vars(new), "below": [asdict(layer) for layer in new.below]}
    added = connection.execute(
        sa.insert(tables.snapshot).values(
            night_id=night.id, taken_at=now(connection), settled=settled, **columns
        )
    )
    return get_snapshot(connection, added.inserted_primary_key[0])  # type: ignore[index]


def avoid(
    connection: Connection, snapshot: Snapshot, cause: str, documents: int, size: int
) -> None:
    """Record how many requests of a snapshot are not sent for a cause, and their bytes."""
    avoided = {**snapshot.avoided, cause: {"documents": documents, "bytes": size}}
    connection.execute(
        sa.update(tables.snapshot)
        .where(tables.snapshot.c.id == snapshot.id)
        .values(avoided=avoided)
    )


def replace_snapshot(
    connection: Connection, night: Night, new: NewSnapshot, settled: dict[str, int]
) -> Snapshot:
    """`add` a snapshot and make it the night's current one; shards of the former that wait are
    dropped, and so is the reading of an input.

    The caller has seen to it that nothing of the night is in flight.
    """
    snapshot = add(connection, night, new, settled)
    shards.drop_waiting(connection, night.id)
    readings.drop(connection, night.id)
    nights.update_night(
        connection,
        night.id,
        snapshot_id=snapshot.id,
        open_requests=new.units,
        undecided=0,
        revision=night.revision + 1,
        realtime_since=None,
        forecast=None,
        refused=None,
        pruned_at=None,
        completed_at=None,
        held_twins=0,
    )
    return snapshot
