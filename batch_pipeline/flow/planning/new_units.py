"""The open units of a night that nothing is answered of: most nights, once.

Without answers there is nothing to join with: a unit is open unless another item's request answers
it or a shard holds it. What is answered in part is `open_units`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.flow.dataset import snapshot as snapshots
from batch_pipeline.flow.planning.units import Units
from batch_pipeline.flow.schemas import RESULTS_SCHEMA, SUMMED
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.storage.files import Files

# What a manifest says of a unit that was never asked.
_UNASKED = {
    "attempts_before": pa.scalar(0, pa.int64()),
    "attempt": pa.scalar(1, pa.int64()),
    **{f"prior_{name}": pa.scalar(0, RESULTS_SCHEMA.field(name).type) for name in SUMMED},
    "cut_off": pa.scalar(False),
}
_FROM_SNAPSHOT = ("unit", "fingerprint", "ordinal", "id", "request_bytes")


class NewUnits(Units):
    """As `Units` has it; `held` are the manifests that hold units, in the home `home`."""

    def __init__(
        self, files: Files, snapshot: NewSnapshot, home: Files, held: Sequence[str]
    ) -> None:
        self._files, self._snapshot = files, snapshot
        self._home, self._held = home, held

    def all(self) -> Iterator[pa.Table]:
        for table in self._open(_FROM_SNAPSHOT):
            unasked = [pa.repeat(value, table.num_rows) for value in _UNASKED.values()]
            yield pa.Table.from_arrays([*table.columns, *unasked], [*_FROM_SNAPSHOT, *_UNASKED])

    def sizes(self) -> Iterator[pa.Table]:
        return self._open(("ordinal", "unit", "request_bytes"))

    def cut_off(self, size: int) -> pa.Table:  # noqa: ARG002  # nothing was asked
        return next(self.all()).slice(0, 0)

    def _open(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """These columns of all open units, part by part, in the order of the snapshot."""
        paths = snapshots.duplicates_paths(self._snapshot)
        answered_for = _column(self._files, paths, "ordinal")
        held = _column(self._home, self._held, "unit")
        for path in snapshots.part_paths(self._snapshot):
            table = self._files.read_columns(path, columns)
            units = table.column("unit")
            if units.null_count:
                table = table.filter(units.is_valid())
            for name, taken in (("ordinal", answered_for), ("unit", held)):
                if taken is not None:
                    table = table.filter(pc.invert(pc.is_in(table.column(name), taken)))
            yield table


def _column(files: Files, paths: Sequence[str], name: str) -> pa.Array | None:
    """One column of several small files; None without any."""
    tables = [files.read_columns(path, [name]) for path in paths]
    return pa.concat_tables(tables).column(name).combine_chunks() if tables else None
