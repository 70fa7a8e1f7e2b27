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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 15.0
REPOSITORIES = (
    "{ repositoriesOrError { ... on RepositoryConnection { nodes { location { name } } } } }"
)


@dataclass(frozen=True)
class Dagster:
    """A running Dagster; `logs` holds what its processes write."""

    url: str
    logs: Path

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

    def wait_until(self, what: str, ready: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s\n{self.log()}"
            time.sleep(0.3)

    def log(self) -> str:
        return "\n".join(file.read_text(errors="replace") for file in self.logs.iterdir())


@contextmanager
def running_dagster(home: Path, environment: Mapping[str, str]) -> Iterator[Dagster]:
    """Webserver and daemon on the workspace and the instance file of this checkout.

    `home` becomes DAGSTER_HOME. Both processes, and those that they start, are ended by id.
    """
    home.mkdir(parents=True)
    logs = home / "process_logs"
    logs.mkdir()
    (home / "dagster.yaml").write_bytes((ROOT / "dagster.yaml").read_bytes())
    workspace = ["-w", str(ROOT / "workspace.yaml")]
    port = str(_free_port())
    commands = {
        "webserver": ["dagster_webserver", "-h", "127.0.0.1", "-p", port, *workspace],
        "daemon": ["dagster._daemon", "run", *workspace],
    }
    dagster = Dagster(f"http://127.0.0.1:{port}", logs)
    with contextlib.ExitStack() as stack:
        for name, (module, *arguments) in commands.items():
            log = stack.enter_context((logs / f"{name}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env={**os.environ, **environment, "DAGSTER_HOME": str(home)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(_end, process)
            # One after the other: two at once would both make the tables of a new instance.
            ready = functools.partial(_answers, dagster, process)
            dagster.wait_until(f"the {name}", ready, START_SECONDS)
        yield dagster


def _answers(dagster: Dagster, process: subprocess.Popen[bytes]) -> bool:
    """Whether the webserver has loaded the definitions, while `process` lives."""
    assert process.poll() is None, dagster.log()
    try:
        nodes = dagster.ask(REPOSITORIES)["repositoriesOrError"]["nodes"]
    except (urllib.error.URLError, ConnectionError):
        return False
    return [node["location"]["name"] for node in nodes] == ["batch_pipeline"]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process as a person would, and its session if it does not."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
