"""A stop signal that waits for what is under way: the first asks, the second ends at once.

Works for whatever the process does with its signals otherwise: the command line's Ctrl-C, SIGTERM,
and Dagster's termination of a run alike. The first signal is held back and delivered once the block
is over, as if it had come only then.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_back(ask: Callable[[], None]) -> Iterator[None]:
    """Call `ask` at the first signal within the block; a second does what it would have done.

    Outside the main thread, which alone may handle signals, the block is as it is.
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

    for number in map(int, SIGNALS):
        former[number] = signal.getsignal(number)
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)
    if received:
        signal.raise_signal(received[0])
