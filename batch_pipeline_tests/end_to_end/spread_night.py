"""A night in a bucket whose work is spread over machines, and what is done to those machines."""

from __future__ import annotations

import functools
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
import yaml
from fsspec.core import url_to_fs

from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.jobs.yaml_files.loading import load_jobs
from batch_pipeline.orchestration.names import COST_REPORT, REPEATS_TAG
from batch_pipeline_tests.end_to_end.celery_machines import Cluster, Machine
from batch_pipeline_tests.orchestration.nightly import Nightly

JOB, DAY = "notes", "2026-01-02"
FILES = 8
# The proxy sees the names of files: `piece-000003-f1-00000.parquet`.
_PART = re.compile(r"/piece-(\d{6})-f\d+-\d+\.parquet")


def environment(
    folder: Path, bucket: str, postgres_url: str, lease_seconds: float
) -> dict[str, str]:
    """What all machines have in common, the broker apart."""
    return {
        "DAGSTER_POSTGRES_URL": postgres_url,
        "BATCH_PIPELINE_LEDGER_URL": postgres_url,
        "BATCH_PIPELINE_HOME": f"s3://{bucket}/home",
        "BATCH_PIPELINE_JOBS_DIR": str(folder / "jobs"),
        "BATCH_PIPELINE_POLL_SECONDS": "1",
        "BATCH_PIPELINE_LEASE_SECONDS": f"{lease_seconds:g}",
        "BATCH_PIPELINE_RECONCILE_SECONDS": "12",
        "BATCH_PIPELINE_WORKERS": "1",
        "NOTES": f"s3://{bucket}/notes",
    }


def declare(folder: Path) -> JobSpec:
    """The job, read by two workers and sent in eight batches or more."""
    attributes = {
        "name": JOB,
        "input": {"path": "${NOTES}/{partition}/*.jsonl", "id_column": "id"},
        "prompt": {"user": "What is this note about?\n\n{text}"},
        "model_id": "claude-haiku-4-5-20251001",
        "max_tokens": 200,
        "partitions": {"start": "2026-01-01"},
        "pilot": {"size": 4, "max_truncated_rate": 1.0},
        "limits": {"max_requests_per_batch": 250},
        "spread": 2,
    }
    (folder / JOB).mkdir(parents=True)
    declared = {"type": "batch_pipeline.BatchJobComponent", "attributes": attributes}
    (folder / JOB / "defs.yaml").write_text(yaml.safe_dump(declared), encoding="utf-8")
    return load_jobs(folder)[JOB]


def put_documents(url: str, count: int) -> list[dict[str, str]]:
    """Write the documents of the night into the bucket, in several files; returns them."""
    rows = [
        {"id": f"{DAY}/{number}", "text": f"Note {number}: a fee was paid {number % 7} times."}
        for number in range(count)
    ]
    store, path = url_to_fs(f"{url}/{DAY}")
    for number in range(FILES):
        lines = [json.dumps(row).encode() + b"\n" for row in rows[number::FILES]]
        with store.open(f"{path}/{number}.jsonl", "wb") as file:
            file.write(b"".join(lines))
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
                self.killed = machine_of(pid, self.machines)
                self.killed.kill()

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


def wait(cluster: Cluster, what: str, ready: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s\n{cluster.log()}"
        time.sleep(0.1)


def to_the_end(cluster: Cluster, job: Nightly, seconds: float) -> list[Mapping[str, str]]:
    """Tick, and start what the sensor asks for, until the night has its report; returns the tags of
    the runs that were asked for in place of lost ones."""
    keys: set[str | None] = set()
    repeated = []

    def reported() -> bool:
        for request in job.tick().run_requests or ():
            if request.run_key not in keys:
                keys.add(request.run_key)
                cluster.launch(request)
                if REPEATS_TAG in request.tags:
                    repeated.append(request.tags)
        return job.materialized(COST_REPORT, DAY)

    wait(cluster, "the report", reported, seconds)
    return repeated
