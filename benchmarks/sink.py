"""A server that takes batches in and answers them as fast as Python can: no checks, no storage.

The simulator reads, checks and prices every request, and would be what is measured. This one keeps
the custom ids of a batch and answers each with the same message; a batch ends after a fixed time.
It is no simulator of the API: use it for speed alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

# An unescaped quote cannot stand inside a JSON string: what is found is a key. It is looked for by
# a byte that hardly any text has: to look for one byte is five times as fast as for several.
_KEY = b'"custom_id":'
_RARE = b"_"
# Small enough to stay in a processor's cache from the socket to the search.
_BUFFER_BYTES = 1 << 19
_LINES_A_CHUNK = 2_000
# What a job asks for whose answers are calls of it.
TOOL = "note"


class Batch:
    """One batch: its custom ids and when it was made."""

    def __init__(self, number: int, ids: list[bytes]) -> None:
        self.id = f"msgbatch_{number:06}"
        self.ids = ids
        self.created = time.time()


class Sink(ThreadingHTTPServer):
    """The server and its batches, oldest first."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, turnaround: float, answer: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.turnaround = turnaround
        self.batches: list[Batch] = []
        self.by_id: dict[str, Batch] = {}
        self.lock = threading.Lock()
        self.numbers = itertools.count(1)
        self.message = answer
        head, tail = (
            json.dumps(
                {"custom_id": "@", "result": {"type": "succeeded", "message": self.message}},
                separators=(",", ":"),
            )
            .encode()
            .split(b"@", 1)
        )
        self.head, self.tail = head, tail + b"\n"

    def add(self, ids: list[bytes]) -> Batch:
        with self.lock:
            batch = Batch(next(self.numbers), ids)
            self.batches.append(batch)
            self.by_id[batch.id] = batch
        return batch

    def shown(self, batch: Batch) -> dict[str, Any]:
        ended = time.time() >= batch.created + self.turnaround
        count = len(batch.ids)
        created = datetime.fromtimestamp(batch.created, UTC)
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": {
                "processing": 0 if ended else count,
                "succeeded": count if ended else 0,
                "errored": 0,
                "canceled": 0,
                "expired": 0,
            },
            "created_at": created.isoformat(),
            "expires_at": (created + timedelta(days=1)).isoformat(),
            "ended_at": datetime.now(UTC).isoformat() if ended else None,
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": (
                f"http://127.0.0.1:{self.server_port}/v1/messages/batches/{batch.id}/results"
                if ended
                else None
            ),
        }


def message(characters: int, *, tool_call: bool) -> dict[str, Any]:
    """One message as the API answers it: a text of `characters` characters, or a call of a tool
    with it."""
    text = ("an answer of the sink " * characters)[:characters]
    content = (
        {"type": "tool_use", "id": "toolu_sink", "name": TOOL, "input": {"answer": text}}
        if tool_call
        else {"type": "text", "text": text}
    )
    return {
        "id": "msg_sink",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5-20251001",
        "content": [content],
        "stop_reason": "tool_use" if tool_call else "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 600,
            "output_tokens": max(1, characters // 4),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "service_tier": "batch",
        },
    }


class Body:
    """The body of a request, announced by its length or chunked."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self._file = handler.rfile
        self._chunked = "chunked" in handler.headers.get("transfer-encoding", "")
        self._left = 0 if self._chunked else int(handler.headers.get("content-length", 0))

    def read_into(self, buffer: memoryview) -> int:
        """How many bytes were read; 0 at its end."""
        if self._chunked and not self._left:
            self._left = int(self._file.readline(), 16)
            if not self._left:
                self._file.readline()
        if not self._left:
            return 0
        size: int = self._file.readinto1(buffer[: self._left])
        if not size:
            raise ConnectionError("the body was cut off")
        self._left -= size
        if self._chunked and not self._left:
            self._file.readline()
        return size


class Handler(BaseHTTPRequestHandler):
    """The five calls that the flow makes."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 19
    server: Sink

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        if path == "/v1/messages":
            body, buffer = Body(self), memoryview(bytearray(_BUFFER_BYTES))
            while body.read_into(buffer):
                pass
            self._json(self.server.message)
        elif path == "/v1/messages/batches":
            self._json(self.server.shown(self.server.add(self._custom_ids())))
        else:
            self._json({}, 404)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        if parts == ["v1", "messages", "batches"]:
            self._list(parse_qs(url.query))
        elif (batch := self.server.by_id.get(parts[3] if len(parts) > 3 else "")) is None:
            error = {"type": "not_found_error", "message": "no such batch"}
            self._json({"type": "error", "error": error}, 404)
        elif parts[4:] == ["results"]:
            self._results(batch)
        else:
            self._json(self.server.shown(batch))

    def _list(self, query: dict[str, list[str]]) -> None:
        limit = int(query.get("limit", ["20"])[0])
        newest = self.server.batches[::-1]
        after = query.get("after_id", [None])[0]
        start = 0
        if after is not None:
            start = next(n for n, batch in enumerate(newest) if batch.id == after) + 1
        page = [self.server.shown(batch) for batch in newest[start : start + limit]]
        self._json(
            {
                "data": page,
                "has_more": start + limit < len(newest),
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
            }
        )

    def _results(self, batch: Batch) -> None:
        head, tail = self.server.head, self.server.tail
        line = len(head) + len(tail)
        length = len(batch.ids) * line + sum(map(len, batch.ids))
        self._start(200, "application/x-jsonl", length)
        for start in range(0, len(batch.ids), _LINES_A_CHUNK):
            ids = batch.ids[start : start + _LINES_A_CHUNK]
            self.wfile.write(b"".join(head + custom_id + tail for custom_id in ids))

    def _custom_ids(self) -> list[bytes]:
        """The custom ids of a create body; of what has been searched nothing is kept."""
        body, kept = Body(self), 0
        ids: list[bytes] = []
        buffer = bytearray(_BUFFER_BYTES)
        view = memoryview(buffer)
        while size := body.read_into(view[kept:]):
            end = kept + size
            rest = _take_ids(buffer, end, ids)
            kept = end - rest
            view[:kept] = buffer[rest:end]
        return ids

    def _json(self, data: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(data).encode()
        self._start(status, "application/json", len(body))
        self.wfile.write(body)

    def _start(self, status: int, kind: str, length: int) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(length))
        # What made-up answers cost must not count as spent.
        self.send_header("x-batch-pipeline-simulator", "sink")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def _take_ids(data: bytearray, end: int, ids: list[bytes]) -> int:
    """Add the custom ids that stand in `data[:end]` whole; returns from where the rest is to be
    seen."""
    before = _KEY.index(_RARE)
    start = done = 0
    while (found := data.find(_RARE, start, end)) >= 0:
        start = found + 1
        if not data.startswith(_KEY, max(0, found - before), end):
            continue
        opened = data.find(b'"', found - before + len(_KEY), end)
        closed = data.find(b'"', opened + 1, end)
        if opened < 0 or closed < 0:
            return found - before
        ids.append(bytes(data[opened + 1 : closed]))
        start = done = closed
    return max(done, end - len(_KEY))


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--turnaround", type=float, default=1.0, help="seconds until a batch ends")
    made.add_argument("--answer-characters", type=int, default=200)
    made.add_argument("--tool-calls", action="store_true", help="answers that call a tool")
    options = made.parse_args()
    answer = message(options.answer_characters, tool_call=options.tool_calls)
    server = Sink(options.turnaround, answer)
    print(f"listens on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
