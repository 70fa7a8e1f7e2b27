"""The Messages endpoint for thousands of small calls, sent by aiohttp under headers of the SDK's.

The SDK alone needs more processor time to put a call together than a real-time night needs for
everything else (docs/decisions/013). Calls of one declaration differ in their bodies only, so the
SDK makes the rest of a request once every `HEAD_SECONDS`, and each call is sent with that.
"""

from __future__ import annotations

import asyncio
import codecs
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.request import getproxies

import aiohttp
import anthropic
import httpx2

from batch_pipeline import telemetry
from batch_pipeline.api import tls
from batch_pipeline.api.failures import (
    JSON_BODY,
    betas_header,
    failures,
    json_in,
    rate_limits,
    refusal,
    said,
)
from batch_pipeline.api.protocol import Answer, ApiFailure, Streamed

MESSAGES = "/v1/messages"
UNAUTHORIZED = 401
# The SDK renews a token at the latest 30 seconds before it expires; a token copied within that
# time is still good when a call with it leaves.
HEAD_SECONDS = 20.0
# Headers that describe the body or the connection: aiohttp writes its own.
_OF_THE_CONNECTION = frozenset({"accept-encoding", "connection", "content-length", "host"})
# Errors before a connection exists, so that nothing can have been sent. A kept connection that the
# server has closed is not among them: a request written to it may have arrived.
_NEVER_ESTABLISHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


@dataclass(frozen=True)
class RequestHead:
    """Everything of a Messages request but its body: URL, headers, time-outs."""

    url: str
    headers: Mapping[str, str]
    timeout: aiohttp.ClientTimeout
    made_at: float


class SdkHeads(httpx2.AsyncBaseTransport):
    """The SDK's client over a transport that sends nothing: it shows what the SDK would send.

    Key, base URL, versions, time-outs and custom headers stay the SDK's business, and so does the
    renewal of tokens that expire during a night.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._seen: httpx2.Request | None = None
        self._refuses = False
        # By betas: declarations of several snapshots may be under way.
        self._heads: dict[tuple[str, ...], RequestHead] = {}
        self._making = asyncio.Lock()
        self.client = anthropic.AsyncAnthropic(
            **arguments,
            # For `renewed` alone: no other request is ever answered with an error here.
            max_retries=1,
            # Its header names one call; a copied header would give all calls that name.
            open_telemetry=False,
            http_client=httpx2.AsyncClient(transport=self, trust_env=False),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self._seen = request
        if self._refuses:
            self._refuses = False
            return httpx2.Response(401, headers={"retry-after-ms": "1"})
        return httpx2.Response(200)

    async def head(self, betas: Sequence[str]) -> RequestHead:
        """The head of a call that leaves now. May raise `ApiFailure` where a token is renewed."""
        key = tuple(betas)
        found = self._heads.get(key)
        if found is None or time.monotonic() - found.made_at > HEAD_SECONDS:
            # Calls come together: the first one makes the head for those that wait here.
            async with self._making:
                if self._heads.get(key) is found:
                    self._heads[key] = await self._make(key)
            found = self._heads[key]
        return found

    async def renewed(self, betas: Sequence[str], refused: RequestHead) -> RequestHead | None:
        """A head with another access token than one that the API refused; None for a key.

        May raise `ApiFailure` where no token can be had.
        """
        if self.client.credentials is None:
            return None
        key = tuple(betas)
        async with self._making:
            # Calls are refused together: the first one has the token renewed for all.
            if self._heads.get(key) is refused:
                self._heads.clear()
                self._refuses = True
                await self._make(key)
        return await self.head(betas)

    async def _make(self, betas: tuple[str, ...]) -> RequestHead:
        made_at = time.monotonic()
        with failures():
            await self.client.post(
                MESSAGES,
                content=b"{}",
                cast_to=httpx2.Response,
                options={"headers": JSON_BODY | betas_header(betas)},
            )
        request = self._seen
        assert request is not None
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in _OF_THE_CONNECTION
        }
        timeout = httpx2.Timeout(**request.extensions["timeout"])
        return RequestHead(
            str(request.url),
            headers,
            aiohttp.ClientTimeout(
                connect=timeout.pool, sock_connect=timeout.connect, sock_read=timeout.read
            ),
            made_at,
        )


class AnthropicMessages:
    """`Messages` over an open session; `note` is given the headers of every answer and refusal."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        heads: SdkHeads,
        note: Callable[[Mapping[str, str]], None],
    ) -> None:
        self._session = session
        self._heads = heads
        self._note = note

    async def create(self, params: bytes | Streamed, betas: Sequence[str]) -> Answer:
        with telemetry.span("api.create_message"):
            return await self._create(params, betas)

    async def _create(self, params: bytes | Streamed, betas: Sequence[str]) -> Answer:
        head = await self._heads.head(betas)
        status, headers, content = await self._post(head, params)
        if status == UNAUTHORIZED:
            renewed = await self._heads.renewed(betas, head)
            if renewed is not None:
                status, headers, content = await self._post(renewed, params)
        if not 200 <= status < 300:
            raise refusal(status, headers, content)
        found = json_in(status, headers, content)
        # A value of another shape may have been billed: it is judged, and not asked for again.
        message = found if isinstance(found, dict) else {}
        if message.get("type") == "error":
            # A gateway may hand the API's error on under a status of its own.
            raise refusal(status, headers, content)
        return Answer(message, content.removeprefix(codecs.BOM_UTF8), rate_limits(headers))

    async def _post(
        self, head: RequestHead, params: bytes | Streamed
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the answer to one call."""
        data: bytes | AsyncIterator[bytes]
        headers = head.headers
        broken: list[Exception] = []
        if isinstance(params, Streamed):
            headers = {**headers, "Content-Length": str(params.length)}
            data = _pieces(params, broken)
        else:
            data = params
        try:
            async with self._session.post(
                head.url,
                data=data,
                headers=headers,
                timeout=head.timeout,
                # The body is a document of the user's and must not go to another address.
                allow_redirects=False,
            ) as response:
                content = await response.read()
        except _NEVER_ESTABLISHED as error:
            raise _lost(error, connected=False) from None
        except (aiohttp.ClientError, OSError) as error:
            # Time-outs are among these: what became of the request is open.
            raise broken[0] if broken else _lost(error, connected=True) from None
        self._note(response.headers)
        return response.status, response.headers, content


async def _pieces(body: Streamed, broken: list[Exception]) -> AsyncIterator[bytes]:
    """The pieces of a body; an error of making them, which the connection would hide, is kept."""
    pieces = body.pieces()
    try:
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece
    except Exception as error:
        broken.append(error)
        raise


@asynccontextmanager
async def open_messages(
    connections: int,
    note: Callable[[Mapping[str, str]], None],
    arguments: Mapping[str, Any],
) -> AsyncIterator[AnthropicMessages]:
    """`AnthropicMessages` over up to `connections` kept connections; a call beyond them waits.

    `arguments` are those of the SDK's client: base URL and credential.
    """
    heads = SdkHeads(arguments)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, ssl=tls.context()),
        cookie_jar=aiohttp.DummyCookieJar(),
        # For the proxies alone: it looks into ~/.netrc for each call, in another thread.
        trust_env=bool(getproxies()),
    )
    async with heads.client, session:
        yield AnthropicMessages(session, heads, note)


def _lost(error: Exception, *, connected: bool) -> ApiFailure:
    return ApiFailure(None, None, None, said(error), connected=connected)
