"""Threads of this process, for work that mostly waits for others: one loop several times, or one
beside what else is done.

What keeps a core busy goes to `workers` instead.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar, cast

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class StoppedError(Exception):
    """Another thread has failed, or a person has interrupted: this one is to give up."""


class Stop:
    """Tells the loops to end; none of them is ended by force."""

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
        # A second Ctrl-C must not wait for an answer that does not come.
        super().__init__(daemon=True)
        self._work, self._stop_all = work, stop
        self.result: Result | None = None
        self.error: BaseException | None = None
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001  # raised by `at_once`
            self.error = error
            self._stop_all()
        finally:
            self._ended.set()

    def wait(self) -> None:
        """Wait for its end. A `join` that an interrupt breaks off takes the thread for ended, and
        the next one does not wait."""
        self._ended.wait()


def at_once(count: int, work: Callable[[], Result], stop: Stop) -> list[Result]:
    """Run `work`, which heeds `stop`, in so many threads, and wait for all of them.

    Where one of them fails the others are told to stop, and its error is raised. An interrupt stops
    them too, and is raised once they have ended in order.
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


def each_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[Result]:
    """`map`, with so many of the items at work while the next one is taken; in their order."""
    with ThreadPoolExecutor(count) as pool:
        pending: deque[Future[Result]] = deque()
        for item in items:
            if len(pending) == count:
                yield pending.popleft().result()
            pending.append(pool.submit(work, item))
        for future in pending:
            yield future.result()


@contextmanager
def beside(work: Callable[[], Result], stop: Stop) -> Iterator[Callable[[], Result]]:
    """Run `work`, which heeds `stop`, in a thread while the block lasts.

    The block is given a function that waits for its result, or raises its error; whether it calls
    it or not, at its end the thread is told to stop and waited for.
    """
    loop = _Loop(work, stop)

    def result() -> Result:
        loop.wait()
        if loop.error is not None:
            raise loop.error
        return cast("Result", loop.result)

    loop.start()
    try:
        yield result
    finally:
        stop()
        loop.wait()
