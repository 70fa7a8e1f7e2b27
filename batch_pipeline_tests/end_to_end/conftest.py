"""A plain API for each test, and pipelines that talk to it through the official SDK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline_tests.end_to_end.crashes.crash_processes import Forks, forking
from batch_pipeline_tests.end_to_end.plain_api import PlainApi, running_plain_api
from batch_pipeline_tests.support import settings


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """Processes forked from this one, which are killed at points of the flow."""
    with forking() as forks:
        yield forks


@pytest.fixture
def plain_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[PlainApi]:
    """The other implementation; the SDK of this process talks to it."""
    with running_plain_api() as api:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-any")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        yield api


@pytest.fixture
def plain_pipeline(plain_api: PlainApi, tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline that speaks with the plain API, on a home of the test's own."""
    pipeline = Pipeline(settings(tmp_path / "home", reconcile_seconds=0.6))
    yield pipeline
    pipeline.ledger.close()
