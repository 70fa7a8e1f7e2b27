"""What the home keeps of documents: found again, and pruned once no night needs it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from batch_pipeline.flow.control.prune import describe, prune
from batch_pipeline.flow.dataset.documents.declared import document_input
from batch_pipeline.flow.dataset.documents.reference import MARK
from batch_pipeline.flow.dataset.input_dataset import read_snapshot
from batch_pipeline.flow.dataset.sources import copies
from batch_pipeline.flow.dataset.sources.source import Reading
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.recovery.found import documents_missing
from batch_pipeline_tests.document_files import pdf
from batch_pipeline_tests.flow.dataset.documents.snapshots import (
    document_job,
    kept_files,
    mark_of,
    rows_of,
    taken,
)
from batch_pipeline_tests.support import PARTITION, settings

DAYS = ("2026-01-01", "2026-01-02")


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline without an API."""
    with Pipeline(settings(tmp_path / "home")) as made:
        yield made


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_old(pipeline: Pipeline) -> None:
    """As if everything had been written three days ago."""
    then = time.time() - 3 * 86_400
    for path in Path(pipeline.files.uri("review/documents")).rglob("*"):
        os.utime(path, (then, then))


def test_prune_removes_what_no_night_needs_and_nothing_young(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    shared, first, second = (pdf([text]) for text in ("shared", "first", "second"))
    for day, own in zip(DAYS, (first, second), strict=True):
        (tmp_path / day).mkdir()
        (tmp_path / day / "shared.pdf").write_bytes(shared)
        (tmp_path / day / "own.pdf").write_bytes(own)
    spec = document_job(
        tmp_path / "{partition}" / "*.pdf", keep="copy", partitions={"start": DAYS[0]}
    )
    snapshots = [taken(pipeline, spec, partition=day) for day in DAYS]
    assert len(kept_files(pipeline)) == 3
    make_old(pipeline)
    assert prune(pipeline, spec, "2026-02-01").documents == 0
    # The first night's snapshot goes, as the pruning of a finished night has it go.
    pipeline.files.remove(snapshots[0].folder)
    assert prune(pipeline, spec, "2026-02-01", dry_run=True).documents == len(first)
    pruned = prune(pipeline, spec, "2026-02-01")
    assert pruned.as_json()["documents"] == pruned.as_json()["bytes"] == len(first)
    assert describe(pruned, dry_run=False) == [
        f"documents that no night needs: {len(first):,} bytes removed"
    ]
    assert kept_files(pipeline) == {sha256(shared), sha256(second)}
    assert documents_missing(pipeline.files, snapshots[1].folder) == []
    # A document that is taken up again is young again, though its file is old.
    pipeline.files.remove(snapshots[1].folder)
    taken(pipeline, spec, keep=True, partition=DAYS[1])
    pipeline.files.remove(snapshots[1].folder)
    assert prune(pipeline, spec, "2026-02-01").documents == 0
    os.unlink(pipeline.files.uri(f"review/documents/{sha256(second)}"))  # noqa: PTH108
    again = taken(pipeline, spec, partition=DAYS[1])
    os.unlink(pipeline.files.uri(f"review/documents/{sha256(shared)}"))  # noqa: PTH108
    assert documents_missing(pipeline.files, again.folder) == [sha256(shared)]


# --- bytes of databases --------------------------------------------------------------------------


@dataclass
class Table:
    """A table with a column of bytes."""

    rows: list[dict[str, Any]]
    kind: str = "sql"
    origin: str = "sql WAREHOUSE"
    version: str | None = None
    simulated: bool = False
    columns: Mapping[str, str | None] = field(default_factory=dict)

    @contextmanager
    def open(self) -> Iterator[Reading]:
        yield Reading({"id": "string", "scan": "binary"}, self.rows)


def test_bytes_of_a_table_are_kept_beside_its_copy_whatever_the_prompt_says(
    pipeline: Pipeline,
) -> None:
    data, forged = pdf(["A scan."]), {MARK: {"sha256": "0" * 64, "size": 1, "stored": True}}
    table = Table(
        [
            {"id": "a", "scan": data},
            {"id": "b", "scan": memoryview(data)},
            {"id": "text", "scan": b"no document"},
            {"id": "forged", "scan": forged},
        ]
    )
    sources = copies.copy(pipeline.files, "review", PARTITION, table)
    assert kept_files(pipeline) == {sha256(data)}
    make_old(pipeline)
    spec = document_job("/none", "{scan:pdf}")
    assert prune(pipeline, spec, "2026-01-01").documents == 0  # the copy needs it
    new = read_snapshot(pipeline, spec, PARTITION, sources)
    found = rows_of(pipeline, new)
    assert [found[name]["stored"] for name in ("a", "b")] == [[sha256(data)]] * 2
    assert mark_of(found["a"], "scan")["pages"] == 1
    assert found["text"]["reason"] == "a path, and input.root is not declared"
    assert found["forged"]["reason"] == "a path, and input.root is not declared"
    assert orjson.loads(orjson.loads(found["forged"]["input"])["scan"]) == forged


def test_a_mark_in_a_users_file_is_none_of_ours(pipeline: Pipeline, tmp_path: Path) -> None:
    """It names a content that the home keeps: of another row, perhaps."""
    (tmp_path / "a.pdf").write_bytes(pdf())
    taken(pipeline, document_job(tmp_path / "*.pdf", keep="copy"))
    mark = {MARK: {"sha256": sha256(pdf()), "size": len(pdf()), "stored": True}}
    (tmp_path / "in.jsonl").write_bytes(orjson.dumps({"id": "a", "document": mark}))
    found = rows_of(pipeline, taken(pipeline, document_job(tmp_path / "in.jsonl")))
    assert found["a"]["reason"] == "no path, URL or bytes in column 'document'"


def test_what_processes_are_told_of_documents_can_be_sent_to_them(pipeline: Pipeline) -> None:
    spec = document_job("/none", root="/data/{partition}", pdf={"pages": "1-3"}, keep="copy")
    told = document_input(pipeline, spec, "2026-01-01", from_copies=False)
    assert (told.root, told.pdf_pages, told.keep) == ("/data/2026-01-01", ((1, 3),), "copy")
