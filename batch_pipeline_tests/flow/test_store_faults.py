"""Nights whose home is in a store that is slow, busy, or refuses credentials that have ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from s3fs import S3FileSystem

from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.ledger.database import ledger as database
from batch_pipeline.simulator import Simulator
from batch_pipeline.storage import remote
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.stores import FaultProxy, new_bucket, running_proxy, running_s3
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
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(remote, "LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with running_proxy(s3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        S3FileSystem.clear_instance_cache()
        yield proxy


def _credentials(folder: Path, key: str) -> None:
    text = f"[default]\naws_access_key_id = {key}\naws_secret_access_key = any\n"
    (folder / "credentials").write_text(text)


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
    """Credentials end after ten writes, and new ones are in their file by then."""
    writes = {"put": 0}
    ended = []

    def count(_path: str) -> None:
        writes["put"] += 1
        if writes["put"] in (4, 9):
            key = f"key-{len(ended)}"
            _credentials(folder, f"key-{len(ended) + 1}")
            ended.append(proxy.expire(key))

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
    _credentials(tmp_path, "key-0")
    home = f"s3://{new_bucket(s3)}/home"
    pipeline = make_pipeline(home=home, ledger_url=f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    happened = trouble(proxy, tmp_path)
    _night([pipeline], tmp_path)
    assert happened()
    assert not accepted_twice(sim)


def test_two_processes_in_one_bucket_see_each_others_files(
    s3: str, proxy: FaultProxy, sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    _credentials(tmp_path, "any")
    home = f"s3://{new_bucket(s3)}/home"
    ledger = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    pipelines = []
    for _ in range(2):
        S3FileSystem.clear_instance_cache()
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
    _credentials(tmp_path, "any")
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
