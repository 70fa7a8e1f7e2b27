"""The adapter over the official SDK, against a simulator that misbehaves on demand."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import orjson
import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from batch_pipeline.api import credentials
from batch_pipeline.api import messages as messages_api
from batch_pipeline.api.client import BATCHES, AnthropicApi
from batch_pipeline.api.messages import RequestHead, SdkHeads, open_messages
from batch_pipeline.api.protocol import Answer, ApiFailure, RateLimit, Streamed
from batch_pipeline.errors import AccountError, ApiError, UsageError
from batch_pipeline.simulator import Faults as Declared
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.support import MODEL, Dropped, Faults, error, is_create


def body(count: int = 2) -> bytes:
    params = {
        "model": MODEL,
        "max_tokens": 200,
        "messages": [{"role": "user", "content": "A text."}],
    }
    requests = [{"custom_id": f"r_{n}", "params": params} for n in range(count)]
    return orjson.dumps({"requests": requests})


def create(api: AnthropicApi, data: bytes | None = None, betas: tuple[str, ...] = ()) -> str:
    data = body() if data is None else data
    return api.create_batch(iter([data[:9], data[9:]]), len(data), betas).id


def asked(api: AnthropicApi, params: bytes | Streamed, betas: tuple[str, ...] = ()) -> Answer:
    """One Messages call, with connections of its own."""

    async def ask() -> Answer:
        async with api.open_messages(1) as messages:
            return await messages.create(params, betas)

    return asyncio.run(ask())


@pytest.fixture
def api(sim: Simulator) -> AnthropicApi:
    """The adapter of the API, which speaks with the simulator."""
    return AnthropicApi()


def test_a_batch_from_its_creation_to_its_results(sim: Simulator, api: AnthropicApi) -> None:
    assert api.simulated is True
    sim.hold()
    batch_id = create(api)
    info = api.retrieve_batch(batch_id)
    assert (info.id, info.ended, info.requests, info.archived) == (batch_id, False, 2, False)
    assert info.created_at is not None
    assert info.expires_at == pytest.approx(info.created_at + 86_400)
    listed = api.list_batches(None, 10)
    assert ([batch.id for batch in listed.batches], listed.more) == ([batch_id], False)
    sim.release()
    info = api.retrieve_batch(batch_id)
    assert (info.ended, info.requests, info.counts["succeeded"]) == (True, 2, 2)
    with api.stream_results(batch_id) as chunks:
        lines = b"".join(chunks).splitlines()
    assert sorted(orjson.loads(line)["custom_id"] for line in lines) == ["r_0", "r_1"]


def test_the_list_has_pages(sim: Simulator, api: AnthropicApi) -> None:
    made = [create(api) for _ in range(5)]
    first = api.list_batches(None, 3)
    assert ([batch.id for batch in first.batches], first.more) == (made[:1:-1], True)
    rest = api.list_batches(first.after, 3)
    assert ([batch.id for batch in rest.batches], rest.more) == (made[1::-1], False)


@pytest.mark.parametrize(
    ("change", "readable"),
    [
        ({"created_at": None}, True),
        ({"created_at": 17}, True),
        ({"created_at": "yesterday"}, True),
        ({"expires_at": {}}, True),
        ({"request_counts": None}, True),
        ({"request_counts": "many"}, True),
        ({"request_counts": {"processing": "3", "succeeded": -1, "errored": None}}, True),
        ({"processing_status": None}, True),
        ({"id": 17}, True),
        ({"id": None}, False),
        ({"id": ""}, False),
        ({"id": "../models"}, False),
        ({"id": ["msgbatch_1"]}, False),
        (None, False),
    ],
)
def test_each_entry_of_the_list_is_read_by_itself(
    sim: Simulator,
    api: AnthropicApi,
    faults: Faults,
    change: dict[str, Any] | None,
    readable: bool,
) -> None:
    made = [create(api) for _ in range(3)]

    def odd(request: Request, response: Response) -> Response:
        if request.method != "GET" or request.url.path != BATCHES:
            return response
        page = orjson.loads(response.body)
        page["data"][1] = None if change is None else page["data"][1] | change
        return Response(orjson.dumps(page), media_type="application/json")

    faults.on_response = odd
    page = api.list_batches(None, 10)
    ids = [batch.id for batch in page.batches]
    assert (ids[0], ids[-1], len(ids)) == (made[2], made[0], 2 + readable)
    assert list(page.odd) == ([] if readable else [1])


@pytest.mark.parametrize(("has_more", "more"), [(True, True), (None, None), ("no", None)])
def test_a_list_may_not_say_whether_it_goes_on(
    sim: Simulator, api: AnthropicApi, faults: Faults, has_more: object, more: bool | None
) -> None:
    [batch_id] = [create(api)]

    def silent(request: Request, response: Response) -> Response:
        page = orjson.loads(response.body) | {"has_more": has_more, "last_id": "elsewhere"}
        return Response(orjson.dumps(page), media_type="application/json")

    faults.on_response = silent
    page = api.list_batches(None, 10)
    assert (page.more, page.after) == (more, batch_id)
    faults.on_response = lambda *_: Response(b'{"has_more": false}', media_type="application/json")
    with pytest.raises(ApiFailure):
        api.list_batches(None, 10)
    # A person who starts a night is not sent away for it.
    AnthropicApi().close()


def test_cancel(sim: Simulator, api: AnthropicApi) -> None:
    sim.hold()
    sim.set_done_at_cancel(0)
    batch_id = create(api)
    assert api.cancel_batch(batch_id).processing_status in {"canceling", "ended"}
    # The cancel itself takes a share of the turnaround.
    while not (info := api.retrieve_batch(batch_id)).ended:
        pass
    assert info.counts["canceled"] == 2


def test_create_sends_its_length_and_the_betas(
    sim: Simulator, api: AnthropicApi, faults: Faults
) -> None:
    seen: list[dict[str, str]] = []

    def note(request: Request) -> Response | None:
        seen.append(dict(request.headers))
        return None

    faults.on_request = note
    create(api, betas=("one-2026", "two-2026"))
    assert seen[0]["content-length"] == str(len(body()))
    assert "transfer-encoding" not in seen[0]
    assert seen[0]["content-type"] == "application/json"
    assert seen[0]["anthropic-beta"] == "one-2026,two-2026"


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 529])
def test_a_create_is_never_repeated(
    sim: Simulator, api: AnthropicApi, faults: Faults, status: int
) -> None:
    def refuse(request: Request) -> Response | None:
        answer = error(status, "some_error", "why")
        answer.headers["retry-after"] = "3"
        return answer if is_create(request) else None

    faults.on_request = refuse
    faults.calls.clear()
    with pytest.raises(ApiFailure) as caught:
        create(api)
    assert faults.calls == [("POST", "/v1/messages/batches")]
    failure = caught.value
    assert (failure.status, failure.error_type, failure.message) == (status, "some_error", "why")
    assert (failure.retry_after, failure.connected) == (3.0, True)
    assert str(failure) == f"HTTP {status} some_error: why"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Dropped, None),
        (lambda: Response(b"<html>", 200), 200),
        (lambda: Response(b"[]", 200), 200),
        (lambda: Response(b'{"id": ""}', 200), 200),
        (lambda: Response(b'{"id": "x", "processing_status": "in_progress"}', 200), 200),
    ],
    ids=["dropped", "no JSON", "no object", "no id", "no time"],
)
def test_an_unreadable_answer_to_a_create_is_no_answer(
    sim: Simulator,
    api: AnthropicApi,
    faults: Faults,
    answer: Callable[[], Response],
    status: int | None,
) -> None:
    faults.on_response = lambda request, response: answer() if is_create(request) else response
    with pytest.raises(ApiFailure) as caught:
        create(api)
    assert (caught.value.status, caught.value.error_type) == (status, None)
    assert caught.value.connected
    assert sim.books.batches_created == 1


def test_a_create_whose_answer_is_odd_has_an_id_all_the_same(
    sim: Simulator, api: AnthropicApi, faults: Faults
) -> None:
    faults.on_response = lambda request, response: (
        Response('{"type": "message_batch", "id": "msgbatch_odd", "created_at": "today"}', 201)
        if is_create(request)
        else response
    )
    assert create(api) == "msgbatch_odd"


def test_a_redirect_of_a_create_is_not_followed(
    sim: Simulator, api: AnthropicApi, faults: Faults
) -> None:
    faults.on_request = lambda request: (
        Response(status_code=307, headers={"location": "/v1/messages/batches"})
        if is_create(request)
        else None
    )
    with pytest.raises(ApiFailure):
        create(api)
    assert faults.calls.count(("POST", "/v1/messages/batches")) == 1


def test_a_connection_that_was_never_made_is_told_apart(
    sim: Simulator, api: AnthropicApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setattr(api._create_client, "base_url", nobody)
        with pytest.raises(ApiFailure) as caught:
            create(api)
    assert (caught.value.status, caught.value.connected) == (None, False)


def test_a_body_that_breaks_off_makes_no_batch(sim: Simulator, api: AnthropicApi) -> None:
    data = body()

    def cut() -> Iterator[bytes]:
        yield data[:-3]
        raise ApiFailure(None, None, None, "the claim was lost")

    with pytest.raises(ApiFailure, match="the claim was lost"):
        api.create_batch(cut(), len(data), ())
    create(api)
    assert sim.books.batches_created == 1


def test_reads_are_repeated(sim: Simulator, api: AnthropicApi, faults: Faults) -> None:
    batch_id = create(api)
    left = 2

    def busy(request: Request) -> Response | None:
        nonlocal left
        left -= 1
        answer = error(529, "overloaded_error")
        answer.headers["retry-after-ms"] = "1"
        return answer if left >= 0 else None

    faults.on_request = busy
    assert api.retrieve_batch(batch_id).id == batch_id
    assert left < 0


@pytest.mark.parametrize("wait", ["7200", "1e300", "Fri, 31 Dec 2199 23:59:59 GMT"])
def test_a_read_does_not_sleep_for_hours(
    sim: Simulator, api: AnthropicApi, faults: Faults, wait: str
) -> None:
    def busy(_: Request) -> Response:
        answer = error(429, "rate_limit_error")
        answer.headers["retry-after"] = wait
        return answer

    faults.on_request = busy
    asked = len(faults.calls)
    with pytest.raises(ApiFailure) as caught:
        api.list_batches(None, 1)
    with pytest.raises(ApiFailure), api.stream_results("msgbatch_1"):
        pass
    with pytest.raises(ApiFailure):
        api.count_tokens(b"{}", ())
    assert caught.value.retry_after == 3_600
    assert len(faults.calls) == asked + 3


def test_a_stream_that_breaks_is_a_failure(
    sim: Simulator, api: AnthropicApi, faults: Faults
) -> None:
    def broken(_batch_id: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
        yield next(chunks)[:50]
        raise OSError("gone")

    faults.on_results = broken
    batch_id = create(api)
    api.retrieve_batch(batch_id)
    with pytest.raises(ApiFailure) as caught, api.stream_results(batch_id) as chunks:
        list(chunks)
    assert caught.value.status is None


LINES = [b'{"n":%d}\n' % n for n in range(50_000)]
MEMBERS = [gzip.compress(b"".join(LINES[start::3])) for start in range(3)]


@pytest.mark.parametrize(
    ("body", "readable"),
    [
        (b"".join(MEMBERS), True),
        (MEMBERS[0], False),
        (MEMBERS[0] + MEMBERS[1] + MEMBERS[2][:-20], False),
        (b"".join(MEMBERS) + b"damaged", False),
        (b"".join(LINES), False),
        (b"", False),
    ],
    ids=["members", "one", "cut", "damaged", "not packed", "empty"],
)
def test_all_members_of_packed_results_are_read(
    sim: Simulator, api: AnthropicApi, faults: Faults, body: bytes, readable: bool
) -> None:
    faults.on_request = lambda request: (
        Response(body, headers={"content-encoding": "gzip"})
        if request.url.path.endswith("/results")
        else None
    )
    found = b""
    try:
        with api.stream_results("msgbatch_1") as chunks:
            found = b"".join(chunks)
    except ApiFailure:
        assert not readable
    assert (sorted(found.splitlines(keepends=True)) == sorted(LINES)) is readable


def test_a_web_page_is_no_list_of_results(
    sim: Simulator, api: AnthropicApi, faults: Faults
) -> None:
    faults.on_request = lambda request: HTMLResponse("<p>Please log in</p>")
    with pytest.raises(ApiFailure, match="a web page"), api.stream_results("msgbatch_1"):
        pass


def test_results_that_are_gone(sim: Simulator, api: AnthropicApi) -> None:
    with pytest.raises(ApiFailure) as caught, api.stream_results("msgbatch_nothing") as chunks:
        list(chunks)
    assert (caught.value.status, caught.value.error_type) == (404, "not_found_error")


def test_a_message_comes_as_it_is_and_is_asked_once(
    sim: Simulator, api: AnthropicApi, faults: Faults
) -> None:
    params = orjson.dumps(orjson.loads(body())["requests"][0]["params"])
    message = asked(api, params).message
    assert message["type"] == "message"
    assert message["usage"]["service_tier"] == "standard"
    faults.calls.clear()
    faults.on_request = lambda _: error(529, "overloaded_error")
    with pytest.raises(ApiFailure):
        asked(api, params)
    assert faults.calls == [("POST", "/v1/messages")]


@pytest.mark.parametrize(
    "environment",
    [
        {"ANTHROPIC_API_KEY": "a key"},
        {"ANTHROPIC_AUTH_TOKEN": "a token"},
        {
            "ANTHROPIC_API_KEY": "a key",
            "ANTHROPIC_CUSTOM_HEADERS": "x-team: ours\nUser-Agent: us\nanthropic-beta: a-beta",
        },
    ],
    ids=["key", "token", "headers"],
)
@pytest.mark.parametrize("betas", [(), ("b-1", "b-2")], ids=["no betas", "betas"])
def test_a_message_carries_what_the_sdk_would_send(
    sim: Simulator,
    faults: Faults,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    betas: tuple[str, ...],
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    api = AnthropicApi()
    seen: list[dict[str, str]] = []

    def look(request: Request) -> None:
        seen.append(dict(request.headers))

    faults.on_request = look
    params = orjson.dumps(orjson.loads(body())["requests"][0]["params"])
    for _ in range(2):
        asked(api, params, betas)
    # The same, as one with documents is sent.
    asked(api, Streamed(len(params), lambda: iter([params[:10], params[10:]])), betas)

    async def ask_the_sdk() -> None:
        headers = {"content-type": "application/json"}
        if betas:
            headers["anthropic-beta"] = ",".join(betas)
        async with anthropic.AsyncAnthropic(max_retries=0) as client:
            await client.post(
                "/v1/messages",
                content=params,
                cast_to=httpx2.Response,
                options={"headers": headers},
            )

    asyncio.run(ask_the_sdk())
    *ours, theirs = seen
    for headers in seen:
        # Of the connection, and of what the client can unpack.
        del headers["accept-encoding"]
        headers.pop("connection", None)
    assert ours == [theirs, theirs, theirs]


def test_a_message_whose_body_breaks_off_is_not_made(sim: Simulator, api: AnthropicApi) -> None:
    params = orjson.dumps(orjson.loads(body())["requests"][0]["params"])

    def broken() -> Iterator[bytes]:
        yield params[:-1]
        raise ValueError("a document has changed")

    with pytest.raises(ValueError, match="a document has changed"):
        asked(api, Streamed(len(params), broken))
    assert sim.books.billed_requests == 0
    assert asked(api, Streamed(len(params), lambda: iter([params]))).message["content"]


def test_calls_may_take_as_long_as_the_sdk_says(sim: Simulator) -> None:
    said = anthropic.DEFAULT_TIMEOUT

    async def make() -> RequestHead:
        return await SdkHeads({"base_url": sim.url, "api_key": "a key"}).head(())

    head = asyncio.run(make())
    assert (head.timeout.sock_connect, head.timeout.sock_read) == (said.connect, said.read)
    assert (head.timeout.connect, head.timeout.total) == (said.pool, None)


def test_a_token_that_is_renewed_during_a_night_is_sent_from_then_on(
    sim: Simulator, faults: Faults, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A profile whose token another program renews in a file, as the SDK supports it."""
    profile = tmp_path / "configs" / "default.json"
    token = tmp_path / "credentials" / "default.json"
    for path in (profile, token):
        path.parent.mkdir()
    profile.write_text('{"version": "1.0", "authentication": {"type": "user_oauth"}}')

    def renew(name: str) -> None:
        expires_at = int(time.time()) + 1
        said = {"version": "1.0", "type": "oauth_token", "access_token": name}
        token.write_bytes(orjson.dumps(said | {"expires_at": expires_at}))
        token.chmod(0o600)

    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setattr(messages_api, "HEAD_SECONDS", 0.0)
    seen: list[str | None] = []
    faults.on_request = lambda request: seen.append(request.headers.get("authorization"))
    params = orjson.dumps(orjson.loads(body())["requests"][0]["params"])

    async def ask() -> None:
        async with open_messages(1, lambda _: None, {}) as messages:
            for name in ("first", "second"):
                renew(name)
                await messages.create(params, ())

    asyncio.run(ask())
    assert seen == ["Bearer first", "Bearer second"]


def test_a_head_is_made_once_for_the_calls_of_a_while(sim: Simulator) -> None:
    async def make() -> list[RequestHead]:
        heads = SdkHeads({"base_url": sim.url, "api_key": "a key"})
        return await asyncio.gather(*(heads.head(("a-beta",)) for _ in range(50)))

    first, *others = asyncio.run(make())
    assert all(head is first for head in others)


PARAMS = orjson.dumps(orjson.loads(body())["requests"][0]["params"])
BATCH = "/v1/messages/batches/msgbatch_1"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("method", "path", "call"),
    [
        ("POST", "/v1/messages", lambda api: asked(api, PARAMS)),
        ("POST", "/v1/messages/count_tokens", lambda api: api.count_tokens(PARAMS, ())),
        ("POST", "/v1/messages/batches", create),
        ("GET", "/v1/messages/batches", lambda api: api.list_batches(None, 20)),
        ("GET", BATCH, lambda api: api.retrieve_batch("msgbatch_1")),
        ("GET", f"{BATCH}/results", lambda api: list(api.stream_results("msgbatch_1").__enter__())),
        ("POST", f"{BATCH}/cancel", lambda api: api.cancel_batch("msgbatch_1")),
    ],
)
def test_no_call_follows_a_redirect(
    sim: Simulator,
    api: AnthropicApi,
    faults: Faults,
    method: str,
    path: str,
    call: Callable[[AnthropicApi], object],
    status: int,
) -> None:
    """Key and documents would go to an address of the answer's choice."""
    location = {"location": sim.url.replace("127.0.0.1", "user:s3cret@localhost")}
    faults.on_request = lambda _: Response(status_code=status, headers=location)
    faults.calls.clear()
    with pytest.raises(ApiFailure, match="a redirect to localhost") as caught:
        call(api)
    assert caught.value.status == status
    assert "s3cret" not in str(caught.value)
    assert faults.calls == [(method, path)]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://api.invalid:8080", 1),
        ("http://user:s3cret@10.1.2.3/v1", 1),
        ("http://localhost:9", 0),
        ("http://127.0.0.1:9", 0),
        ("http://[::1]:9", 0),
        ("https://api.invalid", 0),
    ],
)
def test_an_address_without_encryption_is_said_once(
    url: str, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        credentials.say_if_unencrypted(httpx2.URL(url))
    assert len(caplog.messages) == said
    assert "s3cret" not in caplog.text


def test_calls_go_through_the_proxy_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hosts: list[str | None] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hosts.append(self.headers.get("host"))
            page = b'{"type":"message","data":[],"has_more":false}'
            self.send_response(200)
            self.send_header("content-length", str(len(page)))
            self.end_headers()
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.wfile.write(page)

        do_POST = do_GET  # noqa: N815  # http.server's names

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("ANTHROPIC_API_KEY", "any")
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://api.invalid")
        params = orjson.dumps(orjson.loads(body())["requests"][0]["params"])
        assert asked(AnthropicApi(), params).message["type"] == "message"
        proxy.shutdown()
    # The probe by the SDK, and the call.
    assert hosts == ["api.invalid", "api.invalid"]


def test_rate_limits_are_read_from_the_headers_of_answers_and_refusals(
    sim: Simulator, api: AnthropicApi, faults: Faults
) -> None:
    params = orjson.dumps(orjson.loads(body())["requests"][0]["params"])
    said = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "48",
        "anthropic-ratelimit-input-tokens-limit": "many",
        "anthropic-ratelimit-output-tokens-limit": "10000",
        "anthropic-ratelimit-output-tokens-remaining": "9000",
    }

    def with_limits(_: Request, response: Response) -> Response:
        response.headers.update(said)
        return response

    faults.on_response = with_limits
    expected = {
        "requests": RateLimit(50, 48),
        "output-tokens": RateLimit(10_000, 9_000),
    }
    assert asked(api, params).limits == expected
    faults.on_request = lambda _: error(429, "rate_limit_error")
    with pytest.raises(ApiFailure) as caught:
        asked(api, params)
    assert caught.value.limits == expected


def test_a_kept_connection_that_the_server_closed_may_have_carried_the_call(
    sim: Simulator, api: AnthropicApi
) -> None:
    params = orjson.dumps(orjson.loads(body())["requests"][0]["params"])
    sim.set_faults(Declared.of(messages={"script": [{"kind": "drop"}]}))
    with pytest.raises(ApiFailure) as caught:
        asked(api, params)
    assert (caught.value.status, caught.value.connected) == (None, True)


def test_without_a_server_nothing_was_sent() -> None:
    async def ask() -> None:
        nowhere = {"base_url": "http://127.0.0.1:9", "api_key": "any"}
        async with open_messages(1, lambda _: None, nowhere) as messages:
            await messages.create(b"{}", ())

    with pytest.raises(ApiFailure) as caught:
        asyncio.run(ask())
    assert not caught.value.connected


@pytest.mark.parametrize(
    "detail",
    [
        {"code": "enforced_spend_limit_reached"},
        {"details": {"error_code": "enforced_spend_limit_reached"}},
    ],
)
def test_error_codes_are_read(
    sim: Simulator, api: AnthropicApi, faults: Faults, detail: dict[str, Any]
) -> None:
    said = {"type": "error", "error": {"type": "rate_limit_error", "message": "m", **detail}}
    faults.on_request = lambda _: Response(orjson.dumps(said), 429)
    with pytest.raises(ApiFailure) as caught:
        create(api)
    assert caught.value.error_code == "enforced_spend_limit_reached"


def test_without_a_key_it_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    with pytest.raises(UsageError, match="ANTHROPIC_API_KEY") as caught:
        AnthropicApi()
    assert "batch-pipeline demo" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"), [(401, AccountError), (403, AccountError), (404, ApiError)]
)
def test_what_is_wrong_is_said_before_any_work(
    sim: Simulator, faults: Faults, status: int, kind: type[Exception]
) -> None:
    faults.on_request = lambda _: error(status, "some_error", "why")
    with pytest.raises(kind, match="why") as caught:
        AnthropicApi()
    assert sim.url in str(caught.value)


def test_a_server_that_changes_under_a_running_process_is_noticed(
    sim: Simulator, api: AnthropicApi
) -> None:
    with pytest.raises(AccountError, match="changed under a running process"):
        api._note_simulator({})
