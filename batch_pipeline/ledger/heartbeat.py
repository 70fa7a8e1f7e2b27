"""Signs of life from a thread of their own: work may block longer than a lease lasts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


@contextmanager
def beating(name: str, seconds: float, beat: Callable[[], bool]) -> Iterator[None]:
    """Call `beat` every so many seconds while the block runs, or until it returns False.

    A beat that fails (a database that is restarted, a disk that is full) is tried again: the work
    goes on, and must not look dead for a moment's trouble.
    """
    done = threading.Event()

    def run() -> None:
        while not done.wait(seconds):
            try:
                if not beat():
                    return
            except Exception as error:  # noqa: BLE001  # whatever it is, the next beat may succeed
                log.warning("no sign of life could be given (%s); trying again", error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
