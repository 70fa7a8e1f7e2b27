"""A server connection that can be cut: what no HTTP framework offers, and a network does."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_EXTENSION = "simulator.drop"
# Linger for 0 seconds: closing throws away what is unsent and sends a reset.
_LINGER_NOT = struct.pack("ii", 1, 0)


class CuttableProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which hands its requests a way to end their connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as there
        super().connection_made(transport)
        self._lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lost.set()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: self._drop}  # type: ignore[dict-item]  # ours

    async def _drop(self, reset: bool) -> None:
        if reset:
            transport_socket = self.transport.get_extra_info("socket")
            transport_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self.transport.abort()
        else:
            self.transport.close()  # sends what was written, then ends
        await self._lost.wait()


async def drop_connection(scope: Scope, *, reset: bool = False) -> None:
    """End the connection of a request; what is sent after that goes nowhere."""
    drop: Callable[[bool], Awaitable[None]] = scope["extensions"][_EXTENSION]
    await drop(reset)
