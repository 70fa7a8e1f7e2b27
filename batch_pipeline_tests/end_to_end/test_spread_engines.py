"""A night that Celery workers share, one of which is switched off while it reads the input.

The machines have folders of their own, and in common a PostgreSQL, an S3 server, a Redis and the
simulator. `make crash-test` switches them off at any other time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.end_to_end.celery_machines import running_redis
from batch_pipeline_tests.end_to_end.crashes.crash_books import check_nights
from batch_pipeline_tests.end_to_end.spread_night import (
    DAY,
    QUEUE,
    PieceHolders,
    night_of_two_workers,
)

COUNT = 2_000
PATIENCE_SECONDS = 240.0


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """The URL of a Redis of the test's own; skips the test where there is none."""
    if shutil.which("redis-server") is None:
        pytest.skip("Redis is not installed: apt-get install redis-server")
    with running_redis(tmp_path) as url:
        yield url


def test_a_night_of_two_workers_survives_the_end_of_one(
    postgres_url: str, redis: str, sim: Simulator, tmp_path: Path
) -> None:
    with night_of_two_workers(tmp_path, postgres_url, redis, COUNT) as night:
        workers = night.cluster.workers
        holders = PieceHolders(postgres_url, workers)
        night.proxy.before_write = holders.kill_at_second_piece
        for machine in workers:
            machine.start_worker()
        night.launch()
        night.wait("a second piece", lambda: holders.killed is not None, PATIENCE_SECONDS)
        assert holders.killed is not None
        left = list(holders.killed.temporary.glob("batch_pipeline-*/*"))
        assert left, "it died with files of a piece"
        holders.killed.start_worker()
        # Else the other one might come to the end without it.
        night.wait("a worker in its place", holders.killed.is_ready, PATIENCE_SECONDS)
        night.wait_for_report(PATIENCE_SECONDS)
        assert night.repeated, "a run was asked for in place of the one that lost its worker"
        assert not [path for path in left if path.exists()], "the next one sweeps its files"
        for machine in workers:
            assert not list(machine.folder.glob("**/*.parquet")), "nothing of the night stays"
        figures = check_nights(sim, night.pipeline(), night.spec, {DAY: night.documents}, QUEUE)
        assert figures.bought_twice_in_batches == figures.calls_repeated == 0
