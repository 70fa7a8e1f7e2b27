"""The rate limits of real-time messages: requests, input and output tokens a minute.

They are token buckets, as in the API's documentation: a bucket holds at most the limit of one
minute and is refilled continuously. A request and its input tokens are taken when the request
arrives, its output tokens when it is answered, so that their bucket may become negative.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from batch_pipeline.simulator.wire import ApiError

# The API rounds remaining tokens to thousands.
_ROUND_TOKENS = 1_000


@dataclass(frozen=True)
class MessageLimits:
    """Limits of real-time messages a minute; None: no limit, and no header."""

    requests: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Bucket:
    def __init__(self, name: str, limit: int, clock: Callable[[], float]) -> None:
        self.name, self.limit = name, limit
        self._clock = clock
        self._level = float(limit)
        self._at = clock()

    def level(self) -> float:
        now = self._clock()
        refilled = self._level + self.limit / 60.0 * (now - self._at)
        self._level, self._at = min(float(self.limit), refilled), now
        return self._level

    def take(self, amount: float) -> None:
        self._level -= amount

    def seconds_until(self, amount: float) -> float:
        return max(0.0, amount - self.level()) / (self.limit / 60.0)

    def headers(self) -> dict[str, str]:
        left = max(0.0, self.level())
        if self.name != "requests" and self.limit >= 10 * _ROUND_TOKENS:
            left = round(left, -3)
        whole = datetime.now(UTC) + timedelta(seconds=self.seconds_until(self.limit))
        start = f"anthropic-ratelimit-{self.name}"
        return {
            f"{start}-limit": str(self.limit),
            f"{start}-remaining": str(int(left)),
            f"{start}-reset": whole.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


class RateLimiter:
    """An organisation's buckets; safe for many threads."""

    def __init__(self, limits: MessageLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self.replace(limits)

    def replace(self, limits: MessageLimits) -> None:
        """Set these limits, with full buckets."""
        with self._lock:
            declared = {
                "requests": limits.requests,
                "input-tokens": limits.input_tokens,
                "output-tokens": limits.output_tokens,
            }
            self._buckets = {
                name: _Bucket(name, limit, self._clock)
                for name, limit in declared.items()
                if limit is not None
            }

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return bool(self._buckets)

    def admit(self, input_tokens: int) -> None:
        """Count a request. Errors: `ApiError` 429 with `retry-after` if a bucket is too empty."""
        with self._lock:
            # The length of the output is not known yet; one token has to be left.
            wanted = {"requests": 1.0, "input-tokens": float(input_tokens), "output-tokens": 1.0}
            for name, bucket in self._buckets.items():
                wait = bucket.seconds_until(wanted[name])
                if wait > 0:
                    raise self._refusal(bucket, wait)
            for name, bucket in self._buckets.items():
                if name != "output-tokens":
                    bucket.take(wanted[name])

    def spend(self, output_tokens: int) -> None:
        """Count the output tokens of an answer."""
        with self._lock:
            if "output-tokens" in self._buckets:
                self._buckets["output-tokens"].take(output_tokens)

    def headers(self) -> dict[str, str]:
        """The `anthropic-ratelimit-*` headers of this moment."""
        with self._lock:
            return self._headers()

    def _headers(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for bucket in self._buckets.values():
            found |= bucket.headers()
        return found

    def _refusal(self, bucket: _Bucket, wait: float) -> ApiError:
        message = (
            f"This request would exceed your organization's rate limit of {bucket.limit:,} "
            f"{bucket.name.replace('-', ' ')} per minute"
        )
        headers = {"retry-after": str(max(1, round(wait))), **self._headers()}
        return ApiError(429, "rate_limit_error", message, headers)


class RateLimiters:
    """The buckets of all organisations: each has its own."""

    def __init__(self, limits: MessageLimits) -> None:
        self._limits = limits
        self._own: dict[str, MessageLimits] = {}
        self._lock = threading.Lock()
        self._limiters: dict[str, RateLimiter] = {}

    def of(self, organisation: str) -> RateLimiter:
        limiter = self._limiters.get(organisation)
        if limiter is None:
            with self._lock:
                limits = self._own.get(organisation, self._limits)
                limiter = self._limiters.setdefault(organisation, RateLimiter(limits))
        return limiter

    def replace(self, limits: MessageLimits, organisation: str | None = None) -> None:
        """Set the limits of an organisation, or (None) of all that have none of their own.

        All buckets are full then.
        """
        with self._lock:
            if organisation is None:
                self._limits = limits
            else:
                self._own[organisation] = limits
            self._limiters = {}
