"""Single rows of a snapshot: its first ones, one by its id, and the ids that look like another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch_pipeline.flow import joins
from batch_pipeline.flow.dataset.choosing import decisions
from batch_pipeline.flow.dataset.snapshot import SCHEMA, Input, part_paths
from batch_pipeline.flow.paths import parts_in
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.storage.files import Files

# How alike an id is that is named where one is not found, of 1 for the same.
_ALIKE = 0.75
_NAMED = 3
# A row group in memory may be 4 MB of rows; few of them are looked at one by one.
_ROWS_AT_ONCE = 100


@dataclass(frozen=True)
class SnapshotItem:
    """A row of a snapshot. A row that is not sent has a `status` and why; `answered_by` is the id
    of the row whose request answers it too, whose unit is `unit` then."""

    ordinal: int
    id: str
    unit: str | None
    fingerprint: str | None
    request_bytes: int | None
    prompt_size: int | None
    visual_tokens: int | None
    status: str | None
    reason: str | None
    detail: str | None
    source: str
    row: int
    input: bytes
    places: Sequence[int] | None
    route: str | None
    kept_from: str | None
    answered_by: str | None = None

    @property
    def as_input(self) -> Input:
        return Input(self.input, self.places)

    @property
    def why_not_sent(self) -> str | None:
        """Why the row makes no request of its own; None: it does."""
        if self.answered_by is not None:
            return f"its request is the same as that of {self.answered_by!r}, which answers both"
        if self.status is None:
            return None
        detail = self.detail or ""
        reason = None if self.reason and detail.startswith(self.reason) else self.reason
        return ": ".join(filter(None, (self.status, reason, detail)))


_COLUMNS = [name for name in SCHEMA.names if name in SnapshotItem.__dataclass_fields__]


def first(files: Files, snapshot: NewSnapshot, count: int) -> list[SnapshotItem]:
    """The first rows of a snapshot that make a request, in its order; where there are fewer than
    `count` of them, rows that make none follow."""
    sent: list[SnapshotItem] = []
    others: list[SnapshotItem] = []
    for row in _rows(files, snapshot):
        # A later layer of the snapshot has the row as it is now.
        current = row if not snapshot.below else by_id(files, snapshot, row.id)
        decided = row if current is None else current
        decided = _with_decision(files, snapshot, decided) if decided.status is None else decided
        (others if decided.why_not_sent else sent).append(decided)
        if len(sent) == count:
            return sent
        if len(others) > _ROWS_AT_ONCE:
            del others[count:]
    return [*sent, *others][:count]


def by_id(files: Files, snapshot: NewSnapshot, item_id: str) -> SnapshotItem | None:
    """The row with an id, as its newest layer has it, with what was decided of it."""
    for layer in reversed(snapshot.layers):
        for path in parts_in(layer.folder, layer.parts):
            found = files.dataset([path], SCHEMA).to_table(_COLUMNS, pc.field("id") == item_id)
            if found.num_rows:
                row = SnapshotItem(**found.slice(0, 1).to_pylist()[0])
                return _with_decision(files, snapshot, row)
    return None


def alike(files: Files, snapshot: NewSnapshot, item_id: str) -> list[str]:
    """Up to three ids of a snapshot that look like one that it has not."""
    query = """
        SELECT id FROM rows WHERE jaro_winkler_similarity(id, $id) >= $least
        ORDER BY jaro_winkler_similarity(id, $id) DESC, id LIMIT $most
    """
    with joins.tables(files, {"rows": (part_paths(snapshot), SCHEMA)}) as connection:
        wanted = {"id": item_id, "least": _ALIKE, "most": _NAMED}
        return [found for (found,) in connection.execute(query, wanted).fetchall()]


def _rows(files: Files, snapshot: NewSnapshot) -> Iterator[SnapshotItem]:
    for path in part_paths(snapshot):
        with files.open(path) as file, pq.ParquetFile(file) as parquet:
            there = [name for name in _COLUMNS if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=there, use_threads=False):
                for row in batch.to_pylist():
                    yield SnapshotItem(**{**dict.fromkeys(_COLUMNS), **row})


def _with_decision(files: Files, snapshot: NewSnapshot, row: SnapshotItem) -> SnapshotItem:
    path = decisions.path_of(snapshot)
    if not files.glob(path):
        return row
    table = files.dataset([path], decisions.SCHEMA).to_table(
        filter=pc.field("ordinal") == row.ordinal
    )
    decided = table.to_pylist()
    if not decided:
        return row
    [decision] = decided
    changes: dict[str, Any] = {"status": decision["status"]}
    if decision["status"] is not None:
        changes |= {"reason": decision["reason"], "detail": decision["detail"]}
    elif decision["answered_by"] is not None:
        changes |= {"answered_by": _id_of(files, snapshot, decision["answered_by"])}
        changes |= {"unit": decision["unit"] or row.unit}
    return replace(row, **changes)


def _id_of(files: Files, snapshot: NewSnapshot, ordinal: int) -> str:
    for path in part_paths(snapshot):
        found = files.dataset([path], SCHEMA).to_table(["id"], pc.field("ordinal") == ordinal)
        if found.num_rows:
            return str(found.column("id")[0].as_py())
    return f"row {ordinal}"
