"""The HTTP client beneath the SDK for many small calls: aiohttp, and as little else as possible.

The SDK takes any `httpx2.AsyncClient`. What its own do beside sending (merging headers and URLs,
cookies, hooks, reading the answer in pieces) costs more processor time than the call itself; this
one hands a request to aiohttp and the answer back. It serves POST requests with a body of bytes.
"""

from __future__ import annotations

from typing import Any
from urllib.request import getproxies

import aiohttp
import httpx2

# Without any connection nothing can have been sent. A kept one that the server has closed is not
# among these: what was written to it may have arrived.
_NEVER_ESTABLISHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


class CallClient(httpx2.AsyncClient):
    """Sends over a session of aiohttp, which is opened and closed by whoever made it."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        # Its own transport is never used, and need not look for certificates and proxies.
        super().__init__(verify=False, trust_env=False)
        self._session = session

    def build_request(  # type: ignore[override]  # what the SDK gives for a body of bytes
        self,
        method: str,
        url: httpx2.URL,
        *,
        headers: httpx2.Headers,
        content: bytes,
        timeout: httpx2.Timeout | float | None,
        **_: Any,
    ) -> httpx2.Request:
        return httpx2.Request(
            method, url, headers=headers, content=content, extensions={"timeout": timeout}
        )

    async def send(self, request: httpx2.Request, **_: Any) -> httpx2.Response:
        """Raises `httpx2.ConnectError` where no connection came about; any other error leaves open
        what became of the request."""
        timeout = httpx2.Timeout(request.extensions["timeout"])
        try:
            async with self._session.request(
                request.method,
                str(request.url),
                headers=request.headers.multi_items(),
                data=request.content,
                timeout=aiohttp.ClientTimeout(
                    connect=timeout.pool, sock_connect=timeout.connect, sock_read=timeout.read
                ),
            ) as answer:
                content = await answer.read()
        except _NEVER_ESTABLISHED as error:
            raise httpx2.ConnectError(str(error), request=request) from error
        except TimeoutError as error:
            raise httpx2.ReadTimeout(str(error), request=request) from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx2.ReadError(str(error), request=request) from error
        return httpx2.Response(
            answer.status, headers=answer.raw_headers, content=content, request=request
        )


def open_session(connections: int) -> aiohttp.ClientSession:
    """A session whose pool has exactly this size: each connection is kept for the next call."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, ssl=httpx2.create_ssl_context()),
        # What is packed is unpacked by the response that the SDK gets.
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        # It costs a look into ~/.netrc for each call, in another thread.
        trust_env=bool(getproxies()),
    )
