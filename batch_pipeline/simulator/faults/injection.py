"""Injects faults around the handlers: each call suffers the fault that the schedule has for it.

`schedule` decides which call suffers which fault, `faulty_answers` makes the faulty answers; this
module applies them and counts the faults that happened in the books.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.simulator.batches.store import BatchStore
from batch_pipeline.simulator.books.books import Books
from batch_pipeline.simulator.connection import not_taken
from batch_pipeline.simulator.faults.declaration import Endpoint
from batch_pipeline.simulator.faults.faulty_answers import (
    NoAnswer,
    Reshaped,
    cut_off,
    garbled,
    halved,
    page,
    read_slowly,
    refusal,
    slowly,
    spoilt,
)
from batch_pipeline.simulator.faults.foreign import requests_in
from batch_pipeline.simulator.faults.kinds import (
    AnyFault,
    Billing,
    Cut,
    CutResults,
    Drop,
    Error,
    Lines,
    Normal,
    Page,
    QueueFull,
    RevokedKey,
    Slow,
    SpendLimit,
    Unreadable,
)
from batch_pipeline.simulator.faults.schedule import FaultSchedule
from batch_pipeline.simulator.faults.visibility import HiddenError
from batch_pipeline.simulator.wire import api_key_of
from batch_pipeline.simulator.workspaces import workspace_of

Handler = Callable[[Request], Awaitable[Response]]


class FaultInjection:
    """Wraps handlers so that declared faults happen to their calls."""

    def __init__(self, schedule: FaultSchedule, store: BatchStore, books: Books) -> None:
        self._schedule, self._store, self._books = schedule, store, books

    def around(self, endpoint: Endpoint, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            if self._schedule.is_faultless(endpoint):
                return await handler(request)
            batch_id = request.path_params.get("batch_id", "")
            key = api_key_of(request.headers)
            fault = self._schedule.next_fault(endpoint, key=key, batch_id=batch_id)
            try:
                return await with_waits(request, fault)
            except HiddenError:
                self._schedule.give_back(endpoint, batch_id)
                raise

        async def with_waits(request: Request, fault: AnyFault | None) -> Response:
            if fault is None:
                return await handler(request)
            if fault.read_pause:
                self._books.count_fault(f"{endpoint}.slow_upload")
                request = read_slowly(request, fault.read_pause)
            if fault.delay_before:
                self._books.count_fault(f"{endpoint}.delay_before")
                await request.body()  # kept in the request: the handler needs no client any more
                await anyio.sleep(fault.delay_before)
            answer = await self._answer(endpoint, fault, handler, request)
            if fault.delay_after:
                self._books.count_fault(f"{endpoint}.delay_after")
                await anyio.sleep(fault.delay_after)
            return answer

        return guarded

    async def _answer(
        self, endpoint: Endpoint, fault: AnyFault, handler: Handler, request: Request
    ) -> Response:
        match fault:
            case Drop(when="at_once"):
                answer: Response = NoAnswer(reset=fault.reset)
            case Drop(when="before"):
                await self._read_unprocessed(endpoint, request)
                answer = NoAnswer(reset=fault.reset)
            case Page(accepted=False):
                if not fault.early:
                    await self._read_unprocessed(endpoint, request)
                answer = page(fault)
            case Error(accepted=False) | QueueFull() | SpendLimit() | RevokedKey() | Billing():
                await self._read_unprocessed(endpoint, request)
                answer = refusal(request, fault.answer())
            case _:
                # If the handler raises a refusal, that is the answer, without the fault.
                answer = self._changed(fault, await handler(request), request)
        if not isinstance(fault, Normal):
            self._books.count_fault(f"{endpoint}.{fault.label}")
        return answer

    def _changed(self, fault: AnyFault, truth: Response, request: Request) -> Response:
        """The answer that is sent in place of `truth`, the handler's."""
        sent = truth
        match fault:
            case Drop():
                sent = NoAnswer(reset=fault.reset)
            case Error():
                not_taken(request.scope)
                sent = refusal(request, fault.answer())
            case Page():
                not_taken(request.scope)
                sent = page(fault)
            case Unreadable():
                not_taken(request.scope)
                sent = Reshaped(truth, garbled)
            case Cut():
                not_taken(request.scope)
                sent = Reshaped(truth, halved, dropped=fault.end == "dropped")
            case CutResults():
                reshape = cut_off(fault, self._lines(request))
                sent = Reshaped(truth, reshape, dropped=fault.end == "dropped")
            case Lines():
                sent = Reshaped(truth, spoilt(fault, self._lines(request), self._schedule.seed))
            case Slow():
                sent = Reshaped(truth, slowly(fault.chunk_bytes, fault.pause))
        return sent

    def _lines(self, request: Request) -> int:
        return self._store.get(request.path_params["batch_id"]).total

    async def _read_unprocessed(self, endpoint: Endpoint, request: Request) -> None:
        """Read a body that the handler does not get; other tenants create their batches anyway."""
        body = await request.body()
        if endpoint == "create":
            whose = workspace_of(request.headers)
            for due in self._schedule.foreign_batches_of_next_create():
                if due and (ours := requests_in(body)):
                    await run_sync(self._store.create_foreign_like, ours, whose)
