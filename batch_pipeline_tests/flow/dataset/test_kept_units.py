"""When an input that is read again keeps what a redrive kept, and how a kept item is found."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from batch_pipeline.flow.dataset.kept_units import KeptUnits, MadeBy, is_kept_on
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline_tests.support import job

PRESENT = Declaration.of(job("in.jsonl"))
NIGHT = Night(
    id=1, job="job", partition="all", account="default", created_at=0.0, snapshot_id=1,
    open_requests=0, revision=0, published=True, rebuilding=False, held_at=None, refused=None,
    wanted_room_at=0.0, pilot=None, completed_at=1.0,
)  # fmt: skip
SNAPSHOT = Snapshot(
    folder="f", signature="s", content_hash="c", declaration_hash=PRESENT.hash, declaration={},
    parts=1, items=100,
    set_aside={"invalid_input": {"blank document": 4}, "too_large": {"too large": 1}},
    duplicates=5, request_bytes=1, kept=60, id=1,
    night_id=1, settled={}, taken_at=0.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("kept", "same_declaration", "complete", "kept_on"),
    [
        (60, True, True, True),
        (60, True, False, True),
        (60, False, False, True),
        (60, False, True, False),
        (0, True, True, False),
        (0, False, False, False),
    ],
)
def test_what_is_kept_on(kept: int, same_declaration: bool, complete: bool, kept_on: bool) -> None:
    snapshot = replace(
        SNAPSHOT, kept=kept, declaration_hash=PRESENT.hash if same_declaration else "other"
    )
    night = replace(NIGHT, completed_at=1.0 if complete else None)
    assert is_kept_on(night, snapshot, PRESENT) is kept_on


def test_kept_requests_are_none_of_the_snapshots_own() -> None:
    assert SNAPSHOT.units == 100 - 4 - 1 - 5 - 60
    assert replace(SNAPSHOT, kept=0).units == 90


def test_a_kept_item_is_found_by_its_id() -> None:
    assert KeptUnits().of("a") is None
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE kept (id, unit, declaration, route)")
    database.execute("INSERT INTO kept VALUES ('a', 'u', 'd', NULL)")
    builder = RequestBuilder(PRESENT)
    made_by = MadeBy("d", None)
    kept = KeptUnits({made_by: builder}, database)
    assert kept.of("a") == ("u", made_by, builder)
    assert kept.of("b") is None
    database.close()
