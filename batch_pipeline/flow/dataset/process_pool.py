"""A pool of processes that prepare pieces of the input on all cores.

Belongs here: starting the processes, handing out tasks, and their end. What a task does is in
`prepare`; a task must be repeatable, because its process may be killed in the middle of it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from itertools import starmap
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.flow.concurrency import results_in_order
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

Task = tuple[Any, ...]
Result = TypeVar("Result")

# Tasks that are handed out, for each process: the one that it does, and one that waits for it.
TASKS_EACH = 2


class WorkerDiedError(BatchPipelineError):
    """A process of the pool ended in the middle of a task."""


def map_in_processes(
    function: Callable[..., Result], tasks: Iterable[Task], count: int, *, apart: bool = False
) -> Generator[Result, None, None]:
    """`function` of each task's arguments, in the order of the tasks, done by `count` processes.

    Function, tasks and results are pickled. A result is to be small (kilobytes): where a process is
    killed while it sends a larger one, the executor waits for the rest of it for ever. With a
    `count` of 1, and where no process can be started, this process does the tasks itself. Close the
    iterator (`contextlib.closing`) to end the processes. Raises what the first task to fail raised;
    tasks after it may have been done. Raises WorkerDiedError where a process was killed.
    """
    if count == 1 and not apart:
        yield from starmap(function, tasks)
        return
    with _pool(count) as pool:
        if pool is not None:
            yield from _results(pool, function, tasks, TASKS_EACH * count)
            return
    log.info("one process reads the input: %s", _why_alone())
    yield from starmap(function, tasks)


def _results(
    pool: ProcessPoolExecutor,
    function: Callable[..., Result],
    tasks: Iterable[Task],
    handed_out: int,
) -> Iterator[Result]:
    try:
        yield from results_in_order(lambda task: _submit(pool, function, task), tasks, handed_out)
    except BrokenProcessPool as error:
        raise WorkerDiedError(
            "A process that read the input was killed, perhaps because the machine is out of "
            "memory: BATCH_PIPELINE_WORKERS=1 needs least. Nothing is lost: run again."
        ) from error


@contextmanager
def _pool(count: int) -> Iterator[ProcessPoolExecutor | None]:
    """A pool whose processes end with the block, or with this process where that is killed.

    None where no process can be started. Processes are spawned, not forked: this process has
    threads, and a lock that one of them holds would stay locked in a forked process.
    """
    if not _can_spawn():
        yield None
        return
    context = multiprocessing.get_context("spawn")
    # Nothing is sent through the pipe. Its only writing end is in this process; when it is closed,
    # here or because this process was killed, the processes of the pool end.
    reader, writer = context.Pipe(duplex=False)
    with reader, writer:
        pool = ProcessPoolExecutor(count, context, _end_when_closed, (reader,))
        try:
            yield pool if _has_started(pool) else None
        except BaseException:
            # An interrupt must not wait for tasks under way: a large compressed file takes minutes.
            writer.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _can_spawn() -> bool:
    """Whether a spawned process can import this one's main module, as `multiprocessing` makes it
    do: a script on standard input has no file."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    importable = file is None or main.__spec__ is not None or Path(file).exists()
    return importable and not multiprocessing.current_process().daemon


def _why_alone() -> str:
    """Why there is no pool, for the log."""
    if multiprocessing.current_process().daemon:
        return "a task of Celery can start no others (more tasks at once: `-c` of its worker)"
    return (
        "others cannot be started from a script that does not guard its main part with "
        "`if __name__ == '__main__':`, nor from standard input"
    )


def _has_started(pool: ProcessPoolExecutor) -> bool:
    """Start the first process; False where it ended at once.

    A script without a guard runs again in the new process, and comes to where it would start
    processes itself. There `multiprocessing` raises RuntimeError, which ends that process.
    """
    try:
        _submit(pool, os.getpid, ()).result()
    except BrokenProcessPool:
        return False
    return True


def _submit(
    pool: ProcessPoolExecutor, function: Callable[..., Result], task: Task
) -> Future[Result]:
    """Hand out a task; it may start a process, which inherits that SIGINT is blocked.

    Ctrl-C goes to all processes of a terminal: this one ends the others in order.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(function, *task)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _end_when_closed(reader: Connection) -> None:
    """The initializer of a process: end it at once when the other end of the pipe is closed."""

    def watch() -> None:
        with suppress(EOFError, OSError):
            reader.recv_bytes()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()
