"""Input in a store that is busy, or that refuses to list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import InputDataError, StorageError
from batch_pipeline.flow.dataset.prepare import wanted_by
from batch_pipeline.flow.dataset.reading.listing import find_sources
from batch_pipeline.flow.dataset.reading.rows import read_section
from batch_pipeline.flow.dataset.reading.splits import Section
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.storage import remote
from batch_pipeline.storage.files import Files
from batch_pipeline_tests import stores
from batch_pipeline_tests.stores import FaultProxy
from batch_pipeline_tests.support import documents, job, write_rows


@pytest.fixture
def folder(proxy: FaultProxy, s3: str, tmp_path: Path) -> str:
    """A folder of a bucket with two files below it."""
    url = f"s3://{stores.new_bucket(s3)}/in"
    files = Files(url)
    for name in ("2026/a.jsonl", "2027/b.jsonl"):
        files.publish(write_rows(tmp_path / "rows", documents(20)), name)
    return url


def found(pattern: str) -> list[str]:
    return [file.relative_path for file in find_sources(pattern, "all", {}).files]


@pytest.mark.parametrize(
    "pattern", ["*/*.jsonl", "**/*.jsonl", "**", "2026/a.jsonl", "20[!0]*/?.*"]
)
@pytest.mark.parametrize("code", ["SlowDown", "ExpiredToken"])
def test_a_listing_that_fails_is_asked_for_again(
    proxy: FaultProxy, folder: str, pattern: str, code: str
) -> None:
    before = found(f"{folder}/{pattern}")
    assert before
    proxy.fail(503 if code == "SlowDown" else 400, code, 1, "GET", "HEAD")
    assert found(f"{folder}/{pattern}") == before
    assert proxy.faults[-1].seen == 1


@pytest.mark.parametrize("pattern", ["*/*.jsonl", "**/*.jsonl"])
def test_a_folder_that_may_not_be_listed_is_no_empty_one(
    proxy: FaultProxy, folder: str, pattern: str
) -> None:
    proxy.fail(403, "AccessDenied", float("inf"), "GET")
    with pytest.raises(InputDataError, match=r"cannot list .*the rights to read it"):
        found(f"{folder}/{pattern}")


def test_rows_are_read_through_a_busy_store(
    proxy: FaultProxy, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [file] = find_sources(f"{folder}/2026/*", "all", {}).files
    wanted = wanted_by(Declaration.of(job(folder)), ())

    def read() -> list[Any]:
        return [row.id for row in read_section(Section(file), wanted, None)]

    proxy.fail(503, "SlowDown", 2, "GET")
    assert len(read()) == 20
    # A store that fails for long is no fault of the file: the run is repeated later.
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 0.1)
    proxy.fail(503, "SlowDown", float("inf"), "GET")
    with pytest.raises(StorageError, match=r"The input s3://.* has failed for"):
        read()
