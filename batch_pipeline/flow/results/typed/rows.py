"""Rows of the typed dataset, made of files of results: one for each row, in the same order.

A typed file is made of each results file before either has a name, and both are published by one
transaction. So the typed dataset has the rows that the results have, at any time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.reading.files import Sources
from batch_pipeline.flow.dataset.sources.find import find_input
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results.typed.carried import Carried, prepare
from batch_pipeline.flow.results.typed.columns import CATEGORY, columns_of
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights, snapshots
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.safe_text import get_logger
from batch_pipeline.storage.files import Files

log = get_logger(__name__)

_ROWS = 10_000


class TypedRows:
    """Makes the typed rows of a snapshot's items, as a night's `output` declares them."""

    def __init__(self, files: Files, snapshot: NewSnapshot, output: Mapping[str, Any]) -> None:
        schema = snapshot.declaration.get("output_schema") if output["typed"] else None
        self._carried = Carried(files, snapshot, output["carry"])
        names = [field.name for field in self._carried.fields]
        self._columns = columns_of(schema, names)
        # A decimal is read with the digits that the model wrote.
        exact = any("decimal" in str(column.field.type) for column in self._columns)
        self._parse = _exactly if exact else orjson.loads
        self.schema = pa.schema(
            [
                pa.field("id", pa.string()),
                pa.field("status", pa.string(), metadata=CATEGORY),
                *self._carried.fields,
                *(column.field for column in self._columns),
            ]
        )

    def write(self, results: Path, target: Path) -> None:
        """Write the typed rows of a local file of results."""
        with (
            pq.ParquetFile(results) as parquet,
            pq.ParquetWriter(target, self.schema, compression="zstd") as writer,
        ):
            ids = parquet.read(["id"]).column("id").combine_chunks()
            carried, start = self._carried.arrays(ids), 0
            for batch in parquet.iter_batches(_ROWS, columns=["id", "status", "parsed"]):
                rows = batch.num_rows
                there = [column.slice(start, rows) for column in carried]
                start += rows
                fields = self._fields(batch.column("parsed"))
                own = [batch.column("id"), batch.column("status")]
                writer.write_batch(
                    pa.RecordBatch.from_arrays([*own, *there, *fields], schema=self.schema)
                )

    def _fields(self, parsed: pa.Array) -> list[pa.Array]:
        if not self._columns:
            return []
        answers = [None if text is None else self._parse(text) for text in parsed.to_pylist()]
        return [
            pa.array([column.value(answer) for answer in answers], column.field.type)
            for column in self._columns
        ]


def declare(pipeline: Pipeline, spec: JobSpec, night: Night) -> Night:
    """Let a night publish what its job declares as `output` now; returns the night.

    Where this has changed, the folders are marked to be built again from what was bought. Raises
    InputDataError, and changes nothing, where the input lacks a carried column.
    """
    declared = spec.output.model_dump(mode="json") if spec.output.declared else None
    night = pipeline.refreshed(night)
    if night.output == declared:
        return night
    if night.pruned_at is not None:
        log.warning(
            "%s %s: output has changed in the job, but the night was pruned; what it has "
            "published stays as it is",
            night.job,
            night.partition,
        )
        return night
    shown = night.published and night.snapshot_id is not None
    if shown and declared is not None:
        assert night.snapshot_id is not None
        with pipeline.ledger.read() as connection:
            snapshot = snapshots.get_snapshot(connection, night.snapshot_id)
        sources = _sources(pipeline, spec, night, snapshot)
        prepare(pipeline.files, snapshot, declared["carry"], sources)
    with pipeline.ledger.write() as connection:
        nights.update_night(connection, night.id, output=declared)
        if shown:
            nights.update_night(connection, night.id, rebuilding=True)
        return nights.get_night(connection, night.id)


def _sources(
    pipeline: Pipeline, spec: JobSpec, night: Night, snapshot: NewSnapshot
) -> Sources | None:
    """The files that a snapshot was read from, if they are still there as they were."""
    if spec.input.path is not None:
        with suppress(InputDataError):
            found = find_input(pipeline, spec, night.partition)
            return found if found.signature == snapshot.signature else None
    return None


def _exactly(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)
