"""Nights in processes of their own that may be killed at a point, or from outside.

One interpreter loads everything once and forks: a process costs milliseconds then, not the seconds
of its imports. It is a program of its own (see `main`) because a test's process has threads.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

import batch_pipeline_tests.folder_as_bucket  # noqa: F401  # homes with `bucket://`
from batch_pipeline.flow import night_input, steps
from batch_pipeline.flow.costs.cost_report import write_report
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.recovery.recover import recover
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline_tests.end_to_end.crashes import (
    crash_documents,
    crash_points,
    crash_reading,
    crash_thrift,
)
from batch_pipeline_tests.support import PARTITION, job, settings

ROOT = Path(__file__).parents[3]
COMPLETE, NOT_COMPLETE, FAILED = 0, 2, 1


@dataclass(frozen=True)
class Work:
    """One process's work: a night from its input to its report, on the simulator at `url`."""

    url: str
    folder: str
    pilot: int
    pilot_via: str
    requests_per_batch: int
    queue: int
    lease_seconds: float
    reconcile_seconds: float
    ledger_url: str | None = None
    home_name: str = "home"
    # Whether the home is reached by its URL alone, as a bucket is.
    home_by_url: bool = False
    # `auto` has a deadline.
    mode: str = "batch"
    # Calls in real time under way at once.
    concurrency: int = 20
    # Whether what is at the API is waited for.
    wait: bool = True
    # With a value of `caching` two nights of a job that declares all of `crash_thrift`.
    caching: str | None = None
    # With a value of `crash_documents` its rows name documents.
    documents: str | None = None
    # So many workers share the reading of the input of `crash_reading`; 0: another input.
    spread: int = 0
    # Whether the input is taken and nothing else is done.
    input_only: bool = False
    # Whether the ledger was lost, and is recovered before anything else.
    recover: bool = False

    @property
    def home(self) -> Path:
        return Path(self.folder, self.home_name)

    @property
    def nights(self) -> tuple[str, ...]:
        return (PARTITION,) if self.caching is None else crash_thrift.NIGHTS

    def source(self, night: str) -> Path:
        return Path(self.folder, f"{night}.jsonl")

    @property
    def documents_folder(self) -> Path:
        return Path(self.folder, crash_documents.NOW)

    @property
    def originals(self) -> Path:
        """The documents as they were when the input was taken."""
        return Path(self.folder, crash_documents.THEN)

    @property
    def log(self) -> Path:
        return Path(self.folder, "log.txt")

    def trace(self, name: str) -> Path:
        return Path(self.folder, f"{name}.trace")

    def spec(self) -> JobSpec:
        source, more = self.source(PARTITION), {}
        if self.caching is not None:
            source, more = self.source("{partition}"), crash_thrift.declared(self.caching)
        if self.documents is not None:
            more = crash_documents.declared(source, self.documents_folder, self.documents)
        if self.spread:
            more = {"spread": self.spread, **crash_reading.DECLARED}
        return job(
            source,
            **more,
            mode=self.mode,
            deadline="8h" if self.mode == "auto" else None,
            realtime={"concurrency": self.concurrency, "checkpoint_every": 5},
            limits={"max_requests_per_batch": self.requests_per_batch},
            pilot={
                "size": self.pilot,
                "via": self.pilot_via,
                "seed": crash_thrift.PILOT_SEED,
                "max_error_rate": 1,
                "max_truncated_rate": 1,
            },
            output={"carry": ["text"]},
        )

    def pipeline(self) -> Pipeline:
        changes = {} if self.ledger_url is None else {"ledger_url": self.ledger_url}
        return Pipeline(
            settings(
                f"bucket://{self.home}" if self.home_by_url else self.home,
                max_queued_requests=self.queue,
                lease_seconds=self.lease_seconds,
                reconcile_seconds=self.reconcile_seconds,
                **changes,
            )
        )


class Forks:
    """Starts processes and learns how they ended; signals are sent to their ids."""

    def __init__(self, program: subprocess.Popen[bytes]) -> None:
        self._program = program

    def start(
        self, work: Work, trace: str | None = None, fatal: crash_points.Fatal | None = None
    ) -> int:
        """The id of a new process, which dies at its `fatal` point."""
        return int(self._ask({"start": asdict(work), "trace": trace, "fatal": fatal}))

    def wait(self, pid: int) -> int:
        """The exit code; negative: the signal that ended it."""
        return int(self._ask({"wait": pid}))

    def ended(self, pid: int) -> int | None:
        """As `wait`; None while it runs."""
        code: int | None = self._ask({"ended": pid})
        return code

    def _ask(self, command: dict[str, Any]) -> Any:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(orjson.dumps(command) + b"\n")
        self._program.stdin.flush()
        return orjson.loads(self._program.stdout.readline())


@contextmanager
def forking() -> Iterator[Forks]:
    program = subprocess.Popen(
        [sys.executable, "-m", __name__],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with program:
        try:
            yield Forks(program)
        finally:
            # With the nights that are under way, where something went wrong: without an API they
            # would wait for one for ever.
            os.killpg(program.pid, signal.SIGKILL)


def main() -> int:
    for line in sys.stdin.buffer:
        command = orjson.loads(line)
        answer: int | None
        if "start" in command:
            fatal = command["fatal"]
            fatal = tuple(fatal) if isinstance(fatal, list) else fatal
            answer = _fork(Work(**command["start"]), command["trace"], fatal)
        elif "wait" in command:
            answer = os.waitstatus_to_exitcode(os.waitpid(command["wait"], 0)[1])
        else:
            pid, status = os.waitpid(command["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        sys.stdout.flush()
    return 0


def _fork(work: Work, trace: str | None, fatal: crash_points.Fatal | None) -> int:
    child = os.fork()
    if child == 0:
        code = FAILED
        try:
            code = _carry_out(work, trace, fatal)
        except BaseException:
            logging.getLogger().exception("the process failed")
        finally:
            os._exit(code)
    return child


def _carry_out(work: Work, trace: str | None, fatal: crash_points.Fatal | None) -> int:
    os.environ |= {"ANTHROPIC_API_KEY": "any", "ANTHROPIC_BASE_URL": work.url}
    form = "%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"
    logging.basicConfig(filename=work.log, level=logging.INFO, format=form)
    if trace is not None:
        crash_points.install(crash_points.Points(work.trace(trace), fatal))
    if work.spread:
        crash_reading.cut_into_small_pieces()
    pipeline, spec = work.pipeline(), work.spec()
    complete = True
    if work.recover:
        assert recover(pipeline).complete
    for night in work.nights:
        if work.documents is not None or work.input_only:
            opened = steps.open_night(pipeline, spec, night)
            night_input.take_input(pipeline, spec, opened)
        if work.documents is not None:
            crash_documents.spoil(work.documents_folder)
        if work.input_only:
            return NOT_COMPLETE
        state = run(pipeline, spec, night, wait=work.wait)
        write_report(pipeline, spec, state.night)
        complete &= state.complete
    return COMPLETE if complete else NOT_COMPLETE


if __name__ == "__main__":
    sys.exit(main())
