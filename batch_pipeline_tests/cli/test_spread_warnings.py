"""What `validate` says of a night that several workers are to prepare."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline.cli import spread_warnings
from batch_pipeline.flow.dataset.reading.files import Kind, SourceFile, Sources
from batch_pipeline_tests.support import job, settings

BUCKET = "s3://homes/prod"
POSTGRES = "postgresql://ledger/prod"


def a_file(name: str, size: int = 10, store: str | None = None) -> Sources:
    kind = Kind(f".{name.rpartition('.')[2]}")
    return Sources((SourceFile(name, name, kind, size, "v", name, store),))


@pytest.mark.parametrize(
    ("executor", "home", "ledger", "sources", "told"),
    [
        ("in_process", BUCKET, POSTGRES, a_file("/in/a.parquet"), ["in turn, in one process"]),
        ("multiprocess", "/home", None, a_file("/in/a.parquet"), []),
        ("celery", BUCKET, POSTGRES, a_file("s3://in/a.parquet", 1 << 40, "s3://in"), []),
        ("celery", "/home", None, a_file("/in/a.csv"), ["SQLite", "home is a local folder"]),
        ("k8s", BUCKET, POSTGRES, a_file("/in/a.csv"), ["/in/a.csv is a local file"]),
        ("k8s", BUCKET, POSTGRES, a_file("s3://in/a.jsonl", 1 << 30, "s3://in"), ["one piece"]),
        ("multiprocess", "/home", None, a_file("/in/a.jsonl", 1 << 30), []),
        ("multiprocess", "/home", None, a_file("/in/a.csv", 1 << 30), ["1,074 MB) is one piece"]),
    ],
)
def test_what_keeps_workers_from_sharing_a_night_is_said(
    tmp_path: Path,
    executor: str,
    home: str,
    ledger: str | None,
    sources: Sources,
    told: list[str],
) -> None:
    at = home if "://" in home else str(tmp_path)
    chosen = {} if ledger is None else {"ledger_url": ledger}
    declared = settings(at, executor=executor, **chosen)
    found = list(spread_warnings.of(declared, job("/in/*", spread=4), sources))
    assert len(found) == len(told)
    for warning, part in zip(found, told, strict=True):
        assert part in warning
    assert not list(spread_warnings.of(declared, job("/in/*"), sources))
