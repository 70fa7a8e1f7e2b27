"""A job with a simulator behind it and an instance of Dagster of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.definitions.build import build_batch_job
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.orchestration.nightly import Nightly
from batch_pipeline_tests.support import nightly_job, write_rows

MakeSpec = Callable[..., JobSpec]


@pytest.fixture
def environment(sim: Simulator, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home; the environment points at it, and at the simulator."""
    monkeypatch.setenv("BATCH_PIPELINE_HOME", str(home))
    monkeypatch.setenv("BATCH_PIPELINE_POLL_SECONDS", "1")
    return home


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Dagster's SQL storage in memory: on disk it makes a database for each run, which takes two
    fifths of the time of these tests. Its own processes, in `end_to_end`, have it on disk.
    """
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as made:
        yield made


@pytest.fixture
def nights() -> list[str]:
    """The keys of the last three ended days, oldest first."""
    today = datetime.now(UTC).date()
    return [(today - timedelta(days=days)).isoformat() for days in (3, 2, 1)]


@pytest.fixture
def make_spec(tmp_path: Path, nights: list[str]) -> MakeSpec:
    """A job with 40 documents a night, in two batches after its pilot; keys may be replaced.

    No text has a date: the simulator's answers follow from texts, and are the same on every day.
    """
    for place, night in enumerate(nights):
        folder = tmp_path / "input" / night
        folder.mkdir(parents=True)
        rows = [
            {"id": f"{night} {number}", "text": f"Document {number} of night {place}."}
            for number in range(40)
        ]
        write_rows(folder / "documents.jsonl", rows)

    def make(**declared: Any) -> JobSpec:
        return JobSpec(**{**nightly_job(tmp_path / "input", nights[0]), **declared})

    return make


@pytest.fixture
def nightly(
    environment: Path, instance: dg.DagsterInstance, make_spec: MakeSpec
) -> Callable[..., Nightly]:
    """A job under Dagster; keyword arguments replace keys of its declaration."""

    def make(**declared: Any) -> Nightly:
        spec = make_spec(**declared)
        return Nightly(spec.name, build_batch_job(spec), instance)

    return make
