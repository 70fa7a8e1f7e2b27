"""An input that several workers read: its rows and its job, and what must be left of a reading."""

from __future__ import annotations

import hashlib
from typing import Any

from batch_pipeline.flow import publishing
from batch_pipeline.flow.dataset.reading import splits
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights, readings, snapshots
from batch_pipeline_tests.support import PARTITION, documents

# Pieces of an input of some kB, in bytes, so that it has several.
PIECE_BYTES = 2_000
DECLARED: dict[str, Any] = {
    "filters": {"min_words": 2},
    "near_duplicates": {"threshold": 0.9, "action": "filter"},
}


def rows() -> list[dict[str, Any]]:
    """Rows with what happens to rows: some that come twice, near duplicates, one that is filtered,
    one without a text."""
    long = " ".join(f"clause {n} of the contract holds in all countries" for n in range(30))
    near = [{"id": f"near {n}", "text": f"{long}, signed {n}"} for n in range(3)]
    twice = [{**row, "id": f"again {row['id']}"} for row in documents(8)]
    return [*documents(40), *near, *twice, {"id": "no text"}, {"id": "few", "text": "few"}]


def cut_into_small_pieces() -> None:
    """From now on this process cuts any input into pieces of `PIECE_BYTES`."""
    splits.PIECE_BYTES = splits._LEAST_BYTES = PIECE_BYTES
    splits._FILE_BYTES = 0


def files_of_snapshot(pipeline: Pipeline, spec: JobSpec) -> dict[str, str]:
    """What each file of the night's snapshot holds, by its path in the home.

    Asserts that nothing else is left of the reading, neither in the ledger nor in the home.
    """
    with pipeline.ledger.read() as connection:
        night = nights.shown_night(connection, spec.name, PARTITION)
        assert night is not None
        assert night.snapshot_id is not None
        snapshot = snapshots.get_snapshot(connection, night.snapshot_id)
        assert readings.of_night(connection, night.id) is None
    publishing.sweep(pipeline)
    assert not pipeline.files.glob(".readings/*/*")
    found = {path: pipeline.files.read(path) for path in pipeline.files.list(snapshot.folder, "")}
    return {path: hashlib.sha256(data or b"").hexdigest() for path, data in found.items()}
