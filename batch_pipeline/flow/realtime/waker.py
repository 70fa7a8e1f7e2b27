"""What the one coroutine that hands out work waits for: that something has changed."""

from __future__ import annotations

import asyncio


class Waker:
    """Woken from the same loop, as often as anybody likes; waited for by one coroutine."""

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None

    async def wait(self, seconds: float | None) -> None:
        """Until something has changed, or for some seconds at most."""
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        timer = None if seconds is None else loop.call_later(max(0.0, seconds), self.wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()

    def wake(self) -> None:
        """Something has changed."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
