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
import pyarrow.compute as pc

from batch_pipeline.flow.dataset import decisions
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger.snapshots import Snapshot

_SCHEMA = pa.schema([("request", pa.int64()), ("ordinal", pa.int64()), ("id", pa.string())])


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
    """The items that the requests of a manifest answer besides their own."""
    if not snapshot.duplicates:
        return Followers(_SCHEMA.empty_table())
    asked = manifest.column("ordinal").combine_chunks()
    found = pipeline.files.dataset([decisions.path_of(snapshot)]).to_table(
        columns=["answered_by", "ordinal", "id"], filter=pc.field("answered_by").isin(asked)
    )
    requests = pc.index_in(found.column("answered_by"), asked)
    table = found.set_column(0, "request", requests).cast(_SCHEMA)
    return Followers(table.sort_by([("request", "ascending"), ("ordinal", "ascending")]))
