"""Workers that are up before it is known whether a night is to be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline.flow import dataset, head_start
from batch_pipeline.flow.ahead import reading_ahead
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.flow.workers import Workers
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests import support
from batch_pipeline_tests.support import PARTITION, documents, job, write_rows


@pytest.mark.parametrize(
    ("wanted", "size", "workers", "up"),
    [
        ("in.jsonl", 0, 2, True),
        ("in.jsonl", 0, 1, False),
        ("in.jsonl", 10_000_000, 2, False),
        ("gone.jsonl", 0, 2, False),
    ],
    ids=["large", "one process", "small", "not there"],
)
def test_workers_start_where_the_input_is_large(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    size: int,
    workers: int,
    up: bool,
) -> None:
    monkeypatch.setattr(head_start, "PROCESSES_FROM_BYTES", size)
    write_rows(tmp_path / "in.jsonl", documents(3))
    settings = support.settings(tmp_path / "home", workers=workers)
    with head_start.head_start(settings, job(tmp_path / wanted), PARTITION) as started:
        assert started.are_up is up
    assert not started.are_up


def test_they_read_a_new_night_and_go_where_it_is_none(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Workers | None] = []
    read = dataset.read_snapshot

    def noted(*arguments: object, workers: Workers | None = None, **options: object) -> object:
        used.append(workers)
        return read(*arguments, workers=workers, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(dataset, "read_snapshot", noted)
    spec = job(write_rows(tmp_path / "in.jsonl", documents(12)))
    for new in (True, False):
        with Workers(2) as workers:
            workers.start()
            with reading_ahead(pipeline, spec, PARTITION, workers) as ahead:
                assert new or not workers.are_up
                assert run(pipeline, spec, PARTITION, ahead=ahead).items == 12
                assert not workers.are_up
        assert used == [used[0]]
    assert isinstance(used[0], Workers)
