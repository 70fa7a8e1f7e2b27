"""Nights whose home is in a store that is slow, busy, or refuses credentials that have ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.ledger.database import ledger as database
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.stores import (
    FaultProxy,
    as_another_process,
    credentials,
    new_bucket,
    running_proxy,
    running_s3,
    use,
)
from batch_pipeline_tests.support import (
    PARTITION,
    accepted_twice,
    by_id,
    documents,
    job,
    results,
    together,
    until,
    write_rows,
)

DOCUMENTS = 60


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with running_s3() as url:
        yield url


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultProxy]:
    with running_proxy(s3) as proxy:
        use(monkeypatch, proxy, tmp_path)
        yield proxy


def _night(pipelines: list[Pipeline], tmp_path: Path) -> None:
    """A night of all pipelines together, each as good as a process; its rows are whole."""
    source = write_rows(tmp_path / "in.jsonl", documents(DOCUMENTS))
    spec = job(source, pilot={"size": 0}, limits={"max_requests_per_batch": 20})
    together(*[lambda each=each: run(each, spec, PARTITION) for each in pipelines])
    assert set(by_id(results(pipelines[0], spec))) == {d["id"] for d in documents(DOCUMENTS)}


def _busy(proxy: FaultProxy, _folder: Path) -> Callable[[], bool]:
    """Every third request of each kind is refused, at first with all methods at once."""
    proxy.fail(503, "SlowDown", 8)
    counted = {"requests": 0}

    def third(_headers: object) -> bool:
        counted["requests"] += 1
        return counted["requests"] % 3 == 0

    often = proxy.fail(503, "ServiceUnavailable", float("inf"))
    often.applies = third
    return lambda: often.seen > 10


def _ending(proxy: FaultProxy, folder: Path) -> Callable[[], bool]:
    """Credentials end twice, and the next ones are in their file by then."""
    writes = {"put": 0}
    keys = ["first", "second", "third"]
    ended = []

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


def test_writes_that_last_longer_than_a_transaction_may(
    s3: str,
    proxy: FaultProxy,
    postgres_url: str,
    sim: Simulator,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PostgreSQL ends transactions that are idle for a second; each write takes two."""
    limit = sa.func.set_config("idle_in_transaction_session_timeout", "1s", True)
    monkeypatch.setattr(database, "_IDLE_LIMIT", limit)
    watch = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    open_transactions = sa.text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    )
    waited_for: list[str] = []

    def none_is_open() -> bool:
        with watch.connect() as connection:
            return not connection.scalar(open_transactions)

    def write(path: str) -> None:
        # A transaction of another thread ends by itself; one that waits for this write does not.
        try:
            until(none_is_open, seconds=2)
        except AssertionError:
            waited_for.append(path)

    home = f"s3://{new_bucket(s3)}/home"
    pipeline = make_pipeline(home=home, ledger_url=postgres_url)
    proxy.slow(2.0)
    slow = proxy.before_write

    def slow_write(path: str) -> None:
        write(path)
        slow(path)

    proxy.before_write = slow_write
    _night([pipeline], tmp_path)
    assert not waited_for
    assert not accepted_twice(sim)
    assert proxy.requests["PUT"] > 5
