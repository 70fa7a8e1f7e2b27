"""Decides when real-time calls may leave: as fast as the API allows, without being refused.

Pure: times are arguments (seconds of one monotonic clock), chance is an argument, and callers do
the waiting. Two things limit the calls. A *bucket* for each rate limit that the headers of answers
name (requests, input tokens, output tokens a minute): it is refilled all the time, and a call
leaves once the bucket holds what the call is estimated to use. And the *window*, the number of
calls under way at once: it opens with each answer and closes by one with each refusal, so that it
settles at what the API bears where no header names a limit.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from batch_pipeline.api.protocol import RateLimits

# Before an answer has named the limits.
FIRST_WINDOW = 20
WIDEST_WINDOW = 10_000
# Above half of the width at which calls were refused, the window grows by this share of itself in
# the time of one answer; below, it doubles.
WINDOW_GROWTH = 0.05
# Share of a limit that is not used: headers lag behind, and other programs may use the account.
RESERVE = 0.02
# Pauses double from the first to the longest while calls are only refused or fail.
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
# From this number of failed rounds in a row on, calls leave one at a time.
STRIKES_TO_PROBE = 2
# First estimates of a call's tokens; answers replace them by running means, in which each answer
# has the weight `_MEMORY`.
TOKENS_PER_BYTE = 0.3
OUTPUT_TOKENS = 200.0
_MEMORY = 0.05

REQUESTS, INPUT, OUTPUT = _CLASSES = ("requests", "input-tokens", "output-tokens")


@dataclass
class Ticket:
    """A call under way."""

    sent_at: float
    use: dict[str, float]
    """Estimated use of each limit."""
    before: dict[str, float]
    """Estimated use of all calls up to this one."""
    size: float
    """What its tokens were reckoned from: bytes of text."""
    beside: int
    """Number of calls under way when it left, itself included."""


@dataclass
class _Bucket:
    """One rate limit: `level` of it was left at the time `at`; a minute refills all of it."""

    limit: float
    level: float
    at: float

    @property
    def per_second(self) -> float:
        return self.limit / 60.0

    def advance(self, now: float) -> float:
        self.level = min(self.limit, self.level + self.per_second * max(0.0, now - self.at))
        self.at = now
        return self.level

    def wait(self, now: float, use: float) -> float:
        """Seconds until `use` may be used; a call larger than the limit needs a full bucket."""
        needed = min(use + RESERVE * self.limit, (1 - RESERVE) * self.limit)
        return max(0.0, needed - self.advance(now)) / self.per_second


@dataclass
class Limiter:
    """The limits of one model, for all calls of this process; not safe for several threads.

    Processes that share an account learn of each other through the headers: the rest of a limit
    that an answer names is what all of them have left.
    """

    chance: Callable[[], float] = random.random
    flying: int = 0
    refused: int = 0
    _buckets: dict[str, _Bucket] = field(default_factory=dict)
    _under_way: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_CLASSES, 0.0))
    _sent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_CLASSES, 0.0))
    _window: float = FIRST_WINDOW
    # Up to this width the window doubles with each round of answers.
    _threshold: float = WIDEST_WINDOW
    _paused_until: float = float("-inf")
    _strikes: int = 0
    _last_strike: float = float("-inf")
    _per_byte: float = TOKENS_PER_BYTE
    _output: float = OUTPUT_TOKENS

    def wait(self, now: float, size: float) -> float | None:
        """Seconds until a call of `size`, bytes of text, may leave; None: until another ends."""
        if now < self._paused_until:
            return self._paused_until - now
        most = 1 if self._strikes >= STRIKES_TO_PROBE else self._window
        if self.flying >= most:
            return None
        use = self._use(size)
        return max(
            (bucket.wait(now, use[name]) for name, bucket in self._buckets.items()), default=0.0
        )

    def pause_left(self, now: float) -> float:
        """Seconds for which no call leaves, because the API refused one or failed."""
        return max(0.0, self._paused_until - now)

    def sent(self, now: float, size: float) -> Ticket:
        """Count a call of `size` that leaves now."""
        use = self._use(size)
        for name, amount in use.items():
            self._under_way[name] += amount
            self._sent[name] += amount
            if name in self._buckets:
                self._buckets[name].level -= amount
        self.flying += 1
        return Ticket(now, use, dict(self._sent), size, self.flying)

    def answered(
        self, now: float, ticket: Ticket, input_tokens: int, output_tokens: int, limits: RateLimits
    ) -> None:
        """Count an answered call and the tokens that it used of the limits."""
        self._landed(ticket)
        self._strikes = 0
        used = {INPUT: float(input_tokens), OUTPUT: float(output_tokens)}
        for name, amount in used.items():
            if name in self._buckets:
                self._buckets[name].level += ticket.use[name] - amount
        self._per_byte += _MEMORY * (input_tokens / max(1, ticket.size) - self._per_byte)
        self._output += _MEMORY * (output_tokens - self._output)
        self._learn(now, ticket, limits)
        if self.flying + 1 >= self._window / 2:
            step = 1.0 if self._window < self._threshold else WINDOW_GROWTH
            self._window = min(WIDEST_WINDOW, self._window + max(step, 1 / self._window))

    def rejected(self, now: float, ticket: Ticket, limits: RateLimits) -> None:
        """Count a call whose request the API rejected, which says nothing about its load."""
        self._landed(ticket)
        self._strikes = 0
        self._learn(now, ticket, limits)

    def throttled(
        self, now: float, ticket: Ticket, retry_after: float | None, limits: RateLimits
    ) -> None:
        """Count an HTTP 429: no call leaves for a while."""
        self._narrow(now, ticket)
        self._learn(now, ticket, limits)
        pause = self._backoff() if retry_after is None else min(retry_after, LONGEST_PAUSE_SECONDS)
        # Spread at random: processes that share the account must not all return at one moment.
        self._pause(now, pause * (1 + 0.1 * self.chance()))

    def overloaded(self, now: float, ticket: Ticket) -> None:
        """Count an HTTP 529, or a call without a connection: the API is overloaded."""
        self._narrow(now, ticket)
        if self._strikes >= STRIKES_TO_PROBE:
            self._pause(now, self._backoff())

    def failed(self, now: float, ticket: Ticket) -> None:
        """Count an error of the API or a lost answer; several rounds in a row are an outage."""
        self._landed(ticket)
        self._strike(now, ticket)
        if self._strikes >= STRIKES_TO_PROBE:
            self._pause(now, self._backoff())

    def over(self, ticket: Ticket, limits: RateLimits) -> str | None:
        """The limit a minute that this refused call alone exceeds, as text, or None."""
        for name, said in limits.items():
            if said.limit < ticket.use[name] and name != OUTPUT:
                return f"{said.limit:,.0f} {name.replace('-', ' ')} a minute"
        return None

    def abandoned(self, ticket: Ticket) -> None:
        """Forget a call whose answer is not waited for any more."""
        self._landed(ticket)

    def _use(self, size: float) -> dict[str, float]:
        return {REQUESTS: 1.0, INPUT: size * self._per_byte, OUTPUT: self._output}

    def _landed(self, ticket: Ticket) -> None:
        self.flying -= 1
        for name, amount in ticket.use.items():
            self._under_way[name] -= amount

    def _learn(self, now: float, ticket: Ticket, limits: RateLimits) -> None:
        """Correct the buckets where the headers of an answer contradict them.

        The headers describe an unknown moment between the call and its answer. A bucket's own level
        stays as long as some such moment would explain it. The lower bound is what the headers name
        as left, less the calls that have left since, less those that the API may not have counted.
        """
        for name, said in limits.items():
            if said.limit <= 0:
                continue
            bucket = self._buckets.get(name)
            since = self._sent[name] - ticket.before[name]
            least = said.remaining - since - self._under_way[name]
            if bucket is None:
                self._buckets[name] = _Bucket(said.limit, least, now)
                # The window is needed no longer to find out how much the API bears.
                self._window = max(self._window, WIDEST_WINDOW if not self.refused else 0)
                continue
            bucket.limit = said.limit
            most = said.remaining + bucket.per_second * (now - ticket.sent_at)
            bucket.level = min(max(bucket.advance(now), least), most)

    def _narrow(self, now: float, ticket: Ticket) -> None:
        self._landed(ticket)
        self.refused += 1
        if not self._strikes:
            self._threshold = max(2.0, min(self._window, ticket.beside) / 2)
        self._strike(now, ticket)
        self._window = max(1.0, min(self._window, ticket.beside) - 1)

    def _strike(self, now: float, ticket: Ticket) -> None:
        """Count rounds without an answer; failures of calls that left together are one round."""
        if ticket.sent_at > self._last_strike:
            self._strikes += 1
            self._last_strike = now

    def _backoff(self) -> float:
        longest = FIRST_PAUSE_SECONDS * 2.0 ** min(self._strikes, 10)
        return min(longest, LONGEST_PAUSE_SECONDS) * (0.5 + 0.5 * self.chance())

    def _pause(self, now: float, seconds: float) -> None:
        self._paused_until = max(self._paused_until, now + seconds)
