"""The HTTP interface: routes and handlers around the batch store.

Rules about batches and messages are in `checking` and `batches`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any

import orjson
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from batch_pipeline.simulator.admin import AdminEndpoints
from batch_pipeline.simulator.answers.prompt_cache import Work
from batch_pipeline.simulator.answers.tokens import count_input
from batch_pipeline.simulator.batches.batch import Batch
from batch_pipeline.simulator.batches.settlement import Responder
from batch_pipeline.simulator.batches.spool import Spool, chunks_of
from batch_pipeline.simulator.batches.store import BatchStore
from batch_pipeline.simulator.books.books import Books
from batch_pipeline.simulator.books.content_digest import content_digest
from batch_pipeline.simulator.checking.checks import check_message
from batch_pipeline.simulator.connection import unless_taken
from batch_pipeline.simulator.faults.declaration import Endpoint
from batch_pipeline.simulator.faults.file import FaultsError, parse_faults
from batch_pipeline.simulator.faults.injection import FaultInjection
from batch_pipeline.simulator.faults.requests import RequestFaultInjection
from batch_pipeline.simulator.faults.schedule import FaultSchedule
from batch_pipeline.simulator.faults.shown import page as page_shown
from batch_pipeline.simulator.faults.shown import shown
from batch_pipeline.simulator.faults.visibility import Visibility
from batch_pipeline.simulator.middleware import NameEveryResponse
from batch_pipeline.simulator.models import MODELS, all_models, model_info
from batch_pipeline.simulator.rate_limits import RateLimiters
from batch_pipeline.simulator.responses import Json, error_response
from batch_pipeline.simulator.wire import (
    MAX_BYTES_PER_REQUEST,
    RETRY_AFTER_SECONDS,
    ApiError,
    api_key_of,
    invalid_request,
    new_id,
    not_found,
    too_large,
)
from batch_pipeline.simulator.workspaces import Workspace, id_headers, workspace_of

# A poll waits this long for results to be written before it answers that the batch still runs.
SETTLE_PATIENCE_SECONDS = 5.0

Handler = Callable[[Request], Awaitable[Response]]


class Hooks:
    """Callbacks around the handlers, for tests to override; these do nothing."""

    async def before(self, _request: Request, /) -> Response | None:
        """Runs after the check of the headers; a response returned here replaces the handler's."""
        return None

    async def after(self, _request: Request, response: Response, /) -> Response:
        """Gets every answer, errors included, and returns the one that is sent."""
        return response

    def results(self, _batch_id: str, chunks: Iterator[bytes], /) -> Iterator[bytes]:
        """Wraps the stream of a batch's result lines."""
        return chunks


class AheadOf:
    """Serves one route itself, and passes all other calls to an application.

    Starlette's layers and routing take a third of the time of a message, and there are thousands of
    messages a second.
    """

    def __init__(self, app: ASGIApp, method: str, path: str, handler: Handler) -> None:
        self._app = app
        self._method, self._path = method, path
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") != self._path or scope.get("method") != self._method:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await self._handler(request)
        except Exception as error:
            await (await _internal_error(request, error))(scope, receive, send)
            raise  # for the log
        await response(scope, receive, send)


class Api:
    """The handlers, around the store and the books of all organisations."""

    def __init__(
        self, store: BatchStore, books: Books, spool: Spool, responder: Responder,
        schedule: FaultSchedule, rates: RateLimiters, latency: float, hooks: Hooks,
    ) -> None:  # fmt: skip
        self.store, self.books, self._spool = store, books, spool
        self.responder, self.schedule, self.rates = responder, schedule, rates
        self.latency = latency
        """Seconds that a message in real time takes."""
        self._visibility = Visibility(schedule, books)
        self._faults = FaultInjection(schedule, store, books)
        self._admin = AdminEndpoints(store, books)
        self._hooks = hooks
        self._calls: Counter[str] = Counter()

    def asgi(self) -> ASGIApp:
        batches = "/v1/messages/batches"
        one = batches + "/{batch_id}"
        routes = [
            self._route("create", "POST", batches, self.create_batch),
            self._route("list", "GET", batches, self.list_batches),
            self._route("retrieve", "GET", one, self.retrieve_batch),
            self._route("delete", "DELETE", one, self.delete_batch),
            self._route("cancel", "POST", one + "/cancel", self.cancel_batch),
            self._route("results", "GET", one + "/results", self.batch_results),
            self._route("count_tokens", "POST", "/v1/messages/count_tokens", self.count_tokens),
            self._route("models", "GET", "/v1/models", self.list_models),
            self._route("models", "GET", "/v1/models/{model_id}", self.retrieve_model),
            Route("/v1/oauth/token", self.exchange_token, methods=["POST"]),
            *(
                self._route("admin", "GET", path, handler)
                for path, handler in self._admin.handlers.items()
            ),
            Route("/simulator/books", self.show_books, methods=["GET"]),
            Route("/simulator/faults", self.put_faults, methods=["PUT"]),
        ]
        handlers = {HTTPException: _http_error, Exception: _internal_error}
        app = Starlette(routes=routes, exception_handlers=handlers)
        messages = self._guarded("messages", self.create_message)
        # Around Starlette as a whole: its answer to an unforeseen exception needs the header too.
        return NameEveryResponse(AheadOf(app, "POST", "/v1/messages", messages))

    def _route(self, endpoint: Endpoint, method: str, path: str, handler: Handler) -> Route:
        return Route(path, self._guarded(endpoint, handler), methods=[method])

    def _guarded(self, endpoint: Endpoint, handler: Handler) -> Handler:
        faulty = self._faults.around(endpoint, handler)

        async def guarded(request: Request) -> Response:
            self._calls[endpoint] += 1
            if endpoint in ("cancel", "delete", "results"):
                self.store.touch(request.path_params["batch_id"], endpoint)
            try:
                _check_headers(request)
                response = await self._hooks.before(request) or await faulty(request)
            except ApiError as error:
                response = error_response(request, error)
            except ClientDisconnect:
                # The client is gone and reads no answer. Nothing was done.
                response = Response(status_code=400)
            # A refused key belongs to no workspace; a gateway's page is not the API's answer.
            if response.status_code != 401 and response.media_type != "text/html":
                response.raw_headers.extend(id_headers(workspace_of(request.headers)))
            return await self._hooks.after(request, response)

        return guarded

    # Batches.

    async def create_batch(self, request: Request) -> Response:
        incoming = await self._spool.receive(request.stream())
        workspace = workspace_of(request.headers)
        batch = await run_sync(self.store.create, incoming, _version(request), workspace)
        return Json(self._shown(batch, request))

    async def list_batches(self, request: Request) -> Response:
        query = request.query_params
        if "after_id" in query and "before_id" in query:
            raise invalid_request("after_id and before_id: only one of them may be given")
        workspace = workspace_of(request.headers)
        page = workspace, _limit(query), query.get("after_id"), query.get("before_id")
        if page[2:] == (None, None):
            self._visibility.begin_look(workspace)
        missing = self._visibility.missing_from_list(self.store.of(workspace))
        batches, _ = self.store.page(*page, missing)
        await self._settle(batches)
        batches, has_more = self.store.page(*page, missing)
        faults = self.schedule.faults.shown
        return Json(page_shown(batches, str(request.base_url), faults, has_more=has_more))

    async def retrieve_batch(self, request: Request) -> Response:
        batch = await self._current(request)
        self._visibility.check_retrieve(batch)
        headers = {} if batch.counts is not None else {"retry-after": str(RETRY_AFTER_SECONDS)}
        return Json(self._shown(batch, request), headers=headers)

    async def cancel_batch(self, request: Request) -> Response:
        await self._current(request)
        return Json(self._shown(self.store.cancel(request.path_params["batch_id"]), request))

    async def delete_batch(self, request: Request) -> Response:
        batch = await self._current(request)
        self.store.delete(batch.id)
        return Json({"id": batch.id, "type": "message_batch_deleted"})

    async def batch_results(self, request: Request) -> Response:
        batch = await self._current(request)
        self._visibility.check_results(batch)
        path = self.store.results(batch.id)
        # Opened before the answer begins: a deletion meanwhile must not cut the answer off.
        chunks = self._hooks.results(batch.id, chunks_of(path.open("rb")))
        disposition = f'attachment; filename="{batch.id}_results.jsonl"'
        return StreamingResponse(
            chunks, media_type="application/x-jsonl", headers={"content-disposition": disposition}
        )

    def _shown(self, batch: Batch, request: Request) -> dict[str, Any]:
        return shown(batch, str(request.base_url), self.schedule.faults.shown)

    async def _current(self, request: Request) -> Batch:
        whose = workspace_of(request.headers)
        batch = self.store.get(request.path_params["batch_id"], whose)
        await self._settle([batch])
        return self.store.get(batch.id)

    async def _settle(self, batches: list[Batch]) -> None:
        if self.store.needs_settling(batches):
            await run_sync(self.store.settle_due, batches, SETTLE_PATIENCE_SECONDS)

    # Messages and models.

    async def create_message(self, request: Request) -> Response:
        params = await _checked(request)
        if params.get("stream"):
            raise invalid_request("stream: the simulator answers in one piece only")
        workspace = workspace_of(request.headers)
        rates = self.rates.of(workspace.organisation)
        if rates.limited:
            try:
                rates.admit(count_input(params))
            except ApiError:
                self.books.count_rate_limited()
                raise
        digest = content_digest(params)
        message = self._message(params, digest, workspace)
        unless_taken(request.scope, lambda: self.books.miss_message(digest))
        rates.spend(message["usage"]["output_tokens"])
        if self.latency:
            await asyncio.sleep(self.latency)
        return Json(message, headers=rates.headers())

    def _message(
        self, params: dict[str, Any], digest: bytes, workspace: Workspace
    ) -> dict[str, Any]:
        work = Work.now(self.latency, str(workspace))
        message = self.responder.message(params, digest, new_id("msg"), "standard", work)
        injection = RequestFaultInjection(
            self.schedule.faults.requests,
            self.schedule.seed,
            "realtime",
            self.books.attempts,
            self.schedule.faults.billed,
        )
        billed = None
        try:
            billed = injection.message(digest, params, message)
            return billed
        finally:
            self.books.end_message(digest, workspace, billed)
            for name, times in injection.injected.items():
                self.books.count_fault(name, times)

    async def count_tokens(self, request: Request) -> Response:
        params = await _checked(request, counting=True)
        return Json({"input_tokens": count_input(params)})

    async def list_models(self, request: Request) -> Response:
        query = request.query_params
        limit, stages = _limit(query), query.getlist("lifecycle[]") or ["active", "deprecated"]
        models = [info for info in map(model_info, all_models()) if info["lifecycle"] in stages]
        if (after := query.get("after_id")) is not None:
            names = [info["id"] for info in models]
            models = models[names.index(after) + 1 :] if after in names else []
        data = models[:limit]
        return Json({
            "data": data,
            "has_more": len(models) > limit,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
        })  # fmt: skip

    async def retrieve_model(self, request: Request) -> Response:
        name = request.path_params["model_id"]
        if name not in MODELS:
            raise not_found(f"model: {name}")
        return Json(model_info(MODELS[name]))

    async def exchange_token(self, request: Request) -> Response:
        """An access token for any identity token: a key of the workspace that was asked for."""
        if (answer := await self._hooks.before(request)) is not None:
            return answer
        asked = _parsed(await _body(request))
        if not isinstance(asked, dict) or not (
            asked.get("assertion") or asked.get("refresh_token")
        ):
            return Json({"error": "invalid_grant"}, status_code=400)
        where = f"{asked.get('workspace_id') or ''}/{asked.get('organization_id') or ''}"
        access = new_id("token") + (f"@{where}" if where != "/" else "")
        token = {"access_token": access, "token_type": "Bearer"}
        return Json({**token, "expires_in": 600})

    async def show_books(self, request: Request) -> Response:
        """The books as JSON, and the number of calls by endpoint since the start.

        `?contents=false` leaves out the counts for each content.
        """
        contents = request.query_params.get("contents") != "false"
        books = await run_sync(lambda: self.books.as_json(contents=contents))
        return Json({**books, "calls": dict(self._calls)})

    async def put_faults(self, request: Request) -> Response:
        """Replace the declared faults while the simulator runs; the body is YAML or JSON."""
        try:
            self.schedule.replace(parse_faults(await request.body()))
        except FaultsError as error:
            return error_response(request, invalid_request(str(error)))
        return Json({"type": "faults_replaced"})


def _check_headers(request: Request) -> None:
    if not api_key_of(request.headers):
        raise ApiError(401, "authentication_error", "x-api-key or Authorization header is required")
    if not request.headers.get("anthropic-version"):
        raise invalid_request("anthropic-version: header is required")


def _version(request: Request) -> str:
    return request.headers["anthropic-version"]


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", "20")
    if not text.isdecimal() or not 1 <= int(text) <= 1_000:
        raise invalid_request("limit: Input should be a whole number from 1 to 1000")
    return int(text)


async def _checked(request: Request, *, counting: bool = False) -> dict[str, Any]:
    """The params of a message. Errors: `ApiError` for what the API refuses."""
    body = await _body(request)
    params: dict[str, Any] = _parsed(body)
    check = partial(check_message, params, _version(request), counting=counting)
    # In the event loop: handing a message to a thread takes longer than its answer. Documents are
    # read in a thread, and what was read of them is cached for the answer.
    problem = await run_sync(check) if b'"base64"' in body else check()
    if problem is not None:
        raise problem
    return params


async def _body(request: Request) -> bytes:
    """A request's body. One that is too large is read to its end, as clients expect."""
    body = await request.body()
    if len(body) > MAX_BYTES_PER_REQUEST:
        raise too_large()
    return body


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid_request(f"The request body is not valid JSON: {error}") from None


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    return error_response(request, ApiError(status, kind, f"{request.method} {request.url.path}"))


async def _internal_error(request: Request, _error_raised: Exception) -> Response:
    return error_response(request, ApiError(500, "api_error", "Internal server error"))
