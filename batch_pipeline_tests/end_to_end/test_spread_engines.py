"""A night that Celery workers share, one of which is switched off while it reads the input.

The machines have folders of their own, and in common a PostgreSQL, an S3 server, a Redis and the
simulator. `make crash-test` switches them off at any other time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from batch_pipeline.definitions import defs
from batch_pipeline.orchestration import lost_runs
from batch_pipeline.orchestration.names import PARTITION_TAG
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.end_to_end.celery_machines import (
    EXECUTOR,
    running_cluster,
    running_redis,
)
from batch_pipeline_tests.end_to_end.spread_night import (
    DAY,
    PieceHolders,
    declare,
    environment,
    put_documents,
    to_the_end,
    wait,
)
from batch_pipeline_tests.orchestration.nightly import Nightly
from batch_pipeline_tests.stores import new_bucket, running_proxy, running_s3, use
from batch_pipeline_tests.support import accepted_twice, by_id, results

COUNT = 2_000
PATIENCE_SECONDS = 240.0
LEASE_SECONDS = 4.0


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    try:
        redis = running_redis(folder)
        with redis as url:
            yield url
    except FileNotFoundError:
        pytest.skip("Redis is not installed: apt-get install redis-server")


def test_a_night_of_two_workers_survives_the_end_of_one(
    postgres_url: str,
    sim: Simulator,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        running_s3() as store,
        running_proxy(store) as proxy,
        _redis(tmp_path) as redis,
    ):
        use(monkeypatch, proxy, tmp_path)
        # Ticks are this process's, which has imported the flow.
        monkeypatch.setattr(lost_runs, "IMPORT_SECONDS", 0.0)
        monkeypatch.setattr(lost_runs, "lost_rest", lambda _: 0.0)
        bucket = new_bucket(proxy.url)
        environ = environment(tmp_path, bucket, postgres_url, LEASE_SECONDS)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("BATCH_PIPELINE_EXECUTOR", EXECUTOR)
        put_documents(f"s3://{bucket}/notes", COUNT)
        spec = declare(tmp_path / "jobs")
        with running_cluster(tmp_path, redis, environ, workers=2) as cluster:
            holders = PieceHolders(postgres_url, cluster.workers)
            for machine in cluster.workers:
                machine.start_worker()
            proxy.before_write = holders.kill_at_second_piece
            with dg.DagsterInstance.from_config(str(cluster.runs.folder)) as instance:
                job = Nightly(spec.name, defs(), instance)
                cluster.launch(dg.RunRequest(job_name="notes_submit", tags={PARTITION_TAG: DAY}))
                wait(
                    cluster, "a second piece", lambda: holders.killed is not None, PATIENCE_SECONDS
                )
                assert holders.killed is not None
                left = list(holders.killed.temporary.glob("batch_pipeline-*/*"))
                assert left, "it was killed with files of a piece"
                holders.killed.start_worker()
                repeated = to_the_end(cluster, job, PATIENCE_SECONDS)
            assert repeated, "the run that lost its worker was asked for again"
            for machine in cluster.workers:
                assert not [path for path in left if path.exists()], machine.log()
                # What the sensors and runs of others wrote is not here, and nothing of the night.
                assert not list(machine.folder.glob("**/*.parquet"))

    pipeline = make_pipeline(home=environ["BATCH_PIPELINE_HOME"], ledger_url=postgres_url)
    rows = by_id(results(pipeline, spec, DAY))
    assert rows.keys() == {f"{DAY}/{number}" for number in range(COUNT)}
    assert not accepted_twice(sim)
