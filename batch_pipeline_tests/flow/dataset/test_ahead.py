"""Input that is read while the API is connected to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import InputDataError, UsageError
from batch_pipeline.flow.concurrency import Stop
from batch_pipeline.flow.dataset import input_dataset, prepare
from batch_pipeline.flow.dataset.ahead import reading_ahead
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import PARTITION, documents, job, results, write_rows

Reader = Callable[..., Any]


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The thread of each reading of input."""
    threads: list[str] = []
    read = input_dataset.read_snapshot

    def noted(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread().name)
        return read(*arguments, **options)

    monkeypatch.setattr(input_dataset, "read_snapshot", noted)
    return threads


@pytest.mark.parametrize("processes_from", [0, input_dataset.PROCESSES_BESIDE_FROM_BYTES])
def test_a_new_night_is_read_once_and_beside(
    sim: Simulator,
    pipeline: Pipeline,
    tmp_path: Path,
    readings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    processes_from: int,
) -> None:
    monkeypatch.setattr(input_dataset, "PROCESSES_BESIDE_FROM_BYTES", processes_from)
    spec = job(write_rows(tmp_path / "in.jsonl", documents(12)))
    with reading_ahead(pipeline, spec, PARTITION) as ahead:
        assert run(pipeline, spec, PARTITION, ahead=ahead).complete
    assert len(readings) == 1
    assert readings != [threading.main_thread().name]
    assert len(results(pipeline, spec)) == 12
    assert sim.books.accepted_requests == 12


def test_a_night_that_was_begun_is_not_read_ahead(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, readings: list[str]
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(3)))
    run(pipeline, spec, PARTITION)
    with reading_ahead(pipeline, spec, PARTITION) as ahead:
        assert run(pipeline, spec, PARTITION, ahead=ahead).complete
    assert len(readings) == 1


def test_files_that_changed_meanwhile_are_read_as_they_are_now(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(3)))
    with reading_ahead(pipeline, spec, PARTITION) as ahead:
        write_rows(tmp_path / "in.jsonl", documents(5))
        assert run(pipeline, spec, PARTITION, ahead=ahead).items == 5
    assert len(results(pipeline, spec)) == 5


def test_input_that_cannot_be_read_stops_the_night(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(2) * 2))
    with (
        reading_ahead(pipeline, spec, PARTITION) as ahead,
        pytest.raises(InputDataError, match="more than once"),
    ):
        run(pipeline, spec, PARTITION, ahead=ahead)
    assert sim.books.accepted_requests == 0


def test_an_api_that_is_refused_ends_the_reading(
    make_pipeline: MakePipeline, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, told = threading.Event(), threading.Event()

    class ToldToStop(Stop):
        def __call__(self) -> None:
            super().__call__()
            told.set()

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert told.wait(30)
        return prepare.prepare(*arguments)

    monkeypatch.setattr(input_dataset, "prepare", slow)
    monkeypatch.setattr("batch_pipeline.flow.dataset.ahead.Stop", ToldToStop)
    for number in range(3):
        write_rows(tmp_path / f"{number}.jsonl", documents(2, start=2 * number))
    monkeypatch.setattr(input_dataset, "pieces_of", lambda sources: ([f] for f in sources.files))
    spec = job(tmp_path / "*.jsonl")

    def refuse() -> None:
        with reading_ahead(make_pipeline(), spec, PARTITION):
            assert begun.wait(30)
            raise UsageError("refused")

    with pytest.raises(UsageError, match="refused"):
        refuse()
    assert not list((home / ".staging").iterdir())
    assert not (home / "review").exists()


def test_a_missing_key_is_told_before_anything_is_read(
    make_pipeline: MakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    readings: list[str],
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    spec = job(write_rows(tmp_path / "in.jsonl", documents(2)))
    with (
        pytest.raises(UsageError, match="set ANTHROPIC_API_KEY"),
        reading_ahead(make_pipeline(), spec, PARTITION),
    ):
        pass
    assert readings == []
