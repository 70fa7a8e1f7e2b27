"""What all benchmarks share: the measuring of a command, servers for it, and the printed tables.

Time is the wall-clock time of a process from start to end, its imports included. Memory is the
resident memory of the process and all its descendants, sampled. The plain way and the pipeline are
both measured like this, in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

SAMPLE_SECONDS = 0.03
PYTHON = sys.executable
PLAIN = (PYTHON, "-m", "benchmarks.plain")
PIPELINE = str(Path(PYTHON).with_name("batch-pipeline"))
# The exit code of a night that has batches in flight.
NOT_COMPLETE = 4


@dataclass(frozen=True)
class Usage:
    """What a command took: seconds, CPU seconds, peak bytes and processes of its whole tree."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    processes: int
    output: str

    @property
    def peak_mb(self) -> float:
        return self.peak_bytes / 1e6


class CommandFailedError(Exception):
    """A measured command ended with an exit code that is an error."""


def measured(
    command: Sequence[str], environ: Mapping[str, str] | None = None, codes: Sequence[int] = (0,)
) -> Usage:
    """Run a command to its end and measure it.

    Errors: `CommandFailedError` for an exit code that is not in `codes`.
    """
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        memory = _Memory(process.pid)
        memory.start()
        try:
            _, status, resources = os.wait4(process.pid, 0)
        except BaseException:  # interrupted: its folder is removed next
            process.terminate()
            process.wait()
            raise
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        memory.stop()
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode not in codes:
        raise CommandFailedError(f"{' '.join(command)} ended with {process.returncode}:\n{text}")
    cpu = resources.ru_utime + resources.ru_stime
    return Usage(seconds, cpu, memory.peak, memory.processes, text)


def run_job(environ: Mapping[str, str], *options: str, job: str = "bench") -> Usage:
    """Run a job's night by the command line, and measure it; `--no-wait` only submits it."""
    codes = [NOT_COMPLETE if "--no-wait" in options else 0]
    return measured([PIPELINE, "run", job, *options], environ, codes)


class _Memory(threading.Thread):
    """Samples the resident memory of a process and all its descendants."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._done = threading.Event()
        self.peak = 0
        self.processes = 0

    def run(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            total = count = 0
            try:
                for process in [self._root, *self._root.children(recursive=True)]:
                    try:
                        total += process.memory_info().rss
                        count += 1
                    except psutil.Error:  # it ended meanwhile
                        continue
            except psutil.Error:
                continue
            self.peak = max(self.peak, total)
            self.processes = max(self.processes, count)

    def stop(self) -> None:
        self._done.set()
        self.join()


@contextmanager
def running(*command: str) -> Iterator[tuple[str, psutil.Process]]:
    """The URL and the process of a server that prints its URL at the end of its first line.

    The server is ended with the block. Errors: `CommandFailedError` if it does not start.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.strip():
            raise CommandFailedError(f"{' '.join(command)} did not start")
        yield line.split()[-1], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def server(*command: str) -> Iterator[str]:
    """The URL of a `running` server; prints its CPU time, which shows that it was no bottleneck."""
    with running(*command) as (url, process):
        yield url
        print(f"\n  the server took {cpu_seconds(process):.2f} s of CPU time", flush=True)


def cpu_seconds(process: psutil.Process) -> float:
    """The CPU seconds that a process has used so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def books(url: str) -> dict[str, Any]:
    """The books of a simulator, without the counts of each content."""
    with urllib.request.urlopen(f"{url}/simulator/books?contents=false") as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def sink(turnaround: float = 1.0, *options: str) -> AbstractContextManager[str]:
    """The fast server of `benchmarks.sink`."""
    command = (PYTHON, "-m", "benchmarks.sink", "--turnaround", str(turnaround), *options)
    return server(*command)


def environment(url: str, home: Path, jobs: Path, **settings: object) -> dict[str, str]:
    """The environment of a measured command: server, home, jobs and further `settings`."""
    return {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "benchmark",
        "BATCH_PIPELINE_HOME": str(home),
        "BATCH_PIPELINE_JOBS_DIR": str(jobs),
        "BATCH_PIPELINE_LEDGER_URL": "",
        "BATCH_PIPELINE_POLL_SECONDS": "1",
        **{f"BATCH_PIPELINE_{name.upper()}": str(value) for name, value in settings.items()},
    }


def listed(counts: Mapping[str, int]) -> str:
    """Counts in words, the largest first: `12 retrieve, 3 create`; zeros are left out."""
    largest_first = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} {name}" for name, count in largest_first if count)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def show(title: str, ways: Mapping[str, tuple[Usage, int]]) -> None:
    """Print a table of ways: of each its name, its usage, and the number of its documents."""
    print(f"\n{title}")
    print(f"  {'':24}{'seconds':>9}{'CPU s':>9}{'docs/s':>10}{'peak MB':>9}{'processes':>11}")
    for name, (usage, documents) in ways.items():
        print(
            f"  {name:24}{usage.seconds:9.2f}{usage.cpu_seconds:9.2f}"
            f"{documents / usage.seconds:10,.0f}{usage.peak_mb:9.0f}{usage.processes:11}"
        )


def verdict(name: str, value: float, target: str, *, met: bool) -> None:
    """Print a figure beside its target."""
    print(f"  {name}: {value:.2f} (target {target}) {'ok' if met else 'MISSED'}", flush=True)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help="small sizes: a smoke test, no measure")
    return made
