"""Processes that read the input: order, errors, and that none outlives the one that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.process_pool import (
    TASKS_EACH,
    WorkerDiedError,
    map_in_processes,
)
from batch_pipeline_tests.flow.dataset.pool_tasks import die, fail_at, square, square_into

# A user's script that reads with two processes.
SCRIPT = """
import logging, os, sys
from batch_pipeline.flow.dataset.process_pool import map_in_processes
from batch_pipeline_tests.flow.dataset.pool_tasks import square

def main():
    logging.basicConfig(level=logging.INFO)
    print("begun", flush=True)
    found = list(map_in_processes(square, ((number,) for number in range(20)), 2))
    assert [result for result, _ in found] == [number * number for number in range(20)]
    print("one process" if {process for _, process in found} == {os.getpid()} else "several")

"""
GUARDED, UNGUARDED = SCRIPT + "if __name__ == '__main__': main()\n", SCRIPT + "main()\n"


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_the_order_of_the_tasks(count: int) -> None:
    found = list(map_in_processes(square, ((number,) for number in range(50)), count))
    assert [result for result, _ in found] == [number * number for number in range(50)]
    assert (os.getpid() in {process for _, process in found}) is (count == 1)
    assert list(map_in_processes(square, [], count)) == []


@pytest.mark.parametrize("count", [1, 2])
def test_the_first_task_that_fails_is_the_one_that_is_told(count: int) -> None:
    tasks = ((number, (5, 6, 7)) for number in range(1_000))
    with closing(map_in_processes(fail_at, tasks, count)) as results:
        assert [next(results) for _ in range(5)] == list(range(5))
        with pytest.raises(InputDataError, match="mistake 5"):
            next(results)


def test_no_more_tasks_are_taken_than_are_at_work() -> None:
    taken: list[int] = []
    tasks = ((taken.append(number) or number,) for number in range(1_000))  # type: ignore[func-returns-value]
    with closing(map_in_processes(square, tasks, 2)) as results:
        next(results)
        assert len(taken) <= 2 * TASKS_EACH + 1


def test_a_process_that_is_killed_is_noticed() -> None:
    with pytest.raises(WorkerDiedError, match="run again"):
        list(map_in_processes(die, ((number,) for number in range(100)), 2))


@pytest.mark.parametrize(
    ("script", "on_stdin", "by"),
    [
        (GUARDED, False, "several"),
        (UNGUARDED, False, "one process"),
        (GUARDED, True, "one process"),
    ],
    ids=["guarded", "unguarded", "on standard input"],
)
def test_a_script_without_a_guard_reads_by_itself(
    tmp_path: Path, script: str, on_stdin: bool, by: str
) -> None:
    path = tmp_path / "script.py"
    path.write_text(script)
    ended = subprocess.run(
        [sys.executable, *([] if on_stdin else [str(path)])],
        input=script if on_stdin else None,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == by
    # Once here, and once more in the one process that found out.
    assert ended.stdout.count("begun") == (2 if script == UNGUARDED else 1)
    assert ("one process reads the input" in ended.stderr) is (by == "one process")


def test_a_process_that_may_have_no_children_reads_by_itself(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=square_into, args=(tmp_path / "found",), daemon=True
    )
    process.start()
    process.join()
    assert (tmp_path / "found").read_text() == f"{[(9, process.pid)]}"
    assert "a task of Celery can start no others" in (tmp_path / "found.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda n: n.name)
def test_processes_end_with_the_one_that_started_them(
    tmp_path: Path, number: signal.Signals
) -> None:
    code = (
        "import pathlib, sys\n"
        "from batch_pipeline.flow.dataset.process_pool import map_in_processes\n"
        "from batch_pipeline_tests.flow.dataset.pool_tasks import wait_for_ever\n"
        "tasks = [(pathlib.Path(sys.argv[1]), n) for n in range(4)]\n"
        "list(map_in_processes(wait_for_ever, tasks, 2))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as parent:
        while len(list(tmp_path.iterdir())) < 2:
            assert parent.poll() is None
            time.sleep(0.02)  # an event of other processes
        others = [psutil.Process(int(path.name)) for path in tmp_path.iterdir()]
        began = time.monotonic()
        if number == signal.SIGINT:
            os.killpg(parent.pid, number)  # as a terminal does
        else:
            parent.send_signal(number)
        _, errors = parent.communicate(timeout=60)
        assert time.monotonic() - began < 10
    _, alive = psutil.wait_procs(others, timeout=60)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    if number == signal.SIGINT:
        # The one traceback is this process's.
        assert errors.count("KeyboardInterrupt") == 1


def test_one_process_may_be_one_of_its_own() -> None:
    [(squared, process)] = map_in_processes(square, [(3,)], 1, apart=True)
    assert squared == 9
    assert process != os.getpid()
