"""Processes that share the work of this one, so that all cores of a machine are used.

Belongs here: starting them, handing out tasks, and their end. What a task does is its module's own;
it has to be repeatable, because a worker may be killed in its midst.

They are started as programs of their own and not through `multiprocessing`, which would import the
main module of whatever program this is again, and leaves workers behind when that is killed: these
end as soon as their standard input does.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import IO, Any, BinaryIO, Self

from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.libraries import lighten_libraries

log = logging.getLogger(__name__)

# A task that is interrupted records what is known; then its process ends in any case.
FAREWELL_SECONDS = 10.0
# How soon a process that had other things to do takes part.
LOOK_SECONDS = 0.02
_LENGTH = struct.Struct("!Q")
# How many tasks another process has at once: it goes on while this one is busy with other things.
_AT_ONCE = 2
_START = "from batch_pipeline.flow.dataset.processes import serve; serve()"


class WorkerDiedError(BatchPipelineError):
    """A worker process ended in the midst of a task."""


class Workers:
    """This process and `count - 1` others, which do tasks at the same time.

    The others start with the first tasks or before, and end with the block.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._others: list[_Other] = []
        self._ending: list[_Other] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.hang_up()
        for other in self._ending:
            other.wait()
        self._ending.clear()

    def start(self) -> None:
        while len(self._others) < self._count - 1:
            self._others.append(_Other())

    def hang_up(self) -> None:
        """Tell the others to end; the block's end waits for them."""
        for other in self._others:
            other.hang_up()
        self._ending += self._others
        self._others.clear()

    def map(
        self,
        function: Callable[..., Any],
        tasks: Iterable[tuple[Any, ...]],
        free: Callable[[], bool] = lambda: True,
    ) -> Iterator[Any]:
        """`function` of each task's arguments, in the order of the tasks.

        The function is one of a module, its arguments and results can be pickled. While `free` says
        that this process has other things to do, the others work without it; what `free` raises
        ends the work. Raises what the first task to fail raised; those after it may have been
        begun.
        """
        if self._count == 1:
            for task in tasks:
                free()
                yield function(*task)
            return
        self.start()
        shared = _Shared(function, tasks, free)
        threads = [
            threading.Thread(target=shared.work, args=(other,), daemon=True)
            for other in self._others
        ]
        for thread in threads:
            thread.start()
        try:
            yield from shared.results()
        finally:
            shared.stop()
        for thread in threads:
            thread.join()


class _Shared:
    """Tasks that several threads take, and their results in order."""

    def __init__(
        self,
        function: Callable[..., Any],
        tasks: Iterable[tuple[Any, ...]],
        free: Callable[[], bool],
    ) -> None:
        self._function = function
        self._free = free
        self._tasks = enumerate(tasks)
        self._taking = threading.Lock()
        self._changed = threading.Condition()
        self._done: dict[int, tuple[bool, Any]] = {}
        self._taken = 0
        self._exhausted = False

    def work(self, other: _Other) -> None:
        """Have another process do tasks until there are none."""
        under_way: deque[int] = deque()
        try:
            while True:
                while len(under_way) < _AT_ONCE and (taken := self._take()) is not None:
                    under_way.append(taken[0])
                    other.send(self._function, taken[1])
                if not under_way:
                    return
                answer = other.answer()
                self._finish(under_way.popleft(), True, answer)
        except Exception as error:  # noqa: BLE001  # raised by `results`
            self._fail(under_way[0], error)

    def results(self) -> Iterator[Any]:
        number = 0
        while self._wait_for(number):
            good, result = self._done.pop(number)
            if not good:
                raise result
            yield result
            number += 1

    def _wait_for(self, number: int) -> bool:
        """Do tasks until this one is done; False: there is none of this number."""
        while number not in self._done:
            free = self._free()
            if free and (taken := self._take()) is not None:
                try:
                    self._finish(taken[0], True, self._function(*taken[1]))
                except Exception as error:  # noqa: BLE001  # raised by `results`
                    self._fail(taken[0], error)
                continue
            with self._changed:
                if self._exhausted and number >= self._taken:
                    return False
                self._changed.wait_for(lambda: number in self._done, None if free else LOOK_SECONDS)
        return True

    def stop(self) -> None:
        with self._taking:
            self._exhausted = True

    def _take(self) -> tuple[int, tuple[Any, ...]] | None:
        """The next task and its number; None: there is none."""
        with self._taking:
            if self._exhausted:
                return None
            try:
                number, task = next(self._tasks)
            except StopIteration:
                self._exhausted = True
                return None
            except Exception as error:  # noqa: BLE001  # raised by `results`
                # The tasks themselves cannot be told: that comes after those that could.
                self._exhausted = True
                self._finish(self._taken, False, error, taken=self._taken + 1)
                return None
            self._taken = number + 1
            return number, task

    def _fail(self, number: int, error: Exception) -> None:
        self._finish(number, False, error)
        self.stop()

    def _finish(self, number: int, good: bool, result: Any, taken: int | None = None) -> None:
        with self._changed:
            self._taken = self._taken if taken is None else taken
            self._done[number] = (good, result)
            self._changed.notify_all()


class _Other:
    """Another process, as this one sees it."""

    def __init__(self) -> None:
        # A session of its own: Ctrl-C is for this process, which then ends the others in order.
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        # Where this program's modules come from is for it to say.
        with suppress(BrokenPipeError):  # which the first task tells
            _send(self._input, sys.path)

    def send(self, function: Callable[..., Any], task: tuple[Any, ...]) -> None:
        with self._alive():
            _send(self._input, (function, task))

    def answer(self) -> Any:
        """What became of the first task that has not been answered yet."""
        with self._alive():
            while True:
                kind, answer = pickle.loads(_receive(self._output))  # noqa: S301  # our own
                if kind == "log":
                    name, level, message = answer
                    logging.getLogger(name).log(level, "%s", message)
                elif kind == "done":
                    return answer
                else:
                    raise answer

    @contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, BrokenPipeError) as error:
            raise WorkerDiedError(
                f"A worker process ended in the midst of its work (exit code "
                f"{self._process.wait()}); out of memory, perhaps: BATCH_PIPELINE_WORKERS=1 needs "
                "least. Nothing is lost: run again."
            ) from error

    def hang_up(self) -> None:
        with suppress(OSError):
            self._input.close()

    def wait(self) -> None:
        self._process.wait()
        self._output.close()


def serve() -> None:
    """A worker's life: do what comes in, until nothing can come any more."""
    # A program that is started in the background inherits that SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    lighten_libraries()
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    try:
        sys.path[:] = pickle.loads(_receive(sys.stdin.buffer))  # noqa: S301  # from our own process
    except EOFError:
        os._exit(0)
    logger = logging.getLogger("batch_pipeline")
    logger.setLevel(logging.INFO)
    logger.addHandler(_Forward(answers))
    threading.Thread(target=_listen, args=(sys.stdin.buffer, tasks), daemon=True).start()
    with suppress(KeyboardInterrupt, BrokenPipeError):
        while True:
            message = tasks.get()
            try:
                function, task = pickle.loads(message)  # noqa: S301  # from our own process
                answer = ("done", function(*task))
            except Exception as error:  # noqa: BLE001  # the other side's to handle
                answer = ("failed", _sendable(error))
            _send(answers, answer)
    os._exit(0)


def _listen(stream: BinaryIO, tasks: queue.SimpleQueue[bytes]) -> None:
    with suppress(EOFError):
        while True:
            tasks.put(_receive(stream))
    # The other side is done with this process, or dead.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    threading.Event().wait(FAREWELL_SECONDS)
    os._exit(1)


class _Forward(logging.Handler):
    """Hands log records to the process that this one works for."""

    def __init__(self, answers: BinaryIO) -> None:
        super().__init__()
        self._answers = answers

    def emit(self, record: logging.LogRecord) -> None:
        _send(self._answers, ("log", (record.name, record.levelno, record.getMessage())))


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    except Exception:  # noqa: BLE001  # anything may go wrong in there
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


_SENDING = threading.Lock()


def _send(stream: IO[bytes], message: object) -> None:
    data = pickle.dumps(message)
    with _SENDING:
        stream.write(_LENGTH.pack(len(data)) + data)
        stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(header)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data
