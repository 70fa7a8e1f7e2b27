"""Whether a night will meet its deadline, and what is moved to real time so that it does.

A pure function of plain values: what is left, how long batches take, how fast real time is.
`outlook` reads them from the ledger, `takeover` does what is decided.

Requests go as batches where they can, since a batch costs half. Those that would miss the deadline
as a batch go in real time, but no more of them than real time can finish by then: a request that
misses the deadline either way is bought at half price. What was moved to real time stays there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from batch_pipeline.wording import duration, moment, speed

# Where nothing was measured: the API's documentation says that most batches end within an hour, and
# all within 24; that a call takes some seconds is common experience.
ASSUMED_TURNAROUND_SECONDS = 3600.0
ASSUMED_CALL_SECONDS = 5.0
# What a cancel may take where none was measured: the API finishes what it is working on.
ASSUMED_CANCEL_SECONDS = 120.0
# Factor on the time that real time needs: calls are retried, and speeds vary.
SLACK = 1.25


@dataclass(frozen=True)
class Turnaround:
    """Seconds that a batch is expected to take; `batches` were measured for it (0: assumed)."""

    seconds: float = ASSUMED_TURNAROUND_SECONDS
    batches: int = 0


@dataclass(frozen=True)
class Speed:
    """Real-time answers a second; whether calls of this account were measured."""

    requests_per_second: float
    measured: bool

    @classmethod
    def of(cls, concurrency: int, call_seconds: float | None) -> Speed:
        """Of this many calls at once, each of which takes `call_seconds` (None: never measured)."""
        if call_seconds is None:
            return cls(concurrency / ASSUMED_CALL_SECONDS, measured=False)
        return cls(concurrency / max(call_seconds, 1e-3), measured=True)


@dataclass(frozen=True)
class Flying:
    """One batch in flight, `since` it was accepted; `takable`: it may be cancelled for real time.

    A batch that is being sent, or whose outcome is unknown, may not be: only a batch that is proven
    to be this account's is ever cancelled.
    """

    id: int
    requests: int
    since: float
    takable: bool = True


@dataclass(frozen=True)
class Outlook:
    """What is left of a night, in requests; times in seconds since the epoch.

    `unsent` are to go as batches (`unplanned` of them are part of no shard yet), `calling` go in
    real time already or come back from a batch that is being cancelled for it. `room` of the
    `queue` is free. `optional` batches, which the night can do without, are not among those that
    are `flying`. `slowest` is the longest that a batch of the night has been at the API without
    ending by itself, `cancel_seconds` what a cancelled one takes to end. `moved`: real time has
    begun, and open requests stay with it: where the forecast is close, one round must not go in
    real time and the next as a batch.
    """

    now: float
    deadline: float
    unsent: int
    calling: int
    flying: Sequence[Flying]
    room: int
    queue: int
    turnaround: Turnaround
    speed: Speed
    unplanned: int = 0
    slowest: float = 0.0
    moved: bool = False
    poll_seconds: float = 60.0
    cancel_seconds: float = ASSUMED_CANCEL_SECONDS
    optional: Sequence[int] = ()


@dataclass(frozen=True)
class Forecast:
    """What is to be done now, and when all requests are expected to be answered then (`ends_at`).

    `to_realtime` of the unsent requests go in real time, and so do the submissions in `take_over`.
    """

    to_realtime: int
    take_over: tuple[int, ...]
    ends_at: float
    meets: bool
    reason: str

    @property
    def acts(self) -> bool:
        return bool(self.to_realtime or self.take_over)


def decide(outlook: Outlook) -> Forecast:
    """Which requests go in real time now, which batches are taken over, and which may go on."""
    left = outlook.deadline - outlook.now
    slow = _expected_turnaround(outlook)
    stays = outlook.unplanned if outlook.moved else 0
    if left <= 0:
        # The deadline has passed: real time would not help, and batches cost half.
        return _forecast(outlook, slow, stays, ())
    late_unsent = max(stays, _too_late_unsent(outlook, slow))
    to_realtime = max(stays, _within(outlook, late_unsent, outlook.calling))
    missing = [b for b in outlook.flying if b.takable and _misses(outlook, b, slow)]
    late: list[Flying] = []
    before = outlook.calling + to_realtime
    # The youngest first: they are expected to end last.
    for batch in sorted(missing, key=lambda b: (-b.since, b.id)):
        if _within(outlook, batch.requests, before) == batch.requests:
            late.append(batch)
            before += batch.requests
    needed = before / outlook.speed.requests_per_second * SLACK
    last_moment = outlook.deadline - needed - outlook.cancel_seconds - 2 * outlook.poll_seconds
    if outlook.now < last_moment:
        # Real time would still be in time later: until then a batch may end after all.
        return _forecast(outlook, slow, to_realtime, (), late, last_moment)
    return _forecast(outlook, slow, to_realtime, tuple(sorted(batch.id for batch in late)))


def is_late(outlook: Outlook) -> bool:
    """Whether a batch that is sent now is expected to miss the deadline."""
    return outlook.now + _expected_turnaround(outlook) > outlook.deadline


def must_end(outlook: Outlook) -> bool:
    """Whether a batch has to be cancelled now, if its end is to be collected by the deadline."""
    return outlook.now >= outlook.deadline - outlook.cancel_seconds - 2 * outlook.poll_seconds


def _expected_turnaround(outlook: Outlook) -> float:
    """Seconds per batch: the usual time, or longer where a batch of this night has taken longer."""
    return max(outlook.turnaround.seconds, outlook.slowest)


def _too_late_unsent(outlook: Outlook, slow: float) -> int:
    """The number of unsent requests that would be too late as batches.

    The queue takes `room` of them now, and a whole queue of them after each turnaround.
    """
    if not outlook.unsent:
        return 0
    rounds = math.floor((outlook.deadline - outlook.now) / max(slow, 1.0))
    in_time = outlook.room + outlook.queue * (rounds - 1) if rounds else 0
    return max(0, outlook.unsent - in_time)


def _misses(outlook: Outlook, batch: Flying, slow: float) -> bool:
    """Whether a batch is expected to miss the deadline, as is each that exceeds the usual time."""
    overdue = outlook.now - batch.since >= outlook.turnaround.seconds
    return overdue or batch.since + slow > outlook.deadline


def _within(outlook: Outlook, requests: int, before: int) -> int:
    """The number of requests that real time can finish by the deadline, after `before` others.

    All of them where the speed was never measured, or where they exceed what fits by less than the
    slack: a small rest is not worth a batch of its own.
    """
    if not outlook.speed.measured:
        return requests
    fits = (outlook.deadline - outlook.now) * outlook.speed.requests_per_second - before
    return requests if requests <= fits * SLACK else max(0, math.floor(fits))


def _forecast(
    outlook: Outlook,
    slow: float,
    to_realtime: int,
    take_over: tuple[int, ...],
    late: Sequence[Flying] = (),
    last_moment: float = 0.0,
) -> Forecast:
    """The decision with what it leads to; `late` batches are taken over at the `last_moment`."""
    now, by_batch = outlook.now, outlook.unsent - to_realtime
    taken = [b.requests for b in outlook.flying if b.id in take_over]
    calls = outlook.calling + to_realtime + sum(taken)
    ends = [now]
    for batch in outlook.flying:
        if batch in late:
            ends.append(outlook.deadline)
        elif batch.id not in take_over:
            # An overdue batch is assumed to take its usual time once more.
            ends.append(batch.since + slow if batch.since + slow > now else now + slow)
    if by_batch:
        rounds = 1 + math.ceil(max(0, by_batch - outlook.room) / max(outlook.queue, 1))
        ends.append(now + slow * rounds)
    if calls:
        wait = outlook.cancel_seconds if taken else 0.0
        ends.append(now + wait + calls / outlook.speed.requests_per_second)
    ends_at = max(ends)
    parts = [_usual(outlook.turnaround)]
    if taken:
        parts.append(f"{len(taken):,} of them ({sum(taken):,} requests) are taken over")
    if late:
        when = f"are taken over at {moment(last_moment)} unless they have ended"
        parts.append(f"{len(late):,} of them are late and {when}")
    if calls:
        rate = outlook.speed.requests_per_second
        how = "measured" if outlook.speed.measured else "assumed"
        parts.append(f"{calls:,} requests go in real time ({speed(rate)} a second, {how})")
    parts.append(_outcome(outlook, ends_at))
    meets = ends_at <= outlook.deadline
    return Forecast(to_realtime, take_over, ends_at, meets, "; ".join(parts))


def _usual(turnaround: Turnaround) -> str:
    measured = turnaround.batches
    known = f"measured on {measured:,}" if measured else "assumed, none was measured"
    return f"batches take {duration(turnaround.seconds)} ({known})"


def _outcome(outlook: Outlook, ends_at: float) -> str:
    if outlook.now > outlook.deadline:
        return "the deadline has passed"
    if ends_at > outlook.deadline:
        return f"a part is expected after it, until {moment(ends_at)}"
    return f"all is expected by {moment(ends_at)}"
