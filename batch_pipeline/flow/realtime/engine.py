"""Many Messages calls at once, from one event loop: when each leaves, and what its end means.

Requests are pulled from the shards as calls leave, so that memory does not grow with the night. An
answer is in its shard's journal before it counts; checkpoints make the journals durable and tell
the ledger how far the calls are, away from the loop. Which shards there are, and what follows from
the end, stands in `calls`.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Any

from batch_pipeline.api.protocol import Answer, ApiFailure, Messages
from batch_pipeline.api.rate_limit import Limiter, Ticket
from batch_pipeline.flow.messages import usage_of
from batch_pipeline.flow.outcomes import Action, Outcome, is_refused_as_busy, of_call_failure
from batch_pipeline.flow.realtime.shard import Call, OpenShard
from batch_pipeline.flow.realtime.waker import Waker
from batch_pipeline.ledger.admission import Waiting

log = logging.getLogger(__name__)

# Tries of one call in a row: the API may be busy for minutes, an error of its own is asked thrice.
BUSY_TRIES = 8
ERROR_TRIES = 3
# A call that seems to be larger than a limit may only have been overrated.
TOO_LARGE_TRIES = 3
FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 60.0
# Whichever is first, so many answers or this time, is followed by a checkpoint.
CHECKPOINT_SECONDS = 5.0
# The ledger hears of it less often: its commits are shared with everybody else.
LEDGER_SECONDS = 1.0
# Requests read ahead, and their bytes: enough to be read while those before them leave.
AHEAD = 400
AHEAD_BYTES = 16 << 20
SHARED_SECONDS = 0.05
# The pace that is shown is that of about the last half minute.
PACE_SECONDS = 30.0


class End(StrEnum):
    """Why the engine stopped before everything was answered."""

    # A signal, a bug: the shard stays as it is, and whoever comes next goes on with it.
    LET_GO = "let go"
    # Held, paused, the breaker: what was answered is collected, the rest is open again.
    CLOSE = "close"


# Claims the next shard, or says why there is none; called away from the loop.
Claim = Callable[[], OpenShard | Waiting]
# Tells the ledger how far the shards are; returns why nothing more may leave, if so.
Report = Callable[[list[OpenShard]], str | None]
# Settles a shard: answered whole, or left early as `End` says.
Settle = Callable[[OpenShard, End | None], None]


class Engine:
    """Works through shards until none is left, or until it is told to stop."""

    def __init__(
        self,
        *,
        concurrency: int,
        checkpoint_every: int,
        limiter: Limiter,
        claim: Claim,
        report: Report,
        settle: Settle,
    ) -> None:
        self._concurrency = concurrency
        self._checkpoint_every = checkpoint_every
        self._limiter = limiter
        self._claim, self._report, self._settle = claim, report, settle
        self._ahead = max(AHEAD, concurrency)
        self._ready: deque[Call] = deque()
        self._ready_bytes = 0
        self._again: list[tuple[float, int, Call]] = []
        self._order = itertools.count()
        self._flying: set[asyncio.Task[None]] = set()
        self._shards: list[OpenShard] = []
        self._landed_of: set[OpenShard] = set()
        self._source: OpenShard | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waker = Waker()
        self._due = asyncio.Event()
        self._done = False
        self._unsaved = 0
        self._paces: deque[tuple[float, int]] = deque(maxlen=int(PACE_SECONDS / LEDGER_SECONDS))
        self._told = float("-inf")
        self.answered = 0
        self.waiting = Waiting(None)
        self.end: End | None = None
        self.reason: str | None = None
        # What the API said of the account as a whole, if anything.
        self.refusal: ApiFailure | None = None
        self.error: BaseException | None = None
        # Set whenever a shard was settled, and at the end.
        self.settled = threading.Event()

    # From other threads.

    def stop(self, end: End, reason: str) -> None:
        """Let nothing more leave; what is under way is waited for."""
        loop = self._loop
        if loop is None:
            self._stop(end, reason)
        else:
            loop.call_soon_threadsafe(self._stop, end, reason)

    def abort(self) -> None:
        """Do not even wait for what is under way."""
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._abort)

    @property
    def per_second(self) -> float:
        """Answers a second lately."""
        if len(self._paces) < 2:
            return 0.0
        (begun, before), (at, after) = self._paces[0], self._paces[-1]
        return (after - before) / (at - begun) if at > begun else 0.0

    # The loop.

    async def run(self, messages: Messages) -> None:
        """Until every shard is settled; an error is raised once they are."""
        self._loop = asyncio.get_running_loop()
        self._paces.append((time.monotonic(), self.answered))
        keeper = asyncio.create_task(self._keep_checkpoints())
        try:
            await self._dispatch(messages)
        except Exception as error:  # noqa: BLE001  # raised once all is put away
            self._fail(error)
        while self._flying:
            await asyncio.wait(self._flying)
        self._put_down()
        self._done = True
        self._due.set()
        await keeper
        for shard in list(self._shards):
            await self._end(shard)
        if self.error is not None:
            raise self.error

    async def _dispatch(self, messages: Messages) -> None:
        feeding: asyncio.Task[bool] | None = None
        exhausted = False
        while self.end is None:
            if feeding is not None and feeding.done():
                exhausted = not feeding.result()
                feeding = None
            if feeding is None and not exhausted and self._wants_more():
                feeding = asyncio.create_task(self._feed())
                feeding.add_done_callback(lambda _: self._waker.wake())
            now = time.monotonic()
            call, pause = self._next(now)
            if call is not None:
                self._send(messages, call, now)
                continue
            idle = not (self._flying or self._again or self._ready or feeding)
            if idle and exhausted:
                break
            await self._waker.wait(pause)
        if feeding is not None:
            await feeding

    def _wants_more(self) -> bool:
        return len(self._ready) < self._ahead // 2 and self._ready_bytes < AHEAD_BYTES

    def _next(self, now: float) -> tuple[Call | None, float | None]:
        """The call that leaves now, taken from its place, or for how long to wait at most."""
        pause: float | None = None
        if len(self._flying) >= self._concurrency:
            return None, None
        if self._again:
            pause = self._again[0][0] - now
        again = pause is not None and pause <= 0
        if not again and not self._ready:
            return None, pause
        call = self._again[0][2] if again else self._ready[0]
        wait = self._limiter.wait(now, len(call.params))
        if wait is None and not self._flying:
            # Calls of another engine of this process fill the window: nobody wakes this one.
            wait = SHARED_SECONDS
        if wait is None or wait > 0:
            return None, wait
        if again:
            heapq.heappop(self._again)
        else:
            self._ready.popleft()
            self._ready_bytes -= len(call.params)
        return call, None

    def _send(self, messages: Messages, call: Call, now: float) -> None:
        # A process that was frozen must not ask what another has taken over meanwhile.
        if not call.shard.lease.held():
            self._drop(call.shard)
            return
        ticket = self._limiter.sent(now, len(call.params))
        assert self._loop is not None
        task = self._loop.create_task(self._call(messages, call, ticket))
        self._flying.add(task)
        task.add_done_callback(self._landed)

    async def _call(self, messages: Messages, call: Call, ticket: Ticket) -> None:
        try:
            answer = await messages.create(call.params, call.shard.declaration.betas)
        except ApiFailure as failure:
            self._failed(call, ticket, failure)
        except BaseException:
            self._limiter.abandoned(ticket)
            raise
        else:
            self._succeeded(call, ticket, answer)

    def _succeeded(self, call: Call, ticket: Ticket, answer: Answer) -> None:
        now = time.monotonic()
        usage = usage_of(answer.message)
        # What is read from a cache does not count towards the limit of most models.
        taken = usage.prompt_tokens - usage.cache_read_tokens
        self._limiter.answered(now, ticket, taken, usage.output_tokens, answer.limits)
        call.shard.succeeded(call, answer, usage, now - ticket.sent_at)
        self._put_down_soon(call.shard)

    def _failed(self, call: Call, ticket: Ticket, failure: ApiFailure) -> None:
        now = time.monotonic()
        outcome = of_call_failure(failure)
        if outcome.action is Action.STOP:
            self._limiter.rejected(now, ticket, failure.limits)
            self.refusal = self.refusal or failure
            self._stop(End.CLOSE, f"the API refuses to go on: {failure}")
            return
        if is_refused_as_busy(failure) or not failure.connected:
            if failure.status == 429:
                self._limiter.throttled(now, ticket, failure.retry_after, failure.limits)
            else:
                self._limiter.overloaded(now, ticket)
            call.busy += 1
            limit = self._limiter.over(ticket, failure.limits) if failure.status == 429 else None
            if limit is not None and call.busy >= TOO_LARGE_TRIES:
                message = f"larger than the account's limit of {limit}: {outcome.error_message}"
                outcome = replace(outcome, error_message=message)
                self._set_aside(call, ticket, outcome, now)
                return
            # Without a connection nothing was refused: it is tried for as long as it takes.
            if call.busy < BUSY_TRIES or not failure.connected:
                self._try_again(call, now, call.busy, failure.retry_after)
            else:
                self._set_aside(call, ticket, outcome, now, attempted=False)
            return
        if outcome.action is Action.RETRY:
            self._limiter.failed(now, ticket)
            call.failed += 1
            # Without an error of the API's own it may have been answered all the same.
            call.lost += failure.error_type is None
            if call.failed < ERROR_TRIES:
                self._try_again(call, now, call.failed, failure.retry_after)
                return
        else:
            self._limiter.rejected(now, ticket, failure.limits)
        self._set_aside(call, ticket, outcome, now)

    def _try_again(self, call: Call, now: float, tries: int, retry_after: float | None) -> None:
        pause = min(FIRST_RETRY_SECONDS * 2 ** (tries - 1), LONGEST_RETRY_SECONDS)
        pause *= 0.5 + 0.5 * random.random()  # noqa: S311  # no secret, only spread
        at = now + max(pause, min(retry_after or 0.0, LONGEST_RETRY_SECONDS))
        heapq.heappush(self._again, (at, next(self._order), call))

    def _set_aside(
        self, call: Call, ticket: Ticket, outcome: Outcome, now: float, *, attempted: bool = True
    ) -> None:
        call.shard.failed(call, _errored(outcome, attempted=attempted), now - ticket.sent_at)
        self._put_down_soon(call.shard)

    def _put_down_soon(self, shard: OpenShard) -> None:
        """With what else has come in this turn of the loop: a file takes it all at once."""
        if not self._landed_of:
            assert self._loop is not None
            self._loop.call_soon(self._put_down)
        self._landed_of.add(shard)

    def _put_down(self) -> None:
        shards, self._landed_of = self._landed_of, set()
        for shard in shards:
            try:
                count = shard.put_down()
            except Exception as error:  # noqa: BLE001  # raised by `run`, once all is put away
                self._fail(error)
                continue
            self.answered += count
            self._unsaved += count
            if self._unsaved >= self._checkpoint_every or not shard.left:
                self._due.set()

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._flying.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)
        self._waker.wake()

    # Shards.

    async def _feed(self) -> bool:
        """Read calls ahead, from the next shard where one is used up; False: there is none."""
        if self._source is None:
            found = await asyncio.to_thread(self._claim)
            if isinstance(found, Waiting):
                self.waiting = found
                return False
            self._shards.append(found)
            self._source = found
        source = self._source
        calls = await asyncio.to_thread(source.take, self._ahead, AHEAD_BYTES)
        if calls:
            self._ready.extend(calls)
            self._ready_bytes += sum(len(call.params) for call in calls)
        else:
            self._source = None
            # A shard that was answered whole before its holder died has no call to wait for.
            self._due.set()
        return True

    def _drop(self, shard: OpenShard) -> None:
        """Another process has taken a shard over: nothing of it leaves here any more."""
        self._ready = deque(call for call in self._ready if call.shard is not shard)
        self._ready_bytes = sum(len(call.params) for call in self._ready)
        self._again = [entry for entry in self._again if entry[2].shard is not shard]
        heapq.heapify(self._again)
        if self._source is shard:
            self._source = None
        log.warning("calls of shard %s were taken over by another process", shard.shard.id)
        self.waiting = Waiting("another process has taken it over", shard.shard.requests)

    async def _keep_checkpoints(self) -> None:
        while not self._done:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECKPOINT_SECONDS):
                    await self._due.wait()
            self._due.clear()
            self._unsaved = 0
            try:
                await self._checkpoint()
            except Exception as error:  # noqa: BLE001  # raised by `run`, once all is put away
                self._fail(error)
                return

    async def _checkpoint(self) -> None:
        for shard in list(self._shards):
            if shard is not self._source and not shard.left:
                await self._end(shard)
            else:
                await asyncio.to_thread(shard.checkpoint)
        now = time.monotonic()
        if now - self._told >= LEDGER_SECONDS and self._shards:
            self._told = now
            self._paces.append((now, self.answered))
            reason = await asyncio.to_thread(self._report, list(self._shards))
            if reason is not None:
                self._stop(End.CLOSE, reason)

    async def _end(self, shard: OpenShard) -> None:
        self._shards.remove(shard)
        end = self.end or End.LET_GO if shard.left else None
        await asyncio.to_thread(self._settle, shard, end)
        self.settled.set()
        self._waker.wake()

    def _stop(self, end: End, reason: str) -> None:
        if self.end is None:
            self.end, self.reason = end, reason
        self._waker.wake()

    def _fail(self, error: BaseException) -> None:
        self.error = self.error or error
        self._stop(End.LET_GO, "an error")

    def _abort(self) -> None:
        self._stop(End.LET_GO, "interrupted")
        for task in self._flying:
            task.cancel()


def _errored(outcome: Outcome, *, attempted: bool) -> dict[str, Any]:
    error = {"type": outcome.error_type, "message": outcome.error_message}
    return {
        "type": "errored",
        "error": {"type": "error", "error": error},
        "attempted": attempted,
    }
