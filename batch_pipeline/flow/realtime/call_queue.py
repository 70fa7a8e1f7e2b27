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
    """Calls in the order in which they leave; one that is due to be tried again goes first.

    Those of one model and account do not wait for those of another, which may have to pause.
    """

    def __init__(self, concurrency: int) -> None:
        self.ahead = max(AHEAD, concurrency)
        self._ready: dict[tuple[str, str], deque[Call]] = {}
        self._ready_calls = self._ready_bytes = 0
        # By the time of the next try; the number keeps calls of the same time in order.
        self._again: list[tuple[float, int, Call]] = []
        self._order = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._ready_calls or self._again)

    @property
    def wants_more(self) -> bool:
        """Whether more calls should be read ahead."""
        return self._ready_calls < self.ahead // 2 and self._ready_bytes < AHEAD_BYTES

    def add(self, calls: Sequence[Call]) -> None:
        """Add calls that were read from a shard."""
        for call in calls:
            self._ready.setdefault(call.way, deque()).append(call)
        self._count(calls, 1)

    def try_again(self, call: Call, at: float) -> None:
        """Add a call that is to leave once more, not before the time `at`."""
        heapq.heappush(self._again, (at, next(self._order), call))

    def first(self, now: float) -> list[Call]:
        """The calls that leave next, one of each model and account; they stay in the queue."""
        due = [self._again[0][2]] if self._is_due(now) else []
        tried = {call.way for call in due}
        return [*due, *(calls[0] for way, calls in self._ready.items() if way not in tried)]

    def pop(self, call: Call) -> Call:
        """Take a call out that `first` has returned."""
        if self._again and self._again[0][2] is call:
            return heapq.heappop(self._again)[2]
        calls = self._ready[call.way]
        calls.popleft()
        if not calls:
            del self._ready[call.way]
        self._count([call], -1)
        return call

    def seconds_to_next_try(self, now: float) -> float | None:
        """Seconds until a call is to be tried again; None if no call is."""
        return self._again[0][0] - now if self._again else None

    def remove_shard(self, shard: OpenShard) -> None:
        """Remove the calls of a shard."""
        ready = [call for calls in self._ready.values() for call in calls]
        self._ready, self._ready_calls, self._ready_bytes = {}, 0, 0
        self.add([call for call in ready if call.shard is not shard])
        self._again = [entry for entry in self._again if entry[2].shard is not shard]
        heapq.heapify(self._again)

    def _count(self, calls: Sequence[Call], sign: int) -> None:
        self._ready_calls += sign * len(calls)
        self._ready_bytes += sign * sum(call.held for call in calls)

    def _is_due(self, now: float) -> bool:
        return bool(self._again) and self._again[0][0] <= now
