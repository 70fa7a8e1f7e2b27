"""`input.job`: the accepted answers of another job's same night."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow.parquet as pq

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow import paths
from batch_pipeline.flow.dataset.sources.source import Reading
from batch_pipeline.flow.outcomes import Status
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger import nights, snapshots
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.settings import SIMULATOR_ACCOUNT

_OWN = ("id", "content", "parsed")
_READ = ("id", "status", "content", "parsed")
_BATCH_ROWS = 1024


@dataclass(frozen=True)
class AnswersSource:
    """A complete night of another job."""

    pipeline: Pipeline
    night: Night
    snapshot: Snapshot
    kind: str = "job"

    @property
    def origin(self) -> str:
        return f"job {self.night.job}"

    @property
    def simulated(self) -> bool:
        return self.night.account == SIMULATOR_ACCOUNT

    @property
    def version(self) -> str:
        """The night's snapshot, and when it was completed: a redrive completes it anew."""
        at = self.night.completed_at or 0.0
        name = self.snapshot.folder.rpartition("/")[2]
        return f"{self.night.account}/{name}@{at:.3f}"

    @contextmanager
    def open(self) -> Iterator[Reading]:
        fields = _fields(self.snapshot)
        columns: dict[str, str | None] = {"id": "string", "content": "string"}
        if fields is not None:
            columns |= {"parsed": None} | {_named(name): kind for name, kind in fields.items()}
        try:
            yield Reading(columns, self._rows(list(fields) if fields is not None else None))
            now = find(self.pipeline, self.night.job, self.night.partition).version
        except FileNotFoundError:
            now = None
        if now != self.version:
            raise InputDataError(
                f"{self.origin}: its night {self.night.partition} changed while its answers were "
                "read; nothing was sent. Run again once it is complete."
            )

    def _rows(self, fields: Sequence[str] | None) -> Iterator[dict[str, Any]]:
        folder = paths.results(self.night.job, self.night.partition)
        files = self.pipeline.files
        for path in files.list(folder, ".parquet"):
            with files.open_native(path) as file, pq.ParquetFile(file) as parquet:
                batches = parquet.iter_batches(_BATCH_ROWS, columns=list(_READ), use_threads=False)
                for batch in batches:
                    for row in batch.to_pylist():
                        if row["status"] == Status.SUCCEEDED:
                            yield _row(row, fields)


def find(pipeline: Pipeline, job: str, partition: str) -> AnswersSource:
    """The night of the other job; InputDataError unless it is complete."""
    with pipeline.ledger.read() as connection:
        night = nights.shown_night(connection, job, partition)
        snapshot = (
            None
            if night is None or night.snapshot_id is None
            else snapshots.get_snapshot(connection, night.snapshot_id)
        )
    if night is None or snapshot is None or night.completed_at is None or night.rebuilding:
        stands = "has not begun" if night is None or snapshot is None else "is not complete"
        raise InputDataError(
            f"job {job}: its night {partition} {stands}, and its answers are the input; nothing "
            f"was sent. `batch-pipeline run {job} --partition {partition}` does it first; in "
            "Dagster the sensor starts this job once that night is complete."
        )
    return AnswersSource(pipeline, night, snapshot)


def _fields(snapshot: Snapshot) -> dict[str, str | None] | None:
    """The fields of the answers that the schema declares, with their types; None: no schema."""
    schema = snapshot.declaration.get("output_schema")
    if schema is None:
        return None
    found = schema.get("properties")
    if not isinstance(found, dict):
        return {}
    return {name: _type_of(each) for name, each in found.items()}


def _type_of(schema: Any) -> str | None:
    kind = schema.get("type") if isinstance(schema, dict) else None
    if isinstance(kind, list):
        kind = "|".join(sorted(map(str, kind)))
    return "number" if kind == "integer" else kind


def _row(row: dict[str, Any], fields: Sequence[str] | None) -> dict[str, Any]:
    cells: dict[str, Any] = {"id": row["id"], "content": row["content"]}
    if fields is None:
        return cells
    cells |= {"parsed": None} | {_named(name): None for name in fields}
    if row["parsed"] is not None:
        # Numbers keep the digits of the answer.
        parsed = json.loads(row["parsed"], parse_int=orjson.Fragment, parse_float=orjson.Fragment)
        cells["parsed"] = parsed
        if isinstance(parsed, dict):
            cells |= {_named(name): value for name, value in parsed.items()}
    return cells


def _named(field: str) -> str:
    """The column of an answer's field, apart from those that every row has."""
    return f"parsed_{field}" if field in _OWN else field
