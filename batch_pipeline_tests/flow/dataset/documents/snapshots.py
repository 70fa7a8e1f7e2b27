"""What tests of documents share: an input that is read into a snapshot, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq

from batch_pipeline.flow.dataset.documents.reference import MARK
from batch_pipeline.flow.dataset.input_dataset import read_snapshot
from batch_pipeline.flow.dataset.layers import Overlay
from batch_pipeline.flow.dataset.sources.find import find_input
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline_tests.support import PARTITION, job

Rows = dict[str, dict[str, Any]]


def document_job(path: Path | str, user: str = "Read this: {document}", **input_: Any) -> JobSpec:
    """A job over files, or a table, whose documents are the prompt."""
    more = {key: input_.pop(key) for key in ("filters", "partitions") if key in input_}
    return job(
        path,
        input={"path": str(path), **input_},
        prompt={"user": user},
        pilot={"size": 0, "max_error_rate": 1},
        **more,
    )


def taken(
    pipeline: Pipeline,
    spec: JobSpec,
    *,
    keep: bool = True,
    overlay: Overlay | None = None,
    partition: str = PARTITION,
) -> NewSnapshot:
    sources = find_input(pipeline, spec, partition)
    return read_snapshot(pipeline, spec, partition, sources, keep=keep, overlay=overlay)


def rows_of(pipeline: Pipeline, new: NewSnapshot) -> Rows:
    """The rows of a snapshot by id."""
    folder = Path(pipeline.files.uri(new.folder))
    parts = (pq.read_table(path).to_pylist() for path in sorted(folder.glob("part-*.parquet")))
    return {row["id"]: row for rows in parts for row in rows}


def mark_of(row: dict[str, Any], column: str = "document") -> dict[str, Any]:
    """What a row of a snapshot says of its document."""
    found: dict[str, Any] = orjson.loads(row["input"])[column][MARK]
    return found


def kept_files(pipeline: Pipeline, name: str = "review") -> set[str]:
    """The names of the documents that the home keeps."""
    folder = Path(pipeline.files.uri(f"{name}/documents"))
    return {path.name for path in folder.glob("*") if path.is_file()}
