"""Machines of Celery workers, each with folders of its own: shared are broker, ledger, bucket, API.

Their commands and variables are those of docs/deploy.md. A run is started as Dagster's launchers do
it, in a process on a machine of its own; its steps are tasks of the workers.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import yaml
from dagster._core.definitions.reconstruct import ReconstructableRepository

from batch_pipeline_tests.docs_blocks import commands, variables

ROOT = Path(__file__).parents[2]
PAGE = "deploy.md"
# As `celery`, with small pieces.
EXECUTOR = "batch_pipeline_tests.end_to_end.small_pieces:celery"


@contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """The URL of a Redis on 127.0.0.1; raises FileNotFoundError where it is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        raise FileNotFoundError("redis-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"bind": "127.0.0.1", "port": str(port), "save": "", "dir": str(folder)}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    process = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL)
    try:
        while True:
            assert process.poll() is None, "Redis has ended"
            with contextlib.suppress(ConnectionRefusedError), socket.socket() as client:
                client.connect(("127.0.0.1", port))
                break
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@dataclass
class Machine:
    """A machine with its folders, and the processes that were started on it."""

    folder: Path
    environ: Mapping[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    started: int = 0
    _workers: int = 0

    @property
    def temporary(self) -> Path:
        return self.folder / "temporary"

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own, its output in a file of the machine's."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environ = {**os.environ, **self.environ, "PYTHONPATH": str(ROOT), "PATH": path}
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environ,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        self.started += 1
        return process

    def start_worker(self) -> subprocess.Popen[bytes]:
        self._workers += 1
        [command] = commands(PAGE, "worker")
        return self.start(["bash", "-c", f"exec {command}"])

    def is_ready(self) -> bool:
        """Whether the worker that was started last takes tasks."""
        return self.log().count(" ready.") == self._workers

    def kill(self) -> None:
        """What a machine that is switched off does: each of its processes is gone at once."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()

    def log(self) -> str:
        file = self.folder / "log"
        return file.read_text(errors="replace") if file.exists() else ""


@dataclass(frozen=True)
class Cluster:
    """A machine for runs, and some for workers."""

    runs: Machine
    workers: list[Machine]

    def launch(self, request: dg.RunRequest) -> None:
        """Start the process of a run, which makes the run too."""
        assets = [key.to_user_string() for key in request.asset_selection or ()]
        told = json.dumps({"job": request.job_name, "tags": dict(request.tags), "assets": assets})
        self.runs.start([sys.executable, "-m", __name__, told])

    def has_begun_all(self, instance: dg.DagsterInstance) -> bool:
        """Whether each run that was launched is known to Dagster as started, or has ended since.

        One that is not is in its launcher's care, which is left out here.
        """
        waits = [dg.DagsterRunStatus.NOT_STARTED]
        known = instance.get_runs_count(dg.RunsFilter(statuses=[*dg.DagsterRunStatus]))
        waiting = instance.get_runs_count(dg.RunsFilter(statuses=waits))
        return known == self.runs.started and not waiting

    def log(self) -> str:
        machines = [self.runs, *self.workers]
        return "\n".join(f"--- {each.folder.name}\n{each.log()[-6_000:]}" for each in machines)


@contextmanager
def running_cluster(
    folder: Path, redis: str, environ: Mapping[str, str], workers: int
) -> Iterator[Cluster]:
    """`environ` is what all machines have in common. Workers are started by the caller."""
    common = {**environ, "BATCH_PIPELINE_EXECUTOR": EXECUTOR}
    for name, url in variables(PAGE, "celery-settings").items():
        if url.startswith("redis://"):
            common[name] = f"{redis}/{url.rpartition('/')[2]}"
    names = ["runs", *(f"worker-{number}" for number in range(1, workers + 1))]
    machines = [_machine(folder / name, common) for name in names]
    cluster = Cluster(machines[0], machines[1:])
    try:
        yield cluster
    finally:
        for machine in machines:
            machine.kill()


def _machine(folder: Path, common: Mapping[str, str]) -> Machine:
    instance = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text(encoding="utf-8"))
    # Below the machine's own folder for temporary files.
    for name in ("local_artifact_storage", "compute_logs"):
        instance[name]["config"]["base_dir"] = {"env": "TMPDIR"}
    own = {"DAGSTER_HOME": str(folder), "TMPDIR": str(folder / "temporary")}
    (folder / "temporary").mkdir(parents=True)
    (folder / "dagster.yaml").write_text(yaml.safe_dump(instance), encoding="utf-8")
    return Machine(folder, {**common, **own})


def main(told: str) -> None:
    """A run's own process: what Dagster's launchers start for a run."""
    request = json.loads(told)
    repository = ReconstructableRepository.for_module("batch_pipeline.definitions", "defs")
    job = repository.get_reconstructable_job(request["job"])
    if request["assets"]:
        keys = frozenset(map(dg.AssetKey.from_user_string, request["assets"]))
        job = job.get_subset(asset_selection=keys)
    with dg.DagsterInstance.get() as instance:
        dg.execute_job(job, instance, tags=request["tags"])


if __name__ == "__main__":
    main(sys.argv[1])
