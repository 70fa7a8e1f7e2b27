"""What the flow asks of the API, as plain values; adapters implement it.

The adapter reports what happened on the wire and decides nothing: what an answer means, and whether
it may be repeated, is the flow's to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class BatchInfo:
    """A batch as the API describes it; times in seconds since the epoch."""

    id: str
    processing_status: str
    counts: Mapping[str, int]
    created_at: float
    expires_at: float | None
    ended_at: float | None
    archived: bool

    @property
    def ended(self) -> bool:
        return self.processing_status == "ended"

    @property
    def requests(self) -> int:
        """All requests of the batch: the sum of the five counts, before and after its end."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class RateLimit:
    """One of an account's limits as the headers of an answer gave it: so much a minute, and what
    is left of it."""

    limit: float
    remaining: float


# By what is limited: `requests`, `input-tokens`, `output-tokens`; what a header lacked is left out.
RateLimits = Mapping[str, RateLimit]


@dataclass(frozen=True)
class Answer:
    """A message, the bytes that it came as, and the rate limits that its headers named."""

    message: dict[str, Any]
    raw: bytes
    limits: RateLimits


# Not frozen: Python itself writes an exception's traceback on its way through context managers.
@dataclass(eq=False)
class ApiFailure(Exception):
    """A call that did not end in a usable 2xx.

    `status` is None where no HTTP answer arrived. `connected` is False only where the connection
    was never established, so that nothing can have reached the API. `error_type`, `error_code`,
    `retry_after` (seconds) and `limits` are what an API error body and its headers said.
    """

    status: int | None
    error_type: str | None
    error_code: str | None
    message: str
    retry_after: float | None = None
    connected: bool = True
    limits: RateLimits = field(default_factory=dict)

    def __str__(self) -> str:
        status = f"HTTP {self.status}" if self.status is not None else "no answer"
        kind = f" {self.error_type}" if self.error_type else ""
        return f"{status}{kind}: {self.message}"


class Messages(Protocol):
    """The Messages endpoint, for many calls at once from one event loop."""

    async def create(self, params: bytes, betas: Sequence[str]) -> Answer:
        """One call with a JSON body, once: no retry of any kind. May raise `ApiFailure`."""
        ...


class Api(Protocol):
    """The Message Batches and Messages endpoints under one account.

    Each call may raise `ApiFailure`.
    """

    @property
    def simulated(self) -> bool:
        """Whether a simulator answers, by its own word in a response header."""
        ...

    def create_batch(self, body: Iterator[bytes], length: int, betas: Sequence[str]) -> BatchInfo:
        """Send a create body of exactly `length` bytes, once: no retry of any kind."""
        ...

    def retrieve_batch(self, batch_id: str) -> BatchInfo: ...

    def list_batches(self, after_id: str | None, limit: int) -> tuple[list[BatchInfo], bool]:
        """One page, newest first, and whether there are more."""
        ...

    def cancel_batch(self, batch_id: str) -> BatchInfo: ...

    def stream_results(self, batch_id: str) -> AbstractContextManager[Iterator[bytes]]:
        """The result lines' bytes as they come; a break in mid-stream raises `ApiFailure`."""
        ...

    def count_tokens(self, params: bytes, betas: Sequence[str]) -> int:
        """Prompt tokens of Messages parameters; sends no message and costs nothing."""
        ...

    def open_messages(self, concurrency: int) -> AbstractAsyncContextManager[Messages]:
        """Connections for so many Messages calls at once; a call beyond them waits for one."""
        ...
