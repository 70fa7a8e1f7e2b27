"""Dagster's webserver and daemon as processes of their own, spoken to over GraphQL."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from batch_pipeline_tests.end_to_end.crashes import crash_thrift
from batch_pipeline_tests.support import documents, nightly_job, write_rows

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 15.0
# What tells a process's role, the first that fits.
ROLES = {
    "dagster_webserver": "webserver",
    "dagster._daemon": "daemon",
    " api grpc": "server",
    "multiprocessing.spawn": "worker",
}
REPOSITORIES = (
    "{ repositoriesOrError { ... on RepositoryConnection { nodes { location { name } } } } }"
)


BACKFILL = """
mutation ($nights: [String!]!) {
  launchPartitionBackfill(backfillParams: {
    selector: {
      partitionSetName: "review_submit_partition_set"
      repositorySelector: {
        repositoryName: "__repository__", repositoryLocationName: "batch_pipeline"
      }
    }
    partitionNames: $nights
  }) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""


DOCUMENTS = 40


def declare(
    folder: Path, nights: Sequence[str], caching: str | None = None, **changes: Any
) -> dict[str, list[dict[str, Any]]]:
    """A job in a folder of jobs, and its documents, which are returned by night.

    With `caching` it declares all that is in `crash_thrift`; `changes` are keys of the job.
    """
    found = {
        night: documents(DOCUMENTS, start=number * DOCUMENTS) for number, night in enumerate(nights)
    }
    if caching is not None:
        found = crash_thrift.documents_of(nights)
    for night in nights:
        (folder / "input" / night).mkdir(parents=True)
        write_rows(folder / "input" / night / "documents.jsonl", found[night])
    job = folder / "jobs" / "review"
    job.mkdir(parents=True)
    attributes = nightly_job(folder / "input", nights[0]) | changes
    if caching is not None:
        attributes |= {**crash_thrift.declared(caching), "partitions": attributes["partitions"]}
        attributes["pilot"] |= {"size": 3, "seed": crash_thrift.PILOT_SEED}
    declared = {"type": "batch_pipeline.BatchJobComponent", "attributes": attributes}
    (job / "defs.yaml").write_text(yaml.safe_dump(declared), encoding="utf-8")
    return found


@dataclass(frozen=True)
class Dagster:
    """A Dagster of its own; `home` is its DAGSTER_HOME, `logs` holds what its processes write."""

    home: Path
    port: int
    environment: Mapping[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def logs(self) -> Path:
        return self.home / "process_logs"

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start the webserver or the daemon, in a session of its own."""
        workspace = ["-w", str(ROOT / "workspace.yaml")]
        commands = {
            "webserver": ["dagster_webserver", "-h", "127.0.0.1", "-p", str(self.port), *workspace],
            "daemon": ["dagster._daemon", "run", *workspace],
        }
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *commands[name]],
                cwd=ROOT,
                env={**os.environ, **self.environment, "DAGSTER_HOME": str(self.home)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def ask(self, query: str, **variables: Any) -> Any:
        """The data of a GraphQL answer; an error in it fails the test."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(  # a loopback address
            f"{self.url}/graphql", body, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    def backfill(self, nights: Sequence[str]) -> str:
        """Launch the submission of some nights; returns the backfill's id."""
        launched = self.ask(BACKFILL, nights=list(nights))["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return str(launched["backfillId"])

    def wait_until(
        self, what: str, ready: Callable[[], bool], seconds: float, every: float = 0.3
    ) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s\n{self.log()}"
            time.sleep(every)

    def log(self) -> str:
        return "\n".join(file.read_text(errors="replace") for file in self.logs.iterdir())


@contextmanager
def running_dagster(
    home: Path, environment: Mapping[str, str], changes: Mapping[str, str] | None = None
) -> Iterator[Dagster]:
    """A webserver on the workspace and the instance file of this checkout; the daemon is started
    by the caller, best after the backfill: it looks for those once every half minute.

    `home` becomes DAGSTER_HOME; `changes` are texts of the instance file and what stands in their
    place. All processes, and those that they start, are ended by id.
    """
    home.mkdir(parents=True)
    instance = (ROOT / "dagster.yaml").read_text(encoding="utf-8")
    for text, other in (changes or {}).items():
        assert text in instance
        instance = instance.replace(text, other)
    (home / "dagster.yaml").write_text(instance, encoding="utf-8")
    dagster = Dagster(home, _free_port(), environment)
    dagster.logs.mkdir()
    try:
        process = dagster.start("webserver")
        # Two at once would both make the tables of a new instance.
        dagster.wait_until(
            "the webserver", functools.partial(_answers, dagster, process), START_SECONDS
        )
        yield dagster
    finally:
        _end_all(dagster)


@dataclass(frozen=True)
class Process:
    """One of a Dagster's processes: webserver, daemon, server (of code), worker (of a run)."""

    pid: int
    role: str
    session: int


def processes(home: Path) -> list[Process]:
    """All living processes with this DAGSTER_HOME, told apart by their command lines."""
    found = []
    mark = f"DAGSTER_HOME={home}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            session = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[3])
            role = next((role for text, role in ROLES.items() if text in command), "other")
            found.append(Process(int(folder.name), role, session))
    return found


def _answers(dagster: Dagster, process: subprocess.Popen[bytes]) -> bool:
    """Whether the webserver has loaded the definitions, while `process` lives."""
    assert process.poll() is None, dagster.log()
    try:
        nodes = dagster.ask(REPOSITORIES)["repositoriesOrError"]["nodes"]
    except (urllib.error.URLError, ConnectionError):
        return False
    return [node["location"]["name"] for node in nodes] == ["batch_pipeline"]


def _end_all(dagster: Dagster) -> None:
    """End all processes, as a person would first."""
    for process in dagster.started:
        process.send_signal(signal.SIGINT)
    for process in dagster.started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    for left in processes(dagster.home):
        send(left.pid, signal.SIGKILL)
    for process in dagster.started:
        process.wait()


def send(pid: int, number: signal.Signals) -> bool:
    """Whether there was such a process."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
