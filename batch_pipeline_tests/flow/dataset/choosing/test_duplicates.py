"""What occurs twice in an input: ids stop the night, requests are bought once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset import input_dataset
from batch_pipeline.flow.dataset.choosing import decisions
from batch_pipeline.flow.dataset.sources.find import find_input
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline_tests.support import PARTITION, documents, job, settings, write_rows

ROWS = documents(30)
SAME_TEXT: list[dict[str, Any]] = [{**ROWS[3], "id": "again"}, {**ROWS[7], "id": "once more"}]
NO_TEXT: list[dict[str, Any]] = [{"id": "empty", "text": None}]


@pytest.mark.parametrize(
    ("more", "answered_for"),
    [([], []), (NO_TEXT, []), (SAME_TEXT, [("again", 3), ("once more", 7)])],
    ids=["nothing twice", "a row without a unit", "requests twice"],
)
def test_rows_that_anothers_request_answers_are_written_down(
    tmp_path: Path, more: list[dict[str, Any]], answered_for: list[tuple[str, int]]
) -> None:
    pipeline = Pipeline(settings(tmp_path / "home"))
    spec = job(write_rows(tmp_path / "in.jsonl", [*ROWS, *more]))
    sources = find_input(pipeline, spec, PARTITION)
    snapshot = input_dataset.read_snapshot(pipeline, spec, PARTITION, sources)
    assert (snapshot.items, snapshot.duplicates) == (len(ROWS) + len(more), len(answered_for))
    found = pq.read_table(pipeline.files.uri(decisions.path_of(snapshot))).to_pylist()
    assert sorted((row["id"], row["answered_by"]) for row in found) == answered_for
    assert {(row["status"], row["reason"]) for row in found} <= {(None, "identical_request")}


def test_an_id_that_comes_twice_stops_the_night(tmp_path: Path) -> None:
    pipeline = Pipeline(settings(tmp_path / "home"))
    spec = job(write_rows(tmp_path / "in.jsonl", [*ROWS, {**ROWS[0], "text": "another text"}]))
    sources = find_input(pipeline, spec, PARTITION)
    with pytest.raises(InputDataError, match="1 ids of column 'id' occur more than once"):
        input_dataset.read_snapshot(pipeline, spec, PARTITION, sources)
