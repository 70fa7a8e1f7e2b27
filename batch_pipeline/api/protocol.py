"""The API as the flow sees it: protocols that an adapter implements, and their plain values.

An adapter reports what happened and decides nothing: what an answer means, and whether a call may
be repeated, is decided in the flow.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from datetime import date
from typing import Any, NoReturn, Protocol

import orjson

from batch_pipeline import safe_text


@dataclass(frozen=True)
class BatchInfo:
    """A batch as the API describes it; times in seconds since the epoch by the API's clock.

    Only the id is certain. What cannot be read is None, empty, or missing in `counts`.
    """

    id: str
    processing_status: str
    counts: Mapping[str, int]
    created_at: float | None
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
class BatchPage:
    """One page of the API's list, newest first.

    `odd` has an entry for each listed thing without a readable id: the number of `batches` before
    it. `more` is None where the API does not say whether there are more; `after` is the id to go on
    after, None where no entry has one.
    """

    batches: Sequence[BatchInfo]
    more: bool | None
    after: str | None
    odd: Sequence[int] = ()


@dataclass(frozen=True)
class ModelInfo:
    """A model as the API describes it; what it does not say is None.

    `lifecycle` is `active`, `deprecated` or `retired`; `max_tokens` is the most that it writes.
    """

    id: str
    lifecycle: str | None
    retires: date | None
    max_tokens: int | None
    capabilities: Mapping[str, Any]

    def supports(self, capability: str) -> bool | None:
        """Whether the model has a capability such as `thinking.types.disabled`; None: not said."""
        found: object = self.capabilities
        for name in capability.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        said = found.get("supported") if isinstance(found, Mapping) else None
        return said if isinstance(said, bool) else None


@dataclass(frozen=True)
class RateLimit:
    """A rate limit a minute and what is left of it, as the headers of an answer name them."""

    limit: float
    remaining: float


# Keys: `requests`, `input-tokens`, `output-tokens`. Limits that no header names are missing.
RateLimits = Mapping[str, RateLimit]


@dataclass(frozen=True)
class Answer:
    """A message as parsed and as received, and the rate limits that its headers name."""

    message: dict[str, Any]
    raw: bytes
    limits: RateLimits


# Not frozen: Python itself writes an exception's traceback on its way through context managers.
@dataclass(eq=False)
class ApiFailure(Exception):
    """A call that did not end in a usable 2xx.

    `status` is None where no HTTP answer arrived. `connected` is False only where the connection
    was never established, so that the API cannot have received the request. `error_type`,
    `error_code`, `retry_after` (seconds) and `limits` come from the API's error body and headers.
    Of an answer that is not the API's, such as a gateway's page, there is no `error_type`, but its
    `content_type`; `message` is its beginning then.
    """

    status: int | None
    error_type: str | None
    error_code: str | None
    message: str
    retry_after: float | None = None
    connected: bool = True
    limits: RateLimits = field(default_factory=dict)
    content_type: str | None = None

    def __str__(self) -> str:
        status = f"HTTP {self.status}" if self.status is not None else "no answer"
        kind = f" {self.error_type}" if self.error_type else ""
        if self.error_code is not None:
            kind += f" ({self.error_code})"
        if self.content_type is not None:
            kind = f" ({self.content_type})"
        return safe_text.one_line(f"{status}{kind}: {self.message}")


def read_json(content: bytes) -> Any:
    """The JSON value that the API sent; raises ValueError, or RecursionError.

    What orjson refuses is read where it is JSON nevertheless: after a byte order mark, with numbers
    that no float holds, with halves of surrogate pairs, which become U+FFFD.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        value = json.loads(
            content.decode("utf-8-sig"), parse_constant=_refuse_constant, parse_int=_whole_number
        )
        text = json.dumps(value, ensure_ascii=False)
        return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _whole_number(digits: str) -> int | float:
    # Python refuses to read thousands of digits.
    return int(digits) if len(digits) < 300 else math.inf


@dataclass(frozen=True)
class Streamed:
    """A JSON body of this length in bytes that is made while it is sent; `pieces` makes it anew for
    each call, in a thread. An error there leaves the body incomplete."""

    length: int
    pieces: Callable[[], Iterator[bytes]]


class Messages(Protocol):
    """The Messages endpoint, for many calls at once from one event loop."""

    async def create(self, params: bytes | Streamed, betas: Sequence[str]) -> Answer:
        """Make one call with a JSON body, without any retry. May raise `ApiFailure`, and what
        making the body raises."""
        ...


class Api(Protocol):
    """The Message Batches and Messages endpoints under one account.

    Each call may raise `ApiFailure`.
    """

    @property
    def simulated(self) -> bool:
        """Whether a simulator answers, which a response header tells."""
        ...

    @property
    def organisation(self) -> str | None:
        """The id of the key's organisation, as the last answer named it; None: no answer has."""
        ...

    @property
    def workspace(self) -> str | None:
        """The workspace of the key, as the last answer named it; None: no answer has."""
        ...

    def create_batch(self, body: Iterator[bytes], length: int, betas: Sequence[str]) -> BatchInfo:
        """Send a create body of exactly `length` bytes, without any retry."""
        ...

    def retrieve_batch(self, batch_id: str) -> BatchInfo: ...

    def list_batches(self, after_id: str | None, limit: int) -> BatchPage:
        """One page, its entries judged one by one."""
        ...

    def cancel_batch(self, batch_id: str) -> BatchInfo: ...

    def stream_results(self, batch_id: str) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes of the result lines in chunks; a broken stream raises `ApiFailure`."""
        ...

    def count_tokens(self, params: bytes, betas: Sequence[str]) -> int:
        """Prompt tokens of Messages parameters; the endpoint is free of charge."""
        ...

    def models(self) -> Mapping[str, ModelInfo]:
        """The models that the API offers to this account, by id; aliases are not among them."""
        ...

    def model(self, model_id: str) -> ModelInfo | None:
        """One model by its id or an alias; None if the API has none of that name."""
        ...

    def open_messages(self, concurrency: int) -> AbstractAsyncContextManager[Messages]:
        """Up to `concurrency` connections for Messages calls; a call beyond them waits."""
        ...
