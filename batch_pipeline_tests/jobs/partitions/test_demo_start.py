"""The demo's partitions begin a week before it is first run, and stay there."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from batch_pipeline.jobs.partitions.declared_partitions import PartitionsSpec
from batch_pipeline.jobs.partitions.demo_start import first_day
from batch_pipeline.jobs.yaml_files.loading import load_job
from batch_pipeline.settings import PACKAGED_JOBS


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ([], date(2026, 11, 23)),
        (["2026-11-27", "2026-11-28", "2026-11-29"], date(2026, 11, 23)),
        (["2026-11-07", "2026-11-08", "2026-11-09", "2026-11-29", "notes"], date(2026, 11, 3)),
    ],
)
def test_the_first_partition(tmp_path: Path, folders: list[str], expected: date) -> None:
    for name in folders:
        (tmp_path / name).mkdir()
    assert first_day(tmp_path, date(2026, 11, 30)) == expected


def test_the_packaged_job_has_eight_days_at_most_when_it_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_PIPELINE_HOME", str(tmp_path))
    spec = load_job(PACKAGED_JOBS / "license_review" / "defs.yaml")
    assert isinstance(spec.partitions, PartitionsSpec)
    assert spec.partitions.start >= datetime.now(UTC).date() - timedelta(days=8)
