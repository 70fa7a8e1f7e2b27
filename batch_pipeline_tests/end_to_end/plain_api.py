"""Another implementation of the Message Batches API, written from its documentation alone.

It shares no code with the simulator and has other habits: another alphabet of ids, whole seconds
with a `Z`, short pages, results in reverse order without a final newline, fields that nobody knows,
usage without the newer fields. It does not call itself a simulator, so that a pipeline takes it for
the API. What goes wrong is told by attributes; its own books say what was accepted how often.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Params = dict[str, Any]
Result = dict[str, Any]
Answer = Callable[[Params, int], Result]
"""From a request's params, and how often they were accepted before, to the line's `result`."""

CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")


def message(text: str, **changes: Any) -> Result:
    """A succeeded result with one text block and the oldest form of usage."""
    return {
        "type": "succeeded",
        "message": {
            "id": f"msg-{secrets.token_hex(4)}",
            "type": "message",
            "role": "assistant",
            "model": "claude-haiku-4-5-20251001",
            "content": [{"type": "text", "text": text, "citations": None}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 7 + len(text), "output_tokens": 3 + len(text) % 11},
            "a_field_of_the_future": {"nested": [1, 2]},
        }
        | changes,
    }


def errored(kind: str, text: str = "something went wrong") -> Result:
    detail = {"type": "error", "error": {"type": kind, "message": text}, "request_id": None}
    return {"type": "errored", "error": detail}


def echo(params: Params, before: int) -> Result:
    """The length of the prompt, in words."""
    return message(f"{len(prompt_of(params))} characters")


def prompt_of(params: Params) -> str:
    return _joined(params["messages"][0]["content"])


def _joined(content: Any) -> str:
    """A text that may come in blocks, one of which bears a cache mark."""
    if isinstance(content, list) and all("text" in block for block in content):
        return "".join(block["text"] for block in content)
    return str(content)


def content_key(params: Params) -> str:
    """What is asked, with cache marks or without."""
    messages = [{**each, "content": _joined(each["content"])} for each in params["messages"]]
    params = {**params, "messages": messages}
    if "system" in params:
        params["system"] = _joined(params["system"])
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()


@dataclass
class Batch:
    """A batch; `foreign` ones belong to another tenant of the workspace."""

    id: str
    requests: list[tuple[str, Params]]
    created: datetime
    visible_at: float
    ends_at: float
    foreign: bool = False
    canceled: bool = False
    lines: list[bytes] | None = None
    counts: Counter[str] = field(default_factory=Counter)
    downloads: int = 0


class PlainApi:
    """State and habits; change the attributes before or while a pipeline runs.

    `create_faults` holds one word a create, in order: `ok`, `full`, `full, come back` (with
    `retry-after`), `500`, `500 but accepted`, `dropped but accepted`. `poll_faults` and
    `call_faults` hold statuses for retrieves and lists, and for Messages calls; 0 drops the
    connection. `download_faults` holds one word a download: `ok`, `torn` (in mid-line), `short`
    (ends well, lines are missing).
    """

    def __init__(self) -> None:
        self.answer: Answer = echo
        self.turnaround = 0.0
        self.appears_after = 0.0
        self.queue_limit = 200_000
        self.page_cap = 3
        self.repeats_lines = False
        self.create_faults: list[str] = []
        self.poll_faults: list[int] = []
        self.call_faults: list[int] = []
        self.download_faults: list[str] = []
        # The books.
        self.accepted: Counter[str] = Counter()
        self.called: Counter[str] = Counter()
        # Answers that succeeded in batches.
        self.billed: Counter[str] = Counter()
        self.highest_queue = 0
        self.headers_seen: list[Mapping[str, str]] = []
        self.batches: list[Batch] = []
        self.url = ""
        self._lock = threading.RLock()

    def add_foreign(self, requests: int) -> None:
        """A batch of somebody else in the same workspace, ended already."""
        ids: list[tuple[str, Params]] = [(f"theirs-{number}", {}) for number in range(requests)]
        self._add(ids, foreign=True)

    def fault(self, faults: list[Any]) -> Any:
        """The next word of a script, None at its end."""
        with self._lock:
            return faults.pop(0) if faults else None

    def create(self, requests: list[tuple[str, Params]]) -> Batch | None:
        """None where the queue is full."""
        with self._lock:
            queued = sum(len(batch.requests) for batch in self.batches if not self.ended(batch))
            if queued + len(requests) > self.queue_limit:
                return None
            self.highest_queue = max(self.highest_queue, queued + len(requests))
            return self._add(requests, foreign=False)

    def call(self, params: Params) -> Result:
        with self._lock:
            key = content_key(params)
            self.called[key] += 1
            return self.answer(params, self.called[key] - 1)

    def ended(self, batch: Batch) -> bool:
        with self._lock:
            if batch.lines is None and time.monotonic() >= batch.ends_at:
                self._settle(batch)
            return batch.lines is not None

    def cancel(self, batch: Batch) -> None:
        with self._lock:
            if not self.ended(batch):
                batch.canceled = True
                batch.ends_at = time.monotonic()

    def visible(self) -> list[Batch]:
        """Newest first."""
        with self._lock:
            at = time.monotonic()
            return [batch for batch in reversed(self.batches) if batch.visible_at <= at]

    def describe(self, batch: Batch) -> dict[str, Any]:
        ended = self.ended(batch)
        counts = batch.counts if ended else {"processing": len(batch.requests)}
        running = "canceling" if batch.canceled else "in_progress"
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if ended else running,
            "request_counts": {name: counts.get(name, 0) for name in COUNTS},
            "created_at": _time(batch.created),
            "expires_at": _time(batch.created + timedelta(hours=24)),
            "ended_at": _time(datetime.now(UTC)) if ended else None,
            "cancel_initiated_at": _time(datetime.now(UTC)) if batch.canceled else None,
            "archived_at": None,
            "results_url": f"{self.url}/v1/messages/batches/{batch.id}/results" if ended else None,
            "colour": "green",
        }

    def _add(self, requests: list[tuple[str, Params]], *, foreign: bool) -> Batch:
        now = time.monotonic()
        batch = Batch(
            id=f"MB-{secrets.token_hex(5).upper()}.eu~{len(self.batches)}",
            requests=requests,
            created=datetime.now(UTC),
            visible_at=now + (0 if foreign else self.appears_after),
            ends_at=now + (0 if foreign else self.turnaround),
            foreign=foreign,
        )
        self.batches.append(batch)
        if not foreign:
            self.accepted.update(content_key(params) for _, params in requests)
        return batch

    def _settle(self, batch: Batch) -> None:
        lines = []
        for custom_id, params in reversed(batch.requests):
            if batch.foreign:
                result = message("theirs")
            elif batch.canceled:
                result = {"type": "canceled"}
            else:
                result = self.answer(params, self.accepted[content_key(params)] - 1)
            kind = result["type"]
            if not batch.foreign:
                self.billed[content_key(params)] += kind == "succeeded"
            batch.counts[kind if kind in COUNTS else "errored"] += 1
            line = {"result": result, "custom_id": custom_id, "line_field": None}
            lines.append(json.dumps(line, ensure_ascii=False).encode())
        batch.lines = lines


@contextlib.contextmanager
def running_plain_api() -> Iterator[PlainApi]:
    """The API on a free port of this machine, for as long as the block lasts."""
    api = PlainApi()
    handler = type("Handler", (_Handler,), {"api": api})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Refusal(Exception):
    def __init__(self, status: int, kind: str, text: str, **headers: str) -> None:
        self.status, self.kind, self.text, self.headers = status, kind, text, headers


class _Dropped(Exception):
    """The connection ends without an answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: PlainApi

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base's name
        """Tests read nothing from here."""

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, respond: Callable[[list[str], dict[str, list[str]], bytes], None]) -> None:
        address = urlsplit(self.path)
        # Sent whole or not at all: a body that stops short is no request.
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        self.api.headers_seen.append(dict(self.headers))
        try:
            if not (self.headers.get("authorization") or self.headers.get("x-api-key")):
                raise _Refusal(401, "authentication_error", "no key")
            if not address.path.startswith("/v1/messages"):
                raise _Refusal(404, "not_found_error", address.path)
            steps = address.path.removeprefix("/v1/messages").strip("/").split("/")
            respond(steps, parse_qs(address.query), body)
        except _Refusal as refusal:
            error = {"type": refusal.kind, "message": refusal.text}
            self._json(refusal.status, {"type": "error", "error": error}, refusal.headers)
        except _Dropped:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _get(self, steps: list[str], query: dict[str, list[str]], body: bytes) -> None:
        match steps:
            case ["batches"]:
                self._fail_maybe(self.api.poll_faults)
                self._list(query)
            case ["batches", batch_id]:
                self._fail_maybe(self.api.poll_faults)
                self._json(200, self.api.describe(self._find(batch_id)))
            case ["batches", batch_id, "results"]:
                self._results(self._find(batch_id))
            case _:
                raise _Refusal(404, "not_found_error", "no such place")

    def _post(self, steps: list[str], query: dict[str, list[str]], body: bytes) -> None:
        match steps:
            case [""]:
                self._fail_maybe(self.api.call_faults)
                result = self.api.call(json.loads(body))
                if result["type"] != "succeeded":
                    detail = result["error"]["error"]
                    status = 400 if detail["type"] == "invalid_request_error" else 500
                    raise _Refusal(status, detail["type"], detail["message"])
                self._json(200, result["message"])
            case ["batches"]:
                self._create(body)
            case ["batches", batch_id, "cancel"]:
                batch = self._find(batch_id)
                self.api.cancel(batch)
                self._json(200, self.api.describe(batch))
            case _:
                raise _Refusal(404, "not_found_error", "no such place")

    def _create(self, body: bytes) -> None:
        fault = self.api.fault(self.api.create_faults) or "ok"
        if fault.startswith("full"):
            headers = {"retry-after": "1"} if "come back" in fault else {}
            raise _Refusal(429, "rate_limit_error", "too many batch requests queued", **headers)
        if fault == "500":
            raise _Refusal(500, "api_error", "internal server error")
        requests = [(item["custom_id"], item["params"]) for item in json.loads(body)["requests"]]
        ids = [custom_id for custom_id, _ in requests]
        if len(set(ids)) < len(ids) or not all(map(CUSTOM_ID.fullmatch, ids)):
            raise _Refusal(400, "invalid_request_error", "custom ids")
        if len(requests) > 100_000 or len(body) > 256_000_000:
            raise _Refusal(413, "request_too_large", "too large")
        batch = self.api.create(requests)
        if batch is None:
            raise _Refusal(429, "rate_limit_error", "queue is full", **{"retry-after": "0.2"})
        if fault == "500 but accepted":
            raise _Refusal(500, "api_error", "internal server error")
        if fault == "dropped but accepted":
            raise _Dropped
        self._json(200, self.api.describe(batch))

    def _list(self, query: dict[str, list[str]]) -> None:
        limit = min(int(query.get("limit", ["20"])[0]), self.api.page_cap)
        batches = self.api.visible()
        if "after_id" in query:
            ids = [batch.id for batch in batches]
            if query["after_id"][0] not in ids:
                raise _Refusal(400, "invalid_request_error", "after_id is unknown")
            batches = batches[ids.index(query["after_id"][0]) + 1 :]
        page = [self.api.describe(batch) for batch in batches[:limit]]
        self._json(
            200,
            {
                "data": page,
                "has_more": len(batches) > limit,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
            },
        )

    def _results(self, batch: Batch) -> None:
        if not self.api.ended(batch):
            raise _Refusal(404, "not_found_error", "no results yet")
        assert batch.lines is not None
        batch.downloads += 1
        fault = self.api.fault(self.api.download_faults) or "ok"
        lines = list(batch.lines)
        if self.api.repeats_lines:
            lines += lines[: len(lines) // 2 + 1]
        if fault == "short":
            lines = lines[:-1]
        data = b"\n".join(lines)
        if fault == "torn":
            data = data[: len(data) - len(lines[-1]) // 2]
        self.send_response(200)
        self.send_header("content-type", "application/x-jsonl")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for start in range(0, len(data), 9_973):  # a prime: chunks end anywhere in a line
            chunk = data[start : start + 9_973]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if fault == "torn":
            self.wfile.flush()
            raise _Dropped
        self.wfile.write(b"0\r\n\r\n")

    def _find(self, batch_id: str) -> Batch:
        for batch in self.api.visible():
            if batch.id == batch_id:
                return batch
        raise _Refusal(404, "not_found_error", f"no batch {batch_id}")

    def _fail_maybe(self, faults: list[int]) -> None:
        status = self.api.fault(faults)
        if status == 0:
            raise _Dropped
        if status is not None:
            kinds = {429: "rate_limit_error", 529: "overloaded_error"}
            raise _Refusal(status, kinds.get(status, "api_error"), "not now")

    def _json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json; charset=utf-8")
        self.send_header("content-length", str(len(data)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
