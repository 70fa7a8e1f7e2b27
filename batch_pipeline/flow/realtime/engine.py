"""The event loop that makes many Messages calls at once.

Requests are read from the shards as calls leave, and their documents while they are sent, so that
memory does not grow with the night. An answer is written to its shard's journal before it counts as
done: a process that dies has then at most the calls in flight to make again. Checkpoints make the
journals durable and report progress to the ledger; they run in threads, so that the loop does not
wait for a disk. Which shards there are, and what happens to a shard that has ended, is decided in
`calls`; what becomes of a call that failed, in `call_failures`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any

from batch_pipeline.api.failures import refuses_account
from batch_pipeline.api.protocol import Answer, ApiFailure, Messages
from batch_pipeline.api.rate_limit import Limiter, Ticket
from batch_pipeline.flow.answers.messages import usage_of
from batch_pipeline.flow.answers.outcomes import Outcome, of_changed_document
from batch_pipeline.flow.dataset.documents.reference import DocumentChangedError
from batch_pipeline.flow.realtime.call_failures import (
    TOLD_PAUSE_SECONDS,
    CallFailures,
    SetAside,
    Stop,
    TryAgain,
)
from batch_pipeline.flow.realtime.call_queue import AHEAD_BYTES, CallQueue
from batch_pipeline.flow.realtime.shard import Call, OpenShard
from batch_pipeline.ledger.admission.admission import Waiting
from batch_pipeline.ledger.admission.night_state import CALLED_ELSEWHERE, running
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# A checkpoint follows after `checkpoint_every` answers, and at the latest after this time.
CHECKPOINT_SECONDS = 5.0
# Progress is written to the ledger at most this often: other processes write to it as well.
LEDGER_SECONDS = 1.0
# Pause where calls of another engine in this process use the whole rate limit.
SHARED_SECONDS = 0.05
# `per_second` is the mean over this time.
PACE_SECONDS = 30.0


class End(StrEnum):
    """Why the engine stopped before everything was answered."""

    # A signal or an error: the shard stays in progress, and the next run goes on with it.
    LET_GO = "let go"
    # A held or paused night, or the breaker: answers are collected, the rest is open again.
    CLOSE = "close"


# The Messages endpoint for an account, opened in the event loop.
MessagesOf = Callable[[str], Awaitable[Messages]]
# Claims the next shard, or returns why there is none. All three are called in threads.
Claim = Callable[[], OpenShard | Waiting]
# Writes the progress of shards to the ledger; returns whether calls must stop.
Report = Callable[[list[OpenShard]], bool]
# Puts a shard away: None if it was answered whole, else how it was left early.
Settle = Callable[[OpenShard, End | None], None]


class Engine:
    """Works through shards until none is left, or until it is told to stop."""

    def __init__(
        self,
        *,
        concurrency: int,
        checkpoint_every: int,
        limiter_of: Callable[[str, str], Limiter],
        claim: Claim,
        report: Report,
        settle: Settle,
    ) -> None:
        self._concurrency = concurrency
        self._checkpoint_every = checkpoint_every
        self._limiter_of = limiter_of
        self._ways: set[tuple[str, str]] = set()
        self._failures = CallFailures(limiter_of)
        self._claim, self._report, self._settle = claim, report, settle
        self._queue = CallQueue(concurrency)
        self._in_flight: set[asyncio.Task[None]] = set()
        self._shards: list[OpenShard] = []
        # Shards with answers that are not in their journal yet.
        self._unwritten: set[OpenShard] = set()
        # The shard from which calls are read ahead.
        self._source: OpenShard | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # Something has changed that the dispatcher may wait for.
        self._changed = asyncio.Event()
        self._checkpoint_due = asyncio.Event()
        self._done = False
        # Answers since the last checkpoint.
        self._unsaved = 0
        self._paces: deque[tuple[float, int]] = deque(maxlen=int(PACE_SECONDS / LEDGER_SECONDS))
        self._reported_at = float("-inf")
        self.answered = 0
        self.waiting = Waiting(None)
        self.end: End | None = None
        # A refusal that concerns a whole account, or all calls (key, billing, model); and of the
        # former the account.
        self.refusal: ApiFailure | None = None
        self.refused_account: str | None = None
        # The accounts that may send no more, whose shards are closed at the end; None: all are.
        self.closing: frozenset[str] | None = None
        # Paused accounts are tried: one call at a time until one is answered (`proved`).
        self.probing: set[str] = set()
        self.proved: set[str] = set()
        self._calls_of: Counter[str] = Counter()
        self._messages: dict[str, Messages] = {}
        self.error: BaseException | None = None
        # Set after each shard that was settled, and at the end.
        self.settled = threading.Event()

    # Called from other threads.

    def stop(self, end: End) -> None:
        """Start no more calls; calls under way are waited for."""
        loop = self._loop
        if loop is None:
            self._stop(end)
        else:
            loop.call_soon_threadsafe(self._stop, end)

    def abort(self) -> None:
        """Start no more calls, and cancel those under way."""
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._abort)

    @property
    def waits_until(self) -> float | None:
        """When calls go on after a long pause, in seconds since the epoch; None: there is none."""
        now = time.monotonic()
        left = min((each.pause_left(now) for each in self._limiters()), default=0.0)
        return time.time() + left if left > TOLD_PAUSE_SECONDS else None

    @property
    def refused(self) -> int:
        """Calls that the API refused, of the models and accounts that this engine asks."""
        return sum(limiter.refused for limiter in self._limiters())

    def _limiters(self) -> list[Limiter]:
        # Accounts of one organisation share a limiter.
        found = (self._limiter_of(*way) for way in list(self._ways))
        return list({id(limiter): limiter for limiter in found}.values())

    @property
    def per_second(self) -> float:
        """Answers a second in the last `PACE_SECONDS`."""
        if len(self._paces) < 2:
            return 0.0
        (begun, before), (at, after) = self._paces[0], self._paces[-1]
        return (after - before) / (at - begun) if at > begun else 0.0

    # Called in the event loop.

    async def run(self, messages_of: MessagesOf) -> None:
        """Make calls until every shard is settled; raises the first error after that."""
        self._messages_of = messages_of
        self._loop = asyncio.get_running_loop()
        self._paces.append((time.monotonic(), self.answered))
        keeper = asyncio.create_task(self._keep_checkpoints())
        try:
            await self._dispatch()
        except Exception as error:  # noqa: BLE001  # raised below, once every shard is settled
            self._fail(error)
        while self._in_flight:
            await asyncio.wait(self._in_flight)
        self._write_answers()
        self._done = True
        self._checkpoint_due.set()
        await keeper
        for shard in list(self._shards):
            await self._end(shard)
        if self.error is not None:
            raise self.error

    async def _dispatch(self) -> None:
        feeding: asyncio.Task[bool] | None = None
        exhausted = False
        while self.end is None:
            if feeding is not None and feeding.done():
                exhausted = not feeding.result()
                feeding = None
            if feeding is None and not exhausted and self._queue.wants_more:
                feeding = asyncio.create_task(self._feed())
                feeding.add_done_callback(lambda _: self._changed.set())
            now = time.monotonic()
            call, pause = self._next(now)
            if call is not None:
                self._send(call, now)
                continue
            idle = not (self._in_flight or self._queue or feeding)
            if idle and exhausted:
                break
            await _wait(self._changed, pause)
        if feeding is not None:
            await feeding

    def _next(self, now: float) -> tuple[Call | None, float | None]:
        """The call that leaves now, or None and the seconds to wait (None: until a change)."""
        if len(self._in_flight) >= self._concurrency:
            return None, None
        waits = [self._queue.seconds_to_next_try(now)]
        for call in self._queue.first(now):
            if call.way[0] in self.probing and self._calls_of[call.way[0]]:
                continue
            wait = self._limiter_of(*call.way).wait(now, call.size)
            if wait is None and not self._in_flight:
                # Calls of another engine in this process fill the window: no end of a call of this
                # engine will tell that there is room.
                wait = SHARED_SECONDS
            if wait == 0:
                return self._queue.pop(call), None
            waits.append(wait)
        # A call that is due again, and cannot leave yet, is waited for as the limiter says.
        return None, min((wait for wait in waits if wait is not None and wait > 0), default=None)

    def _send(self, call: Call, now: float) -> None:
        # A process that was frozen for long may have lost the shard to another one.
        if not call.shard.lease.held():
            self._drop(call.shard)
            return
        self._ways.add(call.way)
        self._calls_of[call.shard.submission.account] += 1
        ticket = self._limiter_of(*call.way).sent(now, call.size)
        assert self._loop is not None
        task = self._loop.create_task(self._call(call, ticket))
        self._in_flight.add(task)
        task.add_done_callback(self._call_ended)

    async def _call(self, call: Call, ticket: Ticket) -> None:
        account = call.shard.submission.account
        try:
            answer = await self._messages[account].create(call.params, call.shard.declaration.betas)
        except ApiFailure as failure:
            self._failed(call, ticket, failure)
        except DocumentChangedError as changed:
            self._limiter_of(*call.way).abandoned(ticket)
            self._set_aside(call, of_changed_document(str(changed)), 0.0)
        except BaseException:
            self._limiter_of(*call.way).abandoned(ticket)
            raise
        else:
            self._succeeded(call, ticket, answer)
        finally:
            self._calls_of[account] -= 1

    def _succeeded(self, call: Call, ticket: Ticket, answer: Answer) -> None:
        now = time.monotonic()
        self._failures.answered(ticket)
        usage = usage_of(answer.message)
        # Tokens read from a cache do not count towards the limits of most models.
        taken = usage.prompt_tokens - usage.cache_read_tokens
        limiter = self._limiter_of(*call.way)
        limiter.answered(now, ticket, taken, usage.output_tokens, answer.limits)
        call.shard.succeeded(call, answer, now - ticket.sent_at)
        self._write_soon(call.shard)
        account = call.shard.submission.account
        if account in self.probing:
            self.probing.discard(account)
            self.proved.add(account)
            self._checkpoint_due.set()

    def _failed(self, call: Call, ticket: Ticket, failure: ApiFailure) -> None:
        now = time.monotonic()
        match self._failures.judge(call, ticket, failure, now):
            case TryAgain(at):
                self._queue.try_again(call, at)
            case SetAside(outcome, attempted):
                self._set_aside(call, outcome, now - ticket.sent_at, attempted=attempted)
            case Stop(reason):
                if self.refusal is None:
                    self.refusal = reason
                    if refuses_account(reason):
                        self.refused_account = call.shard.submission.account
                        self.closing = frozenset({self.refused_account})
                self._stop(End.CLOSE)

    def _set_aside(
        self, call: Call, outcome: Outcome, seconds: float, *, attempted: bool = True
    ) -> None:
        call.shard.failed(call, _errored(outcome), seconds, attempted=attempted)
        self._write_soon(call.shard)

    def _write_soon(self, shard: OpenShard) -> None:
        """Have a shard's answers written at the end of this turn of the loop.

        All answers that arrive in one turn are then one write.
        """
        if not self._unwritten:
            assert self._loop is not None
            self._loop.call_soon(self._write_answers)
        self._unwritten.add(shard)

    def _write_answers(self) -> None:
        shards, self._unwritten = self._unwritten, set()
        for shard in shards:
            try:
                count = shard.write_answers()
            except Exception as error:  # noqa: BLE001  # raised by `run` at its end
                self._fail(error)
                continue
            self.answered += count
            self._unsaved += count
            if self._unsaved >= self._checkpoint_every or not shard.left:
                self._checkpoint_due.set()

    def _call_ended(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)
        self._changed.set()

    # Shards.

    async def _feed(self) -> bool:
        """Read calls ahead, from the next shard if the last one has no more; False: no shard."""
        if self._source is None:
            found = await asyncio.to_thread(self._claim)
            if isinstance(found, Waiting):
                self.waiting = found
                return False
            self._shards.append(found)
            self._source = found
            account = found.submission.account
            if account not in self._messages:
                self._messages[account] = await self._messages_of(account)
            if found.probe:
                self.probing.add(account)
        source = self._source
        calls = await asyncio.to_thread(source.take, self._queue.ahead, AHEAD_BYTES)
        if calls:
            self._queue.add(calls)
        else:
            self._source = None
            # A shard whose last process died after the last answer has no call left whose end
            # would settle it.
            self._checkpoint_due.set()
        return True

    def _drop(self, shard: OpenShard) -> None:
        """Forget the calls of a shard that another process has taken over."""
        self._queue.remove_shard(shard)
        if self._source is shard:
            self._source = None
        log.warning("calls of shard %s were taken over by another process", shard.shard.id)
        self.waiting = Waiting(running(CALLED_ELSEWHERE), shard.shard.requests)

    async def _keep_checkpoints(self) -> None:
        while not self._done:
            await _wait(self._checkpoint_due, CHECKPOINT_SECONDS)
            self._unsaved = 0
            try:
                await self._checkpoint()
            except Exception as error:  # noqa: BLE001  # raised by `run` at its end
                self._fail(error)
                return

    async def _checkpoint(self) -> None:
        for shard in list(self._shards):
            if shard is not self._source and not shard.left:
                await self._end(shard)
            else:
                await asyncio.to_thread(shard.checkpoint)
        now = time.monotonic()
        if now - self._reported_at >= LEDGER_SECONDS and self._shards:
            self._reported_at = now
            self._paces.append((now, self.answered))
            if await asyncio.to_thread(self._report, list(self._shards)):
                self._stop(End.CLOSE)

    async def _end(self, shard: OpenShard) -> None:
        self._shards.remove(shard)
        end = self._left_as(shard) if shard.left else None
        await asyncio.to_thread(self._settle, shard, end)
        self.settled.set()
        self._changed.set()

    def _left_as(self, shard: OpenShard) -> End:
        end = self.end or End.LET_GO
        others = self.closing is not None and shard.submission.account not in self.closing
        return End.LET_GO if others else end

    def _stop(self, end: End) -> None:
        self.end = self.end or end
        self._changed.set()

    def _fail(self, error: BaseException) -> None:
        self.error = self.error or error
        self._stop(End.LET_GO)

    def _abort(self) -> None:
        self._stop(End.LET_GO)
        for task in self._in_flight:
            task.cancel()


async def _wait(event: asyncio.Event, seconds: float | None) -> None:
    """Wait for an event, at most for `seconds`, and clear it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    event.clear()


def _errored(outcome: Outcome) -> dict[str, Any]:
    error = {"type": outcome.error_type, "message": outcome.error_message}
    return {"type": "errored", "error": {"type": "error", "error": error}}
