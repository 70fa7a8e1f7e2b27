"""Rows of a snapshot are found again by their ordinals, in snapshots of former releases too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batch_pipeline.flow import paths
from batch_pipeline.flow.dataset import input_dataset, snapshot_writer
from batch_pipeline.flow.dataset import snapshot as snapshots
from batch_pipeline.flow.dataset.snapshot_writer import SnapshotRow, SnapshotWriter
from batch_pipeline.storage.files import Files
from batch_pipeline_tests.flow.dataset.prepared_rows import SNAPSHOT

LAYOUTS = ["of this release", "packed", "of a former release"]
WANTED = [0, 1, 999, 1_000, 1_001, 2_499]


def text_of(number: int) -> bytes:
    return b'{"id":"%d"}' % number


def a_row(number: int, at: int) -> SnapshotRow:
    unit, size = f"unit-{number}", len(text_of(number))
    places = (7, size - 2) if number % 2 else None
    return SnapshotRow(str(number), unit, unit, 9, None, None, "x", number, at, size, places=places)


def write(folder: Path, layout: str, count: int = 2_500) -> int:
    """Rows by themselves, and some together that have blank lines between them; how many parts."""
    writer = SnapshotWriter(folder, packed=layout != "of this release")
    for number in range(0, count, 5):
        writer.add(text_of(number), [a_row(number, 0)])
        texts = [text_of(number + more) for more in range(1, 5)]
        lines = b"\n\n".join(texts)
        rows = [a_row(number + n, lines.index(text)) for n, text in enumerate(texts, 1)]
        writer.add(memoryview(lines), rows)
    writer.close()
    for number, part in enumerate(writer.parts):
        if layout == "of a former release":
            table = pq.read_table(part).drop_columns(["kept_from", "places"])
            pq.write_table(table, part, row_group_size=700)
        input_dataset.name_part(part, number)
    return len(writer.parts)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("limit", "value"), [("PART_ROWS", 50_000), ("PART_ROWS", 900), ("PART_BYTES", 10_000)]
)
@pytest.mark.parametrize("read_bytes", [1, 100, 1 << 20])
def test_inputs_are_found_by_their_ordinals(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
    limit: str,
    value: int,
    read_bytes: int,
) -> None:
    monkeypatch.setattr(snapshot_writer, limit, value)
    monkeypatch.setattr(snapshot_writer, "ROW_GROUP_ROWS", 700)
    monkeypatch.setattr(snapshots, "READ_BYTES", read_bytes)
    parts = write(tmp_path, layout)
    assert (parts > 1) is (value < 50_000)
    snapshot = replace(SNAPSHOT, folder=".", parts=parts)
    files = Files(str(tmp_path))
    for wanted in (WANTED, range(2_500)):
        found = list(snapshots.read_inputs(files, snapshot, wanted))
        assert [row.text for row in found] == [text_of(number) for number in wanted]
        places = [
            [7, len(row.text) - 2] if n % 2 else None for n, row in zip(wanted, found, strict=True)
        ]
        former = layout == "of a former release"
        assert [row.places for row in found] == ([None] * len(places) if former else places)


def test_documents_that_were_cut_off_are_an_error(tmp_path: Path) -> None:
    parts = write(tmp_path, "of this release")
    documents = tmp_path / paths.documents_of(paths.part_name(0))
    documents.write_bytes(documents.read_bytes()[:-9])
    snapshot = replace(SNAPSHOT, folder=".", parts=parts)
    with pytest.raises(OSError, match=r"part-00000\.jsonl"):
        list(snapshots.read_inputs(Files(str(tmp_path)), snapshot, range(2_500)))
