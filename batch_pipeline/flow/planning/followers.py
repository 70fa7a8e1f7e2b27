"""Items that a request answers besides the one it was built from.

They are few or none in most nights, and a third of all items in others: hence columns, which both
ways of judging lines take what they need from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_pipeline.flow import joins
from batch_pipeline.flow.dataset import snapshot as snapshots
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger.snapshots import Snapshot

_SCHEMA = pa.schema([("request", pa.int64()), ("ordinal", pa.int64()), ("id", pa.string())])
_QUERY = """
    SELECT m.request, d.ordinal, d.id
    FROM duplicates d JOIN manifest m USING (unit) ORDER BY m.request, d.ordinal
"""


@dataclass(frozen=True)
class Followers:
    """One row an item, in the order of requests: `request` is its place in the manifest."""

    table: pa.Table

    @classmethod
    def of(cls, request: list[int], ordinal: list[int], ids: list[str]) -> Followers:
        return cls(pa.table([request, ordinal, ids], schema=_SCHEMA))

    @cached_property
    def requests(self) -> npt.NDArray[np.int64]:
        found: npt.NDArray[np.int64] = self.table.column("request").to_numpy()
        return found

    @cached_property
    def by_request(self) -> dict[int, list[tuple[int, str]]]:
        """Ordinal and id of each, for access by line."""
        found: dict[int, list[tuple[int, str]]] = {}
        for row in self.table.to_pylist():
            found.setdefault(row["request"], []).append((row["ordinal"], row["id"]))
        return found


def of_manifest(pipeline: Pipeline, snapshot: Snapshot, manifest: pa.Table) -> Followers:
    """Those of a manifest's requests."""
    if not snapshot.duplicates:
        return Followers(_SCHEMA.empty_table())
    sources = {
        "duplicates": (snapshots.duplicates_paths(snapshot), snapshots.DUPLICATES_SCHEMA),
    }
    numbered = pa.table({"unit": manifest.column("unit"), "request": np.arange(manifest.num_rows)})
    with joins.tables(pipeline.files, sources) as connection:
        connection.register("manifest", numbered)
        batches = [batch.cast(_SCHEMA) for batch in joins.batches(connection, _QUERY)]
    return Followers(pa.Table.from_batches(batches, _SCHEMA))
