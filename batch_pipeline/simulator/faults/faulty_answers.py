"""Makes faulty answers: error bodies, and bodies that are cut, slow or damaged.

`schedule` decides which call gets which.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import anyio
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from batch_pipeline.simulator.answers.source_text import Dice
from batch_pipeline.simulator.connection import drop_connection
from batch_pipeline.simulator.faults.kinds import CutResults, ErrorAnswer, Lines, Page
from batch_pipeline.simulator.responses import error_response
from batch_pipeline.simulator.wire import ApiError

Reshape = Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]

_GATEWAY_PAGE = (
    "<html><head><title>{status}</title></head>"
    "<body><center><h1>{status}</h1></center><hr><center>gateway</center></body></html>"
)


def refusal(request: Request, error: ErrorAnswer) -> Response:
    """An answer with the API's error body, or with a gateway's page."""
    wait = error.retry_after
    headers = (
        {} if wait is None else {"retry-after": wait if isinstance(wait, str) else f"{wait:g}"}
    )
    if error.html:
        return HTMLResponse(_GATEWAY_PAGE.format(status=error.status), error.status, headers)
    details = None if error.error_code is None else {"error_code": error.error_code}
    problem = ApiError(error.status, error.type, error.message, headers, details)
    return error_response(request, problem)


def page(fault: Page) -> Response:
    headers = {"connection": "close"} if fault.early else None
    return Response(fault.body, fault.status, headers, fault.content_type)


class NoAnswer(Response):
    """The end of the connection, in place of an answer."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__()
        self._reset = reset

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        await drop_connection(scope, reset=self._reset)


class Reshaped(Response):
    """An answer with its own status and headers, and a body changed by `reshape`.

    With `dropped` the connection is closed after the body, without the final chunk.
    """

    def __init__(self, answer: Response, reshape: Reshape, *, dropped: bool = False) -> None:
        super().__init__(status_code=answer.status_code)
        self._body = reshape(_body_of(answer))
        self._dropped = dropped
        # Only a dropped connection may break the announced length.
        self.raw_headers = [
            (name, value)
            for name, value in answer.raw_headers
            if dropped or name != b"content-length"
        ]

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        await send({
            "type": "http.response.start", "status": self.status_code, "headers": self.raw_headers,
        })  # fmt: skip
        async for piece in self._body:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if self._dropped:
            await drop_connection(scope)
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _body_of(answer: Response) -> AsyncIterator[bytes]:
    if isinstance(answer, StreamingResponse):
        async for piece in answer.body_iterator:
            yield piece.encode() if isinstance(piece, str) else bytes(piece)
    else:
        yield bytes(answer.body)


async def halved(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    whole = b"".join([piece async for piece in body])
    yield whole[: len(whole) // 2]


async def garbled(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for _ in body:  # read to the end, so that its file is closed
        pass
    yield b"\x1f\x8b upstream said something, and this is not it"


def slowly(chunk_bytes: int, pause: float) -> Reshape:
    async def reshape(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in body:
            for start in range(0, len(piece), chunk_bytes):
                await anyio.sleep(pause)
                yield piece[start : start + chunk_bytes]

    return reshape


def cut_off(cut: CutResults, total: int) -> Reshape:
    """Result lines up to the cut; `total` is the number of all lines."""
    whole = total // 2 if cut.lines is None else cut.lines

    async def reshape(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        position = 0
        async for line in _lines(body):
            if position == whole:
                if cut.at == "mid_line":
                    yield line[: len(line) // 2]
                return
            yield line
            position += 1

    return reshape


def spoilt(fault: Lines, total: int, seed: int) -> Reshape:
    """Result lines of which some are broken, some missing, and some repeated at the end."""
    order = list(range(total))
    Dice(seed).shuffle(order)
    broken = set(order[: fault.broken])
    missing = set(order[fault.broken : fault.broken + fault.missing])
    kept = order[fault.broken + fault.missing :]
    duplicated = set(kept[: fault.duplicated])

    async def reshape(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        again: list[bytes] = []
        position = 0
        async for line in _lines(body):
            if position in duplicated:
                again.append(line)
            if position in broken:
                yield line[: len(line) // 2] + b"\n"
            elif position not in missing:
                yield line
            position += 1
        for line in again:
            yield line

    return reshape


async def _lines(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in body:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest


def read_slowly(request: Request, pause: float) -> Request:
    """The request with a wait before each piece of its body, which makes its sender wait."""
    receive = request.receive

    async def slow() -> Message:
        await anyio.sleep(pause)
        return await receive()

    return Request(request.scope, slow)
