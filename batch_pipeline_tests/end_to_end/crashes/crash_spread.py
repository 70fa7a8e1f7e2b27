"""Nights in a bucket that two Celery workers share, whose machines are switched off and frozen.

The API, the store and the broker live on; the API is hostile. What has died is started again, as a
service manager would, and nobody launches the night a second time.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_pipeline.simulator import running_simulator
from batch_pipeline_tests.end_to_end.celery_machines import Machine
from batch_pipeline_tests.end_to_end.crashes.crash_books import Figures, check_nights
from batch_pipeline_tests.end_to_end.crashes.crash_nights import HOSTILE
from batch_pipeline_tests.end_to_end.spread_night import (
    DAY,
    LEASE_SECONDS,
    QUEUE,
    TICK_SECONDS,
    SpreadNight,
    night_of_two_workers,
)

COUNT = 2_000
# Beyond a lease, and well within the time in which a lost answer is looked for.
FREEZE_SECONDS = (LEASE_SECONDS + 1, LEASE_SECONDS + 4)
LONGEST_PAUSE_SECONDS = 6.0
PATIENCE_SECONDS = 600.0


def hunted_over_a_bucket(
    folder: Path, ledger_url: str, redis: str, *, seed: int, blows: int
) -> Figures:
    """A night, while so many blows fall on the machines that work on it."""
    folder.mkdir(parents=True)
    with (
        running_simulator(turnaround=0.4, seed=seed, faults=HOSTILE) as sim,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("ANTHROPIC_API_KEY", "any")
        patch.setenv("ANTHROPIC_BASE_URL", sim.url)
        with night_of_two_workers(folder, ledger_url, redis, COUNT) as night:
            hunt = Hunt(night, random.Random(seed))
            for machine in night.cluster.workers:
                machine.start_worker()
            night.launch()
            for _ in range(blows):
                if hunt.goes_on():
                    hunt.strike()
            night.wait_for_report(PATIENCE_SECONDS)
            documents = {DAY: night.documents}
            hunt.figures.add(check_nights(sim, night.pipeline(), night.spec, documents, QUEUE))
    return hunt.figures


class Hunt:
    """Strikes the machines of a night, and starts what a service manager would start again."""

    def __init__(self, night: SpreadNight, dice: random.Random) -> None:
        self._night = night
        self._dice = dice
        self.figures = Figures()

    def goes_on(self) -> bool:
        """Ticks for a while, as long as a person would look away; whether the night goes on."""
        until = time.monotonic() + self._dice.uniform(0.5, LONGEST_PAUSE_SECONDS)
        while time.monotonic() < until:
            if self._night.tick():
                return False
            time.sleep(TICK_SECONDS)
        return True

    def strike(self) -> None:
        strikes: list[Callable[[], None]] = [
            self._kill_worker,
            self._kill_worker,
            self._freeze_worker,
            self._kill_task,
            self._kill_runs,
        ]
        self._dice.choice(strikes)()

    def _kill_worker(self) -> None:
        machine = self._one()
        self.figures.kills += len(machine.processes)
        machine.kill()
        machine.start_worker()
        self.figures.restarts += 1

    def _kill_task(self) -> None:
        """The process of a task alone, as for want of memory; its worker tells."""
        for pid in _tasks_of(self._one()):
            os.kill(pid, signal.SIGKILL)
            self.figures.kills += 1

    def _kill_runs(self) -> None:
        """The machine of the runs: what waits for tasks is gone, the tasks go on."""
        machine = self._night.cluster.runs
        if not self._night.cluster.has_begun_all(self._night.job.instance):
            return
        self.figures.kills += sum(process.poll() is None for process in machine.processes)
        machine.kill()

    def _freeze_worker(self) -> None:
        groups = [process.pid for process in self._one().processes]
        for group in groups:
            os.killpg(group, signal.SIGSTOP)
        until = time.monotonic() + self._dice.uniform(*FREEZE_SECONDS)
        while time.monotonic() < until:
            self._night.tick()
            time.sleep(TICK_SECONDS)
        for group in groups:
            os.killpg(group, signal.SIGCONT)
        self.figures.freezes += len(groups)

    def _one(self) -> Machine:
        return self._dice.choice(self._night.cluster.workers)


def _tasks_of(machine: Machine) -> list[int]:
    """The processes of a worker that carry out its tasks."""
    found = []
    for process in machine.processes:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if children.exists():
            found += [int(pid) for pid in children.read_text().split()]
    return found
