"""The layer around all routes: checks the host of each request, and names the simulator in each
answer."""

from __future__ import annotations

import ipaddress
import re

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batch_pipeline.simulator.responses import error_response
from batch_pipeline.simulator.wire import SIMULATOR_HEADER, ApiError, new_id

# Host headers that are remembered as local, so that each is parsed once.
_MOST_HOSTS = 20


class NameEveryResponse:
    """Middleware that puts the simulator's header and a request id on every response.

    A request for another host is refused: a web page whose name is made to lead to this machine
    (DNS rebinding) could read documents and books with a visitor's browser.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._local: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        extra = [(SIMULATOR_HEADER.encode(), b"1"), (b"request-id", request_id.encode())]

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        for name, value in scope["headers"]:
            if name == b"host" and value not in self._local and not self._is_local(value):
                refused = ApiError(403, "permission_error", "Host: only the names of this machine")
                await error_response(Request(scope), refused)(scope, receive, send_named)
                return
        await self._app(scope, receive, send_named)

    def _is_local(self, host: bytes) -> bool:
        local = _names_this_machine(host.decode("latin-1"))
        if local and len(self._local) < _MOST_HOSTS:
            self._local.add(host)
        return local


def _names_this_machine(host: str) -> bool:
    """Whether a Host header names this machine itself, with or without a port."""
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
    name = name.strip("[]").rstrip(".").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
