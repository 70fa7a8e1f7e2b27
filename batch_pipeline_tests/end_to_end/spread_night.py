"""A night in a bucket whose work is spread over machines, and what is done to those machines."""

from __future__ import annotations

import functools
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from fsspec.core import url_to_fs

from batch_pipeline.definitions import defs
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.jobs.yaml_files.loading import load_jobs
from batch_pipeline.orchestration.names import (
    COST_REPORT,
    PARTITION_TAG,
    REPEATS_TAG,
    Kind,
    dagster_job,
)
from batch_pipeline.orchestration.sensor import lost_runs
from batch_pipeline_tests.end_to_end.celery_machines import (
    Cluster,
    Machine,
    running_cluster,
)
from batch_pipeline_tests.orchestration.nightly import Nightly
from batch_pipeline_tests.stores import FaultProxy, new_bucket, running_proxy, running_s3, use
from batch_pipeline_tests.support import documents, nightly_job, settings, write_rows

DAY = "2026-01-02"
# A tick takes a tenth of a second of CPU.
TICK_SECONDS = 2.0
FILES = 8
LEASE_SECONDS = 4.0
QUEUE = 3_000
# The proxy sees the names of files: `piece-000003-f1-00000.parquet`.
_PART = re.compile(r"/piece-(\d{6})-f\d+-\d+\.parquet")


@dataclass
class SpreadNight:
    """The machines of a night, its job under Dagster as the sensor's daemon sees it, its documents.

    `repeated` are the tags of the runs that were asked for in place of lost ones.
    """

    cluster: Cluster
    proxy: FaultProxy
    job: Nightly
    spec: JobSpec
    documents: list[dict[str, Any]]
    home: str
    ledger_url: str
    repeated: list[Mapping[str, str]] = field(default_factory=list)
    _launched: set[str | None] = field(default_factory=set)

    def pipeline(self) -> Pipeline:
        """One that reads the night once it is over."""
        return Pipeline(settings(self.home, ledger_url=self.ledger_url))

    def launch(self) -> None:
        """What a person does: start the run up to submission."""
        name = dagster_job(self.spec.name, Kind.SUBMIT)
        self.cluster.launch(dg.RunRequest(job_name=name, tags={PARTITION_TAG: DAY}))

    def tick(self) -> bool:
        """A tick of the sensor, and what it asks for; whether the night has its report."""
        for request in self.job.tick().run_requests or ():
            if request.run_key not in self._launched:
                self._launched.add(request.run_key)
                self.cluster.launch(request)
                if REPEATS_TAG in request.tags:
                    self.repeated.append(request.tags)
        return self.job.materialized(COST_REPORT, DAY)

    def wait_for_report(self, seconds: float) -> None:
        """Tick until the night is over."""
        self.wait("the report", self.tick, seconds, TICK_SECONDS)

    def wait(
        self, what: str, ready: Callable[[], bool], seconds: float, pause: float = 0.1
    ) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s\n{self.log()}"
            time.sleep(pause)

    def log(self) -> str:
        return self.cluster.log()


@contextmanager
def night_of_two_workers(
    folder: Path, ledger_url: str, redis: str, count: int
) -> Iterator[SpreadNight]:
    """A night of so many documents, before it begins; its workers are started by the caller.

    The environment has the API. PostgreSQL, which Dagster shares with the ledger, is empty.
    """
    with (
        running_s3() as store,
        running_proxy(store) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        use(patch, proxy, folder)
        # Ticks are this process's, which has imported the flow.
        patch.setattr(lost_runs, "IMPORT_SECONDS", 0.0)
        patch.setattr(lost_runs, "lost_rest", lambda _: 0.0)
        # No task waits as long for one of two workers that have nothing else to do.
        patch.setattr(lost_runs, "LONGEST_WAIT_SECONDS", 30.0)
        bucket = new_bucket(proxy.url)
        common = {
            "DAGSTER_POSTGRES_URL": ledger_url,
            "BATCH_PIPELINE_LEDGER_URL": ledger_url,
            "BATCH_PIPELINE_HOME": f"s3://{bucket}/home",
            "BATCH_PIPELINE_JOBS_DIR": str(folder / "jobs"),
            "BATCH_PIPELINE_POLL_SECONDS": "1",
            "BATCH_PIPELINE_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
            "BATCH_PIPELINE_RECONCILE_SECONDS": "12",
            "BATCH_PIPELINE_MAX_QUEUED_REQUESTS": str(QUEUE),
            "BATCH_PIPELINE_WORKERS": "1",
        }
        written = _put_documents(f"s3://{bucket}/input", count)
        spec = _declare(folder / "jobs", f"s3://{bucket}/input")
        with running_cluster(folder, redis, common, workers=2) as cluster:
            for name, value in cluster.runs.environ.items():
                patch.setenv(name, value)
            with dg.DagsterInstance.from_config(str(cluster.runs.folder)) as instance:
                job = Nightly(spec.name, defs(), instance)
                home = common["BATCH_PIPELINE_HOME"]
                yield SpreadNight(cluster, proxy, job, spec, written, home, ledger_url)


def _declare(folder: Path, source: str) -> JobSpec:
    """The job, read by two workers and sent in eight batches or more."""
    attributes = nightly_job(Path("unused"), "2026-01-01")
    attributes["input"] = {"path": f"{source}/{{partition}}/*.jsonl"}
    attributes["limits"] = {"max_requests_per_batch": 250}
    attributes["spread"] = 2
    (folder / "review").mkdir(parents=True)
    declared = {"type": "batch_pipeline.BatchJobComponent", "attributes": attributes}
    (folder / "review" / "defs.yaml").write_text(yaml.safe_dump(declared), encoding="utf-8")
    return load_jobs(folder)["review"]


def _put_documents(url: str, count: int) -> list[dict[str, Any]]:
    """Write the documents of the night into the bucket, in several files; returns them."""
    rows = documents(count)
    store, path = url_to_fs(f"{url}/{DAY}")
    for number in range(FILES):
        with tempfile.TemporaryDirectory() as folder:
            file = write_rows(Path(folder) / "rows", rows[number::FILES])
            store.put_file(str(file), f"{path}/{number}.jsonl")
    return rows


@dataclass
class PieceHolders:
    """Knows from the ledger which machine works on a piece, and switches one off."""

    ledger_url: str
    machines: list[Machine]
    killed: Machine | None = None
    _pieces: dict[int, set[int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @functools.cached_property
    def _engine(self) -> sa.Engine:
        return sa.create_engine(self.ledger_url, poolclass=sa.NullPool)

    def kill_at_second_piece(self, path: str) -> None:
        """Before a part file is stored: end the machine that has come to its second piece."""
        found = _PART.search(path)
        with self._lock:
            if found is None or self.killed is not None:
                return
            number = int(found[1])
            pid = self._holder(number)
            pieces = self._pieces.setdefault(pid, set())
            pieces.add(number)
            if len(pieces) == 2:
                machine = machine_of(pid, self.machines)
                machine.kill()
                # Told last: who waits for it starts the machine again, and that must not be killed.
                self.killed = machine

    def _holder(self, piece: int) -> int:
        """The process that holds a piece."""
        query = sa.text("SELECT holder FROM piece WHERE number = :number")
        with self._engine.connect() as connection:
            [holder] = connection.scalars(query, {"number": piece})
        return int(str(holder).split(":")[1])


def machine_of(pid: int, machines: list[Machine]) -> Machine:
    """The machine of a task's process, which its worker has started."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    parent = int(stat.rsplit(")", 1)[1].split()[1])
    [found] = [m for m in machines if {pid, parent} & {process.pid for process in m.processes}]
    return found
