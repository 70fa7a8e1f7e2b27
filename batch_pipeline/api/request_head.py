"""What the SDK sends with a Messages call besides its body, learned from the SDK itself.

Thousands of calls differ in their bodies alone, and what the SDK does to put each together costs
more processor time than sending it. So it does that once, over a transport that only looks, and
whatever it made of key, base URL and environment is sent along with every call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import anthropic
import httpx2
from multidict import CIMultiDict
from yarl import URL

from batch_pipeline.api.failures import JSON_BODY, betas_header

MESSAGES = "/v1/messages"
# What the connection's own client says: they tell of the body, the connection and what it unpacks.
_OF_THE_CLIENT = frozenset({"accept-encoding", "connection", "content-length", "host"})


@dataclass(frozen=True)
class RequestHead:
    """Where a call goes, with which headers, and how long it may take."""

    url: URL
    headers: CIMultiDict[str]
    timeout: aiohttp.ClientTimeout


async def learn_head(
    base_url: str | None, api_key: str | None, betas: Sequence[str]
) -> RequestHead:
    """The head of a call with these betas; nothing is sent."""
    seen: list[httpx2.Request] = []

    def look(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200)

    async with anthropic.AsyncAnthropic(
        base_url=base_url,
        api_key=api_key,
        # An answer that was lost was billed: repeating is the flow's decision.
        max_retries=0,
        # Its header names one call, and would name all of them.
        open_telemetry=False,
        http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(look), trust_env=False),
    ) as client:
        await client.post(
            MESSAGES,
            content=b"{}",
            cast_to=httpx2.Response,
            options={"headers": JSON_BODY | betas_header(betas)},
        )
    [request] = seen
    headers = CIMultiDict(
        (name, value)
        for name, value in request.headers.multi_items()
        if name.lower() not in _OF_THE_CLIENT
    )
    timeout = httpx2.Timeout(**request.extensions["timeout"])
    return RequestHead(
        URL(str(request.url), encoded=True),
        headers,
        aiohttp.ClientTimeout(
            connect=timeout.pool, sock_connect=timeout.connect, sock_read=timeout.read
        ),
    )
