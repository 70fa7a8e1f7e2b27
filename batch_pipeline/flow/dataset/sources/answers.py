"""`input.job`: the accepted answers of another job's same night."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any

import orjson
import pyarrow.parquet as pq

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow import paths
from batch_pipeline.flow.answers.outcomes import Status
from batch_pipeline.flow.dataset.sources.source import Reading, arrow_rows
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger import nights, snapshots
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.settings import SIMULATOR_ACCOUNT
from batch_pipeline.storage.files import Files

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
        return self.night.owner == SIMULATOR_ACCOUNT

    @property
    def version(self) -> str:
        """The night's snapshot, and when it was completed: a redrive completes it anew."""
        at = self.night.completed_at or 0.0
        name = self.snapshot.folder.rpartition("/")[2]
        carried = "".join(f"+{name}" for name in self._carried)
        return f"{self.night.owner}/{name}@{at:.3f}{carried}"

    @cached_property
    def _carried(self) -> list[str]:
        """The columns that the other night carries from its own input."""
        return [f"input_{name}" for name in (self.night.output or {}).get("carry", ())]

    @contextmanager
    def open(self) -> Iterator[Reading]:
        fields = _fields(self.snapshot)
        columns: dict[str, str | None] = {"id": "string", "content": "string"}
        columns |= {} if fields is None else {"parsed": None}
        columns |= dict.fromkeys(self._carried)
        columns |= {self._column(field): kind for field, kind in (fields or {}).items()}
        try:
            yield Reading(columns, self._rows(None if fields is None else list(fields)))
            now = find(self.pipeline, self.night.job, self.night.partition).version
        except FileNotFoundError:
            now = None
        if now != self.version:
            raise InputDataError(
                f"{self.origin}: its night {self.night.partition} changed while its answers were "
                "read; nothing was sent. Run again once it is complete."
            )

    def _column(self, field: str) -> str:
        """The column of an answer's field, apart from those that every row has."""
        return f"parsed_{field}" if field in (*_OWN, *self._carried) else field

    def _rows(self, fields: Sequence[str] | None) -> Iterator[dict[str, Any]]:
        night, files = self.night, self.pipeline.files
        for path in files.list(paths.results(night.job, night.partition), ".parquet"):
            carried: Iterator[dict[str, Any]] = repeat({})
            if self._carried:
                # The typed rows of a file of results are in a file of the same name, in its order.
                typed = f"{paths.typed(night.job, night.partition)}/{path.rpartition('/')[2]}"
                carried = _read(files, typed, ["id", *self._carried])
            for row, beside in zip(_read(files, path, _READ), carried, strict=False):
                assert beside.get("id", row["id"]) == row["id"], "typed rows follow the results"
                if row["status"] == Status.SUCCEEDED:
                    yield {**self._cells(row, fields), **beside}

    def _cells(self, row: dict[str, Any], fields: Sequence[str] | None) -> dict[str, Any]:
        """The cells of an answer; `fields` are those of its schema, None: it has none."""
        cells: dict[str, Any] = {"id": row["id"], "content": row["content"]}
        if fields is None:
            return cells
        cells |= {"parsed": None} | {self._column(field): None for field in fields}
        if row["parsed"] is not None:
            # Numbers keep the digits of the answer.
            exact = orjson.Fragment
            parsed = json.loads(row["parsed"], parse_int=exact, parse_float=exact)
            cells["parsed"] = parsed
            if isinstance(parsed, dict):
                cells |= {self._column(field): value for field, value in parsed.items()}
        return cells


def _read(files: Files, path: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a file, a few at a time."""
    with files.open_native(path) as file, pq.ParquetFile(file) as parquet:
        yield from arrow_rows(
            parquet.iter_batches(_BATCH_ROWS, columns=list(columns), use_threads=False)
        )


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
