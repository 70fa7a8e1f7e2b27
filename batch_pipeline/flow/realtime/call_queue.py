"""The calls that are to leave next: those read ahead of their shards, and those to be tried again.

Belongs here: their order, and how many are held in memory. When a call leaves is decided in
`engine`.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Sequence

from batch_pipeline.flow.realtime.shard import Call, OpenShard

# Requests, and bytes, that are read ahead of the calls, so that no call waits for a file.
AHEAD = 400
AHEAD_BYTES = 16 << 20


class CallQueue:
    """Calls in the order in which they leave; one that is due to be tried again goes first."""

    def __init__(self, concurrency: int) -> None:
        self.ahead = max(AHEAD, concurrency)
        self._ready: deque[Call] = deque()
        self._ready_bytes = 0
        # By the time of the next try; the number keeps calls of the same time in order.
        self._again: list[tuple[float, int, Call]] = []
        self._order = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._ready or self._again)

    @property
    def wants_more(self) -> bool:
        """Whether more calls should be read ahead."""
        return len(self._ready) < self.ahead // 2 and self._ready_bytes < AHEAD_BYTES

    def add(self, calls: Sequence[Call]) -> None:
        """Add calls that were read from a shard."""
        self._ready.extend(calls)
        self._ready_bytes += sum(len(call.params) for call in calls)

    def try_again(self, call: Call, at: float) -> None:
        """Add a call that is to leave once more, not before the time `at`."""
        heapq.heappush(self._again, (at, next(self._order), call))

    def first(self, now: float) -> Call | None:
        """The call that is to leave next, if one may leave now; it stays in the queue."""
        if self._is_due(now):
            return self._again[0][2]
        return self._ready[0] if self._ready else None

    def pop(self, now: float) -> Call:
        """Take the call out that `first` returns."""
        if self._is_due(now):
            return heapq.heappop(self._again)[2]
        call = self._ready.popleft()
        self._ready_bytes -= len(call.params)
        return call

    def seconds_to_next_try(self, now: float) -> float | None:
        """Seconds until a call is to be tried again; None if no call is."""
        return self._again[0][0] - now if self._again else None

    def remove_shard(self, shard: OpenShard) -> None:
        """Remove the calls of a shard."""
        self._ready = deque(call for call in self._ready if call.shard is not shard)
        self._ready_bytes = sum(len(call.params) for call in self._ready)
        self._again = [entry for entry in self._again if entry[2].shard is not shard]
        heapq.heapify(self._again)

    def _is_due(self, now: float) -> bool:
        return bool(self._again) and self._again[0][0] <= now
