"""Nights whose home is in a store that is busy, or refuses credentials that have ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from batch_pipeline.errors import StorageError
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status import failures
from batch_pipeline.ledger import nights
from batch_pipeline.simulator import Simulator
from batch_pipeline.storage import remote
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.stores import (
    Fault,
    FaultProxy,
    as_another_process,
    credentials,
    new_bucket,
)
from batch_pipeline_tests.support import (
    PARTITION,
    accepted_twice,
    by_id,
    documents,
    job,
    results,
    together,
    write_rows,
)

DOCUMENTS = 60


def _night(pipelines: list[Pipeline], tmp_path: Path) -> None:
    """A night of all pipelines together, each as good as a process; its rows are whole."""
    source = write_rows(tmp_path / "in.jsonl", documents(DOCUMENTS))
    spec = job(source, pilot={"size": 0}, limits={"max_requests_per_batch": 20})
    together(*[lambda each=each: run(each, spec, PARTITION) for each in pipelines])
    assert set(by_id(results(pipelines[0], spec))) == {d["id"] for d in documents(DOCUMENTS)}


def _busy(proxy: FaultProxy, _folder: Path) -> Callable[[], bool]:
    """The first requests are refused, and every seventh of all others."""
    proxy.fail(503, "SlowDown", 8)
    counted = {"requests": 0}

    def seventh(_headers: object) -> bool:
        counted["requests"] += 1
        return counted["requests"] % 7 == 0

    often = proxy.fail(503, "ServiceUnavailable", float("inf"))
    often.applies = seventh
    return lambda: often.seen > 5


def _ending(proxy: FaultProxy, folder: Path) -> Callable[[], bool]:
    """Credentials end twice, and the next ones are in their file by then."""
    writes = {"put": 0}
    keys = ["first", "second", "third"]
    ended: list[Fault] = []

    def count(_path: str) -> None:
        writes["put"] += 1
        if writes["put"] in (4, 9):
            credentials(folder, keys[len(ended) + 1])
            ended.append(proxy.expire(keys[len(ended)]))

    proxy.before_write = count
    return lambda: len(ended) == 2 and all(fault.seen for fault in ended)


@pytest.mark.parametrize("trouble", [_busy, _ending])
def test_a_night_goes_on_through_what_passes(
    trouble: Callable[[FaultProxy, Path], Callable[[], bool]],
    s3: str,
    proxy: FaultProxy,
    sim: Simulator,
    make_pipeline: MakePipeline,
    tmp_path: Path,
) -> None:
    home = f"s3://{new_bucket(s3)}/home"
    pipeline = make_pipeline(home=home, ledger_url=f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    happened = trouble(proxy, tmp_path)
    _night([pipeline], tmp_path)
    assert happened()
    assert not accepted_twice(sim)


def test_two_processes_in_one_bucket_see_each_others_files(
    s3: str, proxy: FaultProxy, sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    home = f"s3://{new_bucket(s3)}/home"
    ledger = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    pipelines = []
    for _ in range(2):
        as_another_process()
        pipelines.append(make_pipeline(home=home, ledger_url=ledger))
    _night(pipelines, tmp_path)
    assert not accepted_twice(sim)


def test_a_night_that_fails_with_its_store_does_not_wait_for_it_twice(
    s3: str,
    proxy: FaultProxy,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its run gives no signs of life any more: the sensor would take it for dead, and say so."""
    home = f"s3://{new_bucket(s3)}/home"
    pipeline = make_pipeline(home=home, ledger_url=f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    spec = job(tmp_path / "in.jsonl")
    monkeypatch.setattr(failures, "PAGE_SECONDS", 0)
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 2)
    down = proxy.fail(503, "SlowDown", float("inf"))
    error = StorageError("The home has failed for 300 s")
    with (
        pytest.raises(StorageError, match="300 s"),
        failures.recorded(pipeline, spec, PARTITION, step="input_dataset", by="run 1"),
    ):
        raise error
    assert down.seen == 1
    down.times = 0
    with pipeline.ledger.read() as connection:
        [night] = nights.list_nights(connection)
    assert night.failure is not None
    assert night.failure["code"] == "storage"
