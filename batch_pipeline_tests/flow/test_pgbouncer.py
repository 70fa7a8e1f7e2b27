"""A ledger behind PgBouncer in transaction mode, where a session belongs to one transaction."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from batch_pipeline.flow.run import run
from batch_pipeline.ledger.database.ledger import POSTGRES_IDLE_LIMIT, Ledger
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.databases import running_pgbouncer
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


@pytest.fixture
def bouncer(postgres_url: str) -> Iterator[str]:
    """The URL of a PgBouncer before the test's database; skips the test where there is none."""
    with tempfile.TemporaryDirectory(prefix="pgbouncer") as folder:
        try:
            with running_pgbouncer(sa.make_url(postgres_url), Path(folder)) as url:
                yield url.render_as_string(hide_password=False)
        except FileNotFoundError:
            pytest.skip("PgBouncer is not installed")


def test_the_limit_of_idle_transactions_is_the_transactions_own(bouncer: str) -> None:
    limit = sa.text("SHOW idle_in_transaction_session_timeout")
    with Ledger(bouncer) as ledger:
        for transaction in (ledger.write, ledger.read):
            with transaction() as connection:
                assert connection.scalar(limit) == POSTGRES_IDLE_LIMIT
    # Another program that PgBouncer gives the same session to.
    with sa.create_engine(bouncer).connect() as connection:
        assert connection.scalar(limit) == "0"


def test_a_night_of_two_processes(
    bouncer: str, sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(60))
    spec = job(source, limits={"max_requests_per_batch": 5})
    pipelines = [make_pipeline(ledger_url=bouncer) for _ in range(2)]
    together(*[lambda each=each: run(each, spec, PARTITION) for each in pipelines])
    assert set(by_id(results(pipelines[0], spec))) == {d["id"] for d in documents(60)}
    assert not accepted_twice(sim)
