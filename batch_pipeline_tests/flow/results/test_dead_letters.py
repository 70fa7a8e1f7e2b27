"""Dead letters keep whole input rows, however many and however large."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from batch_pipeline.flow.answers.schemas import DEAD_LETTER_SCHEMA
from batch_pipeline.flow.dataset.snapshot import SnapshotRow, SnapshotWriter
from batch_pipeline.flow.paths import part_name
from batch_pipeline.flow.results import dead_letters
from batch_pipeline.flow.results.dead_letters import DeadLetter
from batch_pipeline.storage.files import Files
from batch_pipeline_tests.flow.dataset.prepared_rows import SNAPSHOT


def test_large_rows_are_written_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "GROUP_BYTES", 10_000)
    monkeypatch.setattr(dead_letters, "GROUP_ROWS", 7)
    texts = ["ü" * (9_000 if number % 10 == 0 else 50) for number in range(40)]
    inputs = [orjson.dumps({"id": str(n), "text": text}) for n, text in enumerate(texts)]
    writer = SnapshotWriter(tmp_path, 0, "none")
    for number, row in enumerate(inputs):
        writer.add(
            SnapshotRow(
                str(number), "u", "f", 1, None, None, None, "s", number + 1, row, None, None
            )
        )  # fmt: skip
    writer.close()
    [part] = writer.parts
    part.replace(tmp_path / part_name(0))
    letters = [DeadLetter(n, str(n), "errored", 1, "api_error", f"no {n}") for n in range(40)]
    path = tmp_path / "letters.parquet"
    dead_letters.write(
        Files(str(tmp_path)), replace(SNAPSHOT, folder="."), letters[::-1], path, simulated=True
    )
    with pq.ParquetFile(path) as parquet:
        metadata, table = parquet.metadata, parquet.read()
    groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert max(groups) <= 7
    assert sum(groups) == 40
    assert table.schema == DEAD_LETTER_SCHEMA
    assert [row["input"].encode() for row in table.to_pylist()] == inputs
    assert table.column("error_message").to_pylist() == [f"no {n}" for n in range(40)]
    assert set(table.column("simulated").to_pylist()) == {True}
