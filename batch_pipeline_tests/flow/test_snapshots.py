"""Rows of a snapshot are found again by their ordinals, in snapshots of former releases too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batch_pipeline.flow import paths, snapshots
from batch_pipeline.flow.snapshots import SnapshotRow, SnapshotWriter
from batch_pipeline.state.files import Files
from batch_pipeline_tests.flow.rows import SNAPSHOT


def a_row(number: int, places: tuple[int, ...] | None) -> SnapshotRow:
    unit = f"unit-{number}"
    text = b'{"id":"%d"}' % number
    return SnapshotRow(str(number), unit, unit, 9, None, None, "x", number, text, places=places)


@pytest.mark.parametrize("former", [False, True], ids=["of this release", "of a former release"])
def test_inputs_are_found_by_their_ordinals(tmp_path: Path, former: bool) -> None:
    writer = SnapshotWriter(tmp_path)
    for number in range(2_500):
        writer.add(a_row(number, (7, 7 + len(str(number))) if number % 2 else None))
    writer.close()
    for number, part in enumerate(writer.parts):
        table = pq.read_table(part)
        pq.write_table(
            table.drop_columns(["kept_from", "places"]) if former else table,
            tmp_path / paths.part_name(number),
            row_group_size=snapshots.ROW_GROUP_ROWS,
        )
    snapshot = replace(SNAPSHOT, folder=".", parts=len(writer.parts))
    found = list(snapshots.read_inputs(Files(str(tmp_path)), snapshot, [0, 1, 999, 1_000, 2_499]))
    assert [row.text for row in found] == [b'{"id":"%d"}' % n for n in (0, 1, 999, 1_000, 2_499)]
    known = [None, [7, 8], [7, 10], None, [7, 11]]
    assert [row.places for row in found] == ([None] * 5 if former else known)
