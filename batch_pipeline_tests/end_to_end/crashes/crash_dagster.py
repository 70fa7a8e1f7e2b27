"""Nights under Dagster, whose processes are killed and frozen under a hostile API.

Nobody launches anything a second time: after the last blow the daemon runs again, and the nights
have to come to their end by themselves.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

from batch_pipeline.flow import paths
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.yaml_files.loading import load_jobs
from batch_pipeline.simulator import Faults, running_simulator
from batch_pipeline_tests.end_to_end.crashes.crash_books import Figures, check_nights
from batch_pipeline_tests.end_to_end.crashes.crash_nights import HOSTILE
from batch_pipeline_tests.end_to_end.dagster_processes import (
    ROOT,
    Dagster,
    Process,
    declare,
    processes,
    running_dagster,
    send,
)
from batch_pipeline_tests.support import settings

NIGHTS = 2
QUEUE = 60
LEASE_SECONDS = 4.0
RECONCILE_SECONDS = 12.0
# Beyond a lease, and well within the time in which a lost answer is looked for.
FREEZE_SECONDS = (5.0, 8.0)
LONGEST_PAUSE_SECONDS = 3.0
LONGEST_WAIT_SECONDS = 60.0
PATIENCE_SECONDS = 420.0
COMMAND_LINE = "from batch_pipeline.cli import main; main()"
# What takes minutes in production, so that a test does not.
SOONER = {
    "start_timeout_seconds: 300": "start_timeout_seconds: 45\n  poll_interval_seconds: 5",
}


def hunted_under_dagster(
    folder: Path,
    seed: int,
    *,
    blows: int,
    count: int = NIGHTS,
    faults: Faults = HOSTILE,
    caching: str | None = None,
) -> Figures:
    """Nights that a backfill asks for, while so many blows fall on what works on them."""
    folder.mkdir(parents=True)
    today = datetime.now(UTC).date()
    nights = [(today - timedelta(days=days)).isoformat() for days in range(count, 0, -1)]
    documents = declare(folder, nights, caching)
    with running_simulator(turnaround=0.4, seed=seed, faults=faults) as sim:
        environment = {
            "ANTHROPIC_API_KEY": "any",
            "ANTHROPIC_BASE_URL": sim.url,
            "BATCH_PIPELINE_HOME": str(folder / "home"),
            "BATCH_PIPELINE_JOBS_DIR": str(folder / "jobs"),
            "BATCH_PIPELINE_POLL_SECONDS": "1",
            "BATCH_PIPELINE_LEASE_SECONDS": str(LEASE_SECONDS),
            "BATCH_PIPELINE_RECONCILE_SECONDS": str(RECONCILE_SECONDS),
            "BATCH_PIPELINE_MAX_QUEUED_REQUESTS": str(QUEUE),
        }
        with running_dagster(folder / "dagster_home", environment, SOONER) as dagster:
            reports = [folder / "home" / paths.report("review", night, ".json") for night in nights]

            def reported() -> bool:
                # The command line beside it reports a night that is not complete, too.
                return all(map(is_of_a_complete_night, reports))

            hunt = Hunt(dagster, random.Random(seed), nights, reported)
            dagster.backfill(nights)
            dagster.start("daemon")
            for _ in range(blows):
                if not reported():
                    hunt.strike()
            hunt.leave_alone()
            dagster.wait_until("the reports", reported, PATIENCE_SECONDS)
        spec = load_jobs(folder / "jobs")["review"]
        pipeline = Pipeline(settings(folder / "home"))
        hunt.figures.add(
            check_nights(sim, pipeline, spec, documents, QUEUE, thrifty=caching is not None)
        )
    return hunt.figures


def is_of_a_complete_night(report: Path) -> bool:
    return report.exists() and bool(orjson.loads(report.read_bytes())["complete"])


class Hunt:
    """Strikes a Dagster's processes, and brings back those that nobody else would."""

    def __init__(
        self,
        dagster: Dagster,
        dice: random.Random,
        nights: list[str],
        over: Callable[[], bool],
    ) -> None:
        self._dagster = dagster
        self._dice = dice
        self._nights = nights
        self._over = over
        self._beside: list[subprocess.Popen[bytes]] = []
        self.figures = Figures()

    def strike(self) -> None:
        time.sleep(self._dice.uniform(0.1, LONGEST_PAUSE_SECONDS))
        strikes: list[Callable[[], None]] = [
            self._kill_worker,
            self._kill_worker,
            self._freeze_worker,
            self._freeze_daemon,
            self._kill_daemon,
            self.kill_everything,
            self._submit_beside,
        ]
        self._dice.choice(strikes)()

    def leave_alone(self) -> None:
        """The end of the blows; the command line is killed too, so that Dagster has to finish."""
        for process in self._beside:
            if process.poll() is None:
                process.kill()
                self.figures.kills += 1
            process.wait()

    def _kill_worker(self) -> None:
        self._kill(self._one_of("worker"))

    def _freeze_worker(self) -> None:
        self._freeze(self._one_of("worker"))

    def _freeze_daemon(self) -> None:
        self._freeze(self._one_of("daemon"))

    def _kill_daemon(self) -> None:
        """The daemon alone: its workers, and the server that watches over them, live on."""
        self._kill(self._one_of("daemon"))
        self._daemon_again()

    def kill_everything(self) -> None:
        """What a machine that is switched off does: nobody is left that knows of the runs."""
        self._one_of("worker")
        session = [p for p in processes(self._dagster.home) if p.role != "webserver"]
        daemons = {p.session for p in session if p.role == "daemon"}
        for process in session:
            if process.session in daemons:
                self._kill(process)
        self._daemon_again()

    def _submit_beside(self) -> None:
        command = ["run", "review", "--partition", self._dice.choice(self._nights), "--no-wait"]
        with (self._dagster.logs / "beside.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", COMMAND_LINE, *command],
                cwd=ROOT,
                env={**os.environ, **self._dagster.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._beside.append(process)

    def _daemon_again(self) -> None:
        self._dagster.start("daemon")
        self.figures.restarts += 1

    def _one_of(self, role: str) -> Process | None:
        """One of a role's processes that lives now; it may have to be waited for.

        None: the nights are over, or the next one does not come for long.
        """
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        # What it is struck at is not always its start.
        pause = self._dice.uniform(0.0, LONGEST_PAUSE_SECONDS)
        seen: dict[int, float] = {}
        while (at := time.monotonic()) < deadline and not self._over():
            found = [p for p in processes(self._dagster.home) if p.role == role]
            for process in found:
                seen.setdefault(process.pid, at)
            old_enough = [p for p in found if at - seen[p.pid] >= pause]
            if old_enough:
                return self._dice.choice(old_enough)
            time.sleep(0.1)
        return None

    def _kill(self, process: Process | None) -> None:
        if process is not None:
            self.figures.kills += send(process.pid, signal.SIGKILL)

    def _freeze(self, process: Process | None) -> None:
        if process is None or not send(process.pid, signal.SIGSTOP):
            return
        time.sleep(self._dice.uniform(*FREEZE_SECONDS))
        self.figures.freezes += send(process.pid, signal.SIGCONT)
