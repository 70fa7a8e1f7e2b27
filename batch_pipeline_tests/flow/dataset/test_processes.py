"""Worker processes: order, errors, and that none outlives the process that started it."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.concurrency import StoppedError
from batch_pipeline.flow.dataset.processes import WorkerDiedError, Workers


def square(number: int) -> tuple[int, int]:
    logging.getLogger("batch_pipeline.test").info("squared %s", number)
    return number * number, os.getpid()


def fail_at(number: int, bad: tuple[int, ...]) -> int:
    if number in bad:
        raise InputDataError(f"mistake {number}")
    return number


def die_in(process: int, _number: int) -> None:
    if os.getpid() != process:
        os.kill(os.getpid(), signal.SIGKILL)


def announce(folder: Path, parent: int, _number: int) -> None:
    """Writes down which processes there are, then waits for ever."""
    (folder / f"{os.getpid()}-{os.getpid() == parent}").touch()
    signal.pause()


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_the_order_of_the_tasks(count: int) -> None:
    with Workers(count) as workers:
        found = list(workers.map(square, ((number,) for number in range(50))))
        assert list(workers.map(square, [])) == []
    assert [result for result, _ in found] == [number * number for number in range(50)]


def test_what_a_worker_logs_is_logged_here(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "batch_pipeline"), Workers(2) as workers:
        list(workers.map(square, ((number,) for number in range(20))))
    assert {f"squared {number}" for number in range(20)} <= set(caplog.messages)


@pytest.mark.parametrize("count", [1, 2])
def test_the_first_task_that_fails_is_the_one_that_is_told(count: int) -> None:
    with Workers(count) as workers:
        results = workers.map(fail_at, ((number, (5, 6, 7)) for number in range(1_000)))
        assert [next(results) for _ in range(5)] == list(range(5))
        with pytest.raises(InputDataError, match="mistake 5"):
            next(results)


def test_a_process_that_is_not_free_leaves_the_work_to_the_others() -> None:
    with Workers(2) as workers:
        tasks = ((number,) for number in range(20))
        found = list(workers.map(square, tasks, free=lambda: False))
    assert [result for result, _ in found] == [number * number for number in range(20)]
    assert os.getpid() not in {process for _, process in found}


@pytest.mark.parametrize("count", [1, 2])
def test_what_calls_a_process_off_ends_the_work(count: int) -> None:
    answers = itertools.chain([False] * 3, itertools.repeat(None))

    def free() -> bool:
        if next(answers) is None:
            raise StoppedError
        return False

    with Workers(count) as workers, pytest.raises(StoppedError):
        list(workers.map(square, ((number,) for number in itertools.count()), free))


def test_a_worker_that_is_killed_is_noticed() -> None:
    with Workers(2) as workers, pytest.raises(WorkerDiedError, match="run again"):
        list(workers.map(die_in, ((os.getpid(), number) for number in range(100_000))))


def test_workers_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from batch_pipeline.flow.dataset.processes import Workers\n"
        "from batch_pipeline_tests.flow.dataset.test_processes import announce\n"
        "with Workers(2) as workers:\n"
        "    tasks = [(pathlib.Path(sys.argv[1]), os.getpid(), n) for n in range(4)]\n"
        "    list(workers.map(announce, tasks))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    while len(list(tmp_path.iterdir())) < 2:
        assert parent.poll() is None
    [worker] = [path.name for path in tmp_path.iterdir() if path.name.endswith("False")]
    process = psutil.Process(int(worker.split("-")[0]))
    parent.kill()
    parent.wait()
    psutil.wait_procs([process], timeout=60)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
