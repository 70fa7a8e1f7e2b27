"""A process with limits of time and memory, for work that one row can blow up; and its other end.

The operating system ends it at a limit, and with it the work on this row alone. It is started for
the first request, and ends with the process that asks, because the pipe between them closes then.

Belongs here: starting it, its limits, and bytes to and fro. What is asked and answered, and what
follows where it was ended, is the callers': `expression_process`, `documents.inspection`.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from batch_pipeline.flow.dataset.process_pool import WorkerDiedError

_READY = b"ready"
# Longer than any answer: an answer comes from a process that reads strangers' bytes.
_MOST_ANSWER_BYTES = 1 << 30


class LimitedProcess:
    """A running process; only one thread at a time may ask."""

    def __init__(
        self, module: str, purpose: str, environment: Mapping[str, str], data_bytes: int
    ) -> None:
        """Start `python -m module`, which calls `run_as_process`; it may use this much memory.

        It sees these variables of the environment alone. Raises WorkerDiedError, which says its
        `purpose`, where it cannot be started.
        """
        ours, theirs = Pipe()
        with theirs:
            # `-P`: its working folder is no place for modules.
            command = [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(data_bytes)]
            # In a group of its own Ctrl-C does not reach it: it ends when the pipe closes.
            self._process = subprocess.Popen(  # noqa: S603  # of this package
                command, env={**environment, "PYTHONPATH": _python_path()}, cwd="/",
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                process_group=0,
            )  # fmt: skip
        self._pipe = ours
        try:
            self._pipe.recv_bytes()
        except EOFError:
            self.end()
            raise WorkerDiedError(
                f"The process that {purpose} could not be started, perhaps because the machine is "
                "out of memory. Nothing is lost: run again."
            ) from None

    def ask(self, request: bytes, seconds: float | None = None) -> bytes:
        """The answer to a request.

        Raises EOFError or OSError where the process has ended, and TimeoutError where it has not
        answered after `seconds` of the clock; then the process is of no more use.
        """
        self._pipe.send_bytes(request)
        if not self._pipe.poll(seconds):
            raise TimeoutError
        return self._pipe.recv_bytes(_MOST_ANSWER_BYTES)

    def end(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.wait()


def _python_path() -> str:
    """The same modules, wherever this process has them from."""
    return os.pathsep.join(path or str(os.getcwd()) for path in sys.path)  # noqa: PTH109


# --- the process itself --------------------------------------------------------------------------


def run_as_process(handle: Callable[[bytes], bytes], **others: int) -> None:
    """Answer requests until the other end closes: what the module of a `LimitedProcess` does.

    `others` are further limits by the names that `resource` has, like RLIMIT_FSIZE.
    """
    limits: dict[str, int] = {"RLIMIT_CORE": 0, "RLIMIT_DATA": int(sys.argv[2]), **others}
    for name, most in limits.items():
        limit(getattr(resource, name), most)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Connection(int(sys.argv[1])) as pipe:
        serve(pipe, handle)


def serve(pipe: Any, handle: Callable[[bytes], bytes]) -> None:
    pipe.send_bytes(_READY)
    while True:
        try:
            request = pipe.recv_bytes()
        except EOFError:
            return
        pipe.send_bytes(handle(request))


def allow_seconds(seconds: int) -> None:
    """Have the system end this process where it computes for longer than this from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)


def limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    # Where a system does not know a limit, it goes without.
    with suppress(OSError, ValueError):
        resource.setrlimit(what, (most, hard))
