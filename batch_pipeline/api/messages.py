"""The Messages endpoint for many small calls: aiohttp, and as little else as possible.

A call carries the head that the SDK would give it (`request_head`), and its failures are told as
those of the SDK's own calls are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.request import getproxies

import aiohttp
import httpx2

from batch_pipeline.api.failures import object_in, rate_limits, refusal
from batch_pipeline.api.protocol import Answer, ApiFailure
from batch_pipeline.api.request_head import RequestHead

# Without any connection nothing can have been sent. A kept one that the server has closed is not
# among these: what was written to it may have arrived.
_NEVER_ESTABLISHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)

LearnHead = Callable[[Sequence[str]], Awaitable[RequestHead]]


class AnthropicMessages:
    """`Messages` over an open session; `note` sees the headers of every answer, refusals too."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        learn_head: LearnHead,
        note: Callable[[Mapping[str, str]], None],
    ) -> None:
        self._session = session
        self._learn_head = learn_head
        self._note = note
        # By betas: declarations of several snapshots may be under way.
        self._heads: dict[tuple[str, ...], RequestHead] = {}
        self._learning = asyncio.Lock()

    async def create(self, params: bytes, betas: Sequence[str]) -> Answer:
        key = tuple(betas)
        head = self._heads.get(key) or await self._learned(key)
        try:
            async with self._session.post(
                head.url, data=params, headers=head.headers, timeout=head.timeout
            ) as response:
                content = await response.read()
        except _NEVER_ESTABLISHED as error:
            raise _lost(error, connected=False) from error
        except (aiohttp.ClientError, OSError) as error:
            # Time-outs are among these: what became of the request is open.
            raise _lost(error, connected=True) from error
        status, headers = response.status, response.headers
        self._note(headers)
        if not 200 <= status < 300:
            raise refusal(status, headers, content)
        return Answer(object_in(status, content), content, rate_limits(headers))

    async def _learned(self, betas: tuple[str, ...]) -> RequestHead:
        # The first calls come at once: one of them learns for all.
        async with self._learning:
            if betas not in self._heads:
                self._heads[betas] = await self._learn_head(betas)
            return self._heads[betas]


def open_session(connections: int) -> aiohttp.ClientSession:
    """A session whose pool has exactly this size: each connection is kept for the next call."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, ssl=httpx2.create_ssl_context()),
        cookie_jar=aiohttp.DummyCookieJar(),
        # It costs a look into ~/.netrc for each call, in another thread.
        trust_env=bool(getproxies()),
    )


def _lost(error: Exception, *, connected: bool) -> ApiFailure:
    message = f"{type(error).__name__}: {error}"
    return ApiFailure(None, None, None, message, connected=connected)
