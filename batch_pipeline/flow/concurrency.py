"""Threads, signals and other processes: loops side by side, results in order, a delayed Ctrl-C.

Threads are for work that waits for the network or the disk. What keeps a core busy goes to
`dataset/process_pool`.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

from batch_pipeline import logs
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class StoppedError(Exception):
    """Raised in a loop that is to end because another one failed or a person interrupted."""


class Stop:
    """Asks loops to end. Each loop checks it and ends itself; none is ended by force."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __call__(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise StoppedError once the loops are to end."""
        if self._event.is_set():
            raise StoppedError


class _Loop(threading.Thread, Generic[Result]):
    def __init__(self, work: Callable[[], Result], stop: Stop) -> None:
        # A second Ctrl-C must end the process although a thread still waits for an answer.
        super().__init__(daemon=True)
        self._work, self._stop_all = logs.inherited(work), stop
        self.result: Result | None = None
        self.error: BaseException | None = None
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001  # raised by `run_in_threads`
            self.error = error
            self._stop_all()
        finally:
            self._ended.set()

    def wait(self) -> None:
        """Wait for its end. Not `join`: after an interrupted `join` the thread counts as ended, and
        the next `join` returns at once."""
        self._ended.wait()


def run_in_threads(count: int, work: Callable[[], Result], stop: Stop) -> list[Result]:
    """Run `work`, which checks `stop`, in `count` threads; returns their results.

    If one of them fails, `stop` is set and its error is raised once all have ended. An interrupt
    sets `stop` too, and is raised once they have ended.
    """
    loops = [_Loop(work, stop) for _ in range(count)]
    for loop in loops:
        loop.start()
    try:
        for loop in loops:
            loop.wait()
    except BaseException:
        stop()
        log.warning("stopping once what is under way has ended; again, to stop at once")
        for loop in loops:
            loop.wait()
        raise
    for loop in loops:
        if loop.error is not None and not isinstance(loop.error, StoppedError):
            raise loop.error
    return [loop.result for loop in loops if loop.result is not None]


def map_in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[Result]:
    """`map` in `count` threads: results in the order of the items, at most `count` under way."""
    with ThreadPoolExecutor(count) as pool:

        def submit(item: Item) -> Future[Result]:
            return pool.submit(logs.inherited(functools.partial(work, item)))

        yield from results_in_order(submit, items, count)


def results_in_order(
    submit: Callable[[Item], Future[Result]], items: Iterable[Item], most: int
) -> Iterator[Result]:
    """The results of all items in their order, with at most `most` items submitted at a time."""
    pending: deque[Future[Result]] = deque()
    for item in items:
        if len(pending) == most:
            yield pending.popleft().result()
        pending.append(submit(item))
    while pending:
        yield pending.popleft().result()


@contextmanager
def delayed_signals(ask: Callable[[], None]) -> Iterator[None]:
    """Call `ask` at the first SIGINT, SIGTERM or SIGHUP in the block, deliver the signal after it.

    A second signal goes at once to the handler that was there before: the command line's for
    Ctrl-C, or Dagster's for the termination of a run. In another thread than the main one, which
    alone may handle signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    former: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        if not received:
            received.append(number)
            ask()
            return
        before = former[number]
        if callable(before):
            before(number, frame)
        else:
            signal.signal(number, before)
            signal.raise_signal(number)

    for number in map(int, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
        if signal.getsignal(number) is signal.SIG_IGN:
            continue
        former[number] = signal.getsignal(number)
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)
    if received:
        signal.raise_signal(received[0])


def this_holder() -> str:
    """A name for this process in claims, `machine:pid:random`, by which `is_gone` knows it."""
    return f"{_machine()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def is_gone(holder: str) -> bool:
    """Whether the process that holds a claim has ended; False for processes of other machines."""
    machine, _, rest = holder.partition(":")
    pid = rest.partition(":")[0]
    if machine != _machine() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _machine() -> str:
    """The host, and the pid namespace: containers of one host may share its name, and a pid of one
    of them says nothing in another."""
    try:
        namespace = f".{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        namespace = ""
    return socket.gethostname() + namespace
