"""Rows of a snapshot are found again by their ordinals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batch_pipeline.flow.dataset import snapshot as snapshots
from batch_pipeline.flow.dataset.snapshot import Codec, SnapshotRow, SnapshotWriter
from batch_pipeline.flow.paths import part_name
from batch_pipeline.storage.files import Files
from batch_pipeline_tests.flow.dataset.prepared_rows import SNAPSHOT

ROWS = 2_500
WANTED = [0, 1, 999, 1_000, 1_001, 2_499]


def a_row(number: int) -> SnapshotRow:
    text = b'{"id":"%d"}' % number
    places = (7, len(text) - 2) if number % 2 else None
    unit = f"unit-{number}"
    return SnapshotRow(
        str(number), unit, unit, 9, None, None, None, "x", number, text, None, places
    )


def write(folder: Path, codec: Codec) -> int:
    """Returns how many parts there are."""
    writer = SnapshotWriter(folder, 0, codec)
    for number in range(ROWS):
        writer.add(a_row(number))
    writer.close()
    for number, part in enumerate(writer.parts):
        part.replace(folder / part_name(number))
    return len(writer.parts)


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("PART_ROWS", 50_000),
        ("PART_ROWS", 900),
        ("PART_BYTES", 10_000),
        ("GROUP_BYTES", 100),
        ("GROUP_ROWS", 1),
    ],
)
def test_inputs_are_found_by_their_ordinals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(snapshots, "GROUP_ROWS", 700)
    monkeypatch.setattr(snapshots, limit, value)
    parts = write(tmp_path, "zstd")
    assert (parts > 1) is (limit.startswith("PART") and value < 50_000)
    snapshot = replace(SNAPSHOT, folder=".", parts=parts)
    for wanted in (WANTED, range(ROWS)):
        found = list(snapshots.read_inputs(Files(str(tmp_path)), snapshot, wanted))
        expected = [a_row(number) for number in wanted]
        assert [row.text for row in found] == [row.input for row in expected]
        places = [None if row.places is None else list(row.places) for row in expected]
        assert [row.places for row in found] == places


def test_a_row_group_has_a_few_megabytes(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path, 0, "none")
    text = b'{"text":"%b"}' % (b"x" * 1_000_000)
    for number in range(20):
        writer.add(a_row(number)._replace(input=text))
    writer.close()
    metadata = pq.ParquetFile(writer.parts[0]).metadata
    assert metadata.num_rows == 20
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    assert max(group.total_byte_size for group in groups) < 6_000_000
