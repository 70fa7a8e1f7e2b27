"""How fast real-time calls may leave: as fast as the API allows, and not so fast that it refuses.

Pure: times are arguments (seconds of one monotonic clock), chance is given, nothing waits here.
Two things have a say. *Buckets* follow what the headers of the answers tell of each limit: so much
a minute, refilled all the time, of which so much is left; a call leaves once its share is there.
The *window* is how many calls may be under way at once: it opens with every answer and closes by
one with every refusal, so that it settles at what the API bears where no header says it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from batch_pipeline.api.protocol import RateLimits

# Before anything is known of the limits.
FIRST_WINDOW = 20
WIDEST_WINDOW = 10_000
# Above half of what was refused the window opens by this part in the time of one answer.
WINDOW_GROWTH = 0.05
# This part of a limit is left untouched: counts lag behind, and others may use the account too.
RESERVE = 0.02
# Waits double from the first to the longest while nothing but refusals and failures comes back.
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
# From the second failure in a row on, one call at a time finds out whether the API is back.
STRIKES_TO_PROBE = 2
# A first guess at tokens, until answers have been seen; later the running means.
TOKENS_PER_BYTE = 0.3
OUTPUT_TOKENS = 200.0
_MEMORY = 0.05

REQUESTS, INPUT, OUTPUT = _CLASSES = ("requests", "input-tokens", "output-tokens")


@dataclass
class Ticket:
    """A call under way: when it left, what it was taken to use of each limit, what all calls up to
    it had used, and how many were under way with it."""

    sent_at: float
    use: dict[str, float]
    before: dict[str, float]
    size: int
    beside: int


@dataclass
class _Bucket:
    """One limit: `level` of it was left at a time; a minute refills all of it."""

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
        """Seconds until so much may be used; a call larger than the limit needs a full bucket."""
        needed = min(use + RESERVE * self.limit, (1 - RESERVE) * self.limit)
        return max(0.0, needed - self.advance(now)) / self.per_second


@dataclass
class Limiter:
    """One for all calls of an account to a model in this process; not safe for several threads.

    Processes that share an account share its limits through the headers alone: each sees in them
    what the others have used.
    """

    chance: Callable[[], float] = random.random
    flying: int = 0
    refused: int = 0
    _buckets: dict[str, _Bucket] = field(default_factory=dict)
    _under_way: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_CLASSES, 0.0))
    _sent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_CLASSES, 0.0))
    _window: float = FIRST_WINDOW
    # Up to here the window doubles with each round of answers.
    _threshold: float = WIDEST_WINDOW
    _paused_until: float = float("-inf")
    _strikes: int = 0
    _last_strike: float = float("-inf")
    _per_byte: float = TOKENS_PER_BYTE
    _output: float = OUTPUT_TOKENS

    def wait(self, now: float, size: int) -> float | None:
        """Seconds until a call of `size` bytes may leave, 0: now; None: once another has ended."""
        if now < self._paused_until:
            return self._paused_until - now
        most = 1 if self._strikes >= STRIKES_TO_PROBE else self._window
        if self.flying >= most:
            return None
        use = self._use(size)
        return max(
            (bucket.wait(now, use[name]) for name, bucket in self._buckets.items()), default=0.0
        )

    def sent(self, now: float, size: int) -> Ticket:
        """A call of `size` bytes leaves now."""
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
        """A message came, and used so many tokens of the limits."""
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
        """The API answered that this very request is no good: that says nothing of its state."""
        self._landed(ticket)
        self._strikes = 0
        self._learn(now, ticket, limits)

    def throttled(
        self, now: float, ticket: Ticket, retry_after: float | None, limits: RateLimits
    ) -> None:
        """HTTP 429: nobody of the account calls for a while."""
        self._narrow(now, ticket)
        self._learn(now, ticket, limits)
        pause = self._backoff() if retry_after is None else min(retry_after, LONGEST_PAUSE_SECONDS)
        # Spread, so that processes that share the account do not come back at the same moment.
        self._pause(now, pause * (1 + 0.1 * self.chance()))

    def overloaded(self, now: float, ticket: Ticket) -> None:
        """HTTP 529, or no connection at all: too many calls at once, whoever made them."""
        self._narrow(now, ticket)
        if self._strikes >= STRIKES_TO_PROBE:
            self._pause(now, self._backoff())

    def failed(self, now: float, ticket: Ticket) -> None:
        """A fault of the API's or a lost answer: one means nothing, many in a row an outage."""
        self._landed(ticket)
        self._strike(now, ticket)
        if self._strikes >= STRIKES_TO_PROBE:
            self._pause(now, self._backoff())

    def over(self, ticket: Ticket, limits: RateLimits) -> str | None:
        """The limit of a minute that a refused call is larger than by itself, or None."""
        for name, said in limits.items():
            if said.limit < ticket.use[name] and name != OUTPUT:
                return f"{said.limit:,.0f} {name.replace('-', ' ')} a minute"
        return None

    def abandoned(self, ticket: Ticket) -> None:
        """Nobody waits for the answer any more."""
        self._landed(ticket)

    def _use(self, size: int) -> dict[str, float]:
        return {REQUESTS: 1.0, INPUT: size * self._per_byte, OUTPUT: self._output}

    def _landed(self, ticket: Ticket) -> None:
        self.flying -= 1
        for name, amount in ticket.use.items():
            self._under_way[name] -= amount

    def _learn(self, now: float, ticket: Ticket, limits: RateLimits) -> None:
        """Take the headers' word where it contradicts the own count.

        What was left is said of a moment between the call and its answer, unknown which: the own
        count stands as long as it is possible for any of them. At least there is what was left
        without all that has left since, or may not have been counted then.
        """
        for name, said in limits.items():
            if said.limit <= 0:
                continue
            bucket = self._buckets.get(name)
            since = self._sent[name] - ticket.before[name]
            least = said.remaining - since - self._under_way[name]
            if bucket is None:
                self._buckets[name] = _Bucket(said.limit, least, now)
                # The buckets know now what the window was feeling for.
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
        """Count rounds without any answer: calls that were under way together are one."""
        if ticket.sent_at > self._last_strike:
            self._strikes += 1
            self._last_strike = now

    def _backoff(self) -> float:
        longest = FIRST_PAUSE_SECONDS * 2.0 ** min(self._strikes, 10)
        return min(longest, LONGEST_PAUSE_SECONDS) * (0.5 + 0.5 * self.chance())

    def _pause(self, now: float, seconds: float) -> None:
        self._paused_until = max(self._paused_until, now + seconds)
