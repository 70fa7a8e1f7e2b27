"""An S3 server for tests, and a proxy before it that fails as a real store does.

moto takes any credentials and never fails; so a store that is busy or refuses credentials whose
time is over is played by the proxy. It counts requests too: by method, and by kind, as a store
bills them.
"""

from __future__ import annotations

import http.client
import importlib
import logging
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from s3fs import S3FileSystem  # type: ignore[import-untyped]

from batch_pipeline.storage import patient_filesystem

# Of the hop between two parties; each connection has its own.
_OF_THE_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}


@contextmanager
def running_s3() -> Iterator[str]:
    """The URL of moto's S3 server; skips the test where moto is not installed."""
    moto: Any = pytest.importorskip("moto.server")
    serving: Any = importlib.import_module("werkzeug.serving")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = moto.DomainDispatcherApplication(moto.create_backend_app)
    server = serving.make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@dataclass
class Fault:
    """Answers `times` requests of these methods with an error; `seen` have got one."""

    status: int
    code: str
    times: float
    methods: frozenset[str]
    applies: Callable[[Any], bool] = lambda _headers: True
    seen: int = 0


@dataclass
class FaultProxy:
    """What the proxy does to requests that pass; to be changed while it runs."""

    url: str = ""
    requests: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    bytes_read: int = 0
    bytes_written: int = 0
    faults: list[Fault] = field(default_factory=list)
    before_write: Callable[[str], None] = lambda _path: None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, status: int, code: str, times: float, *methods: str) -> Fault:
        """Answer the next requests of these methods, unless given all, with an error of S3."""
        fault = Fault(status, code, times, frozenset(methods))
        self.faults.append(fault)
        return fault

    def expire(self, key: str) -> Fault:
        """Refuse credentials by their access key from now on, as S3 does once they have ended."""
        fault = self.fail(400, "ExpiredToken", float("inf"))
        fault.applies = lambda headers: f"Credential={key}/" in headers.get("Authorization", "")
        return fault

    def count_bytes(self, *, read: int, written: int) -> None:
        """Add what a request has moved, in bytes."""
        with self._lock:
            self.bytes_read += read
            self.bytes_written += written

    def fault_of(self, method: str, path: str, headers: Any) -> Fault | None:
        """The error that this request gets; counts it."""
        with self._lock:
            self.requests[method] += 1
            self.kinds[_kind(method, path, headers)] += 1
            for fault in self.faults:
                meant = not fault.methods or method in fault.methods
                if meant and fault.seen < fault.times and fault.applies(headers):
                    fault.seen += 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Nothing is written beside the test's own output."""

    def handle_any(self) -> None:
        proxy = self.server.proxy
        body = self._body()
        fault = proxy.fault_of(self.command, self.path, self.headers)
        if fault is not None:
            self._answer(fault.status, {"Content-Type": "application/xml"}, _said(fault))
            return
        if self.command in ("PUT", "POST"):
            proxy.before_write(self.path)
        connection = http.client.HTTPConnection(self.server.store, timeout=60)
        try:
            # `Host` is signed, and moto finds the bucket by it.
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in _OF_THE_HOP and name.lower() != "expect":
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            said = answer.read()
            proxy.count_bytes(read=len(said), written=len(body))
            self._answer(answer.status, dict(answer.getheaders()), said)
        finally:
            connection.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _OF_THE_HOP:
                self.send_header(name, value)
        told = headers.get("Content-Length", headers.get("content-length", "0"))
        self.send_header("Content-Length", told if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    def __init__(self, store: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = urlsplit(store).netloc
        self.proxy = FaultProxy(f"http://127.0.0.1:{self.server_port}")


@contextmanager
def running_proxy(store: str) -> Iterator[FaultProxy]:
    """A proxy on 127.0.0.1 before an S3 server."""
    server = _Server(store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    as_another_process()
    try:
        yield server.proxy
    finally:
        as_another_process()
        server.shutdown()
        server.server_close()


def _kind(method: str, path: str, headers: Any) -> str:
    """A request's method, but LIST and COPY, and POST where a list of names is deleted."""
    if method == "GET" and "list-type=" in urlsplit(path).query:
        return "LIST"
    if method == "PUT" and "x-amz-copy-source" in headers:
        return "COPY"
    return "DELETE" if method == "POST" and urlsplit(path).query.startswith("delete") else method


def _said(fault: Fault) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f"<Error><Code>{fault.code}</Code><Message>{fault.code}: played by the proxy</Message>"
        "<RequestId>1</RequestId></Error>"
    ).encode()


def as_another_process() -> None:
    """Let the next home have a filesystem of its own, with settings that are read anew.

    fsspec keeps one for all homes of a process.
    """
    S3FileSystem.clear_instance_cache()


def new_bucket(url: str) -> str:
    """Make a bucket of a new name; returns it."""
    name = f"homes-{uuid.uuid4().hex[:8]}"
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("PUT", f"/{name}")
    assert connection.getresponse().status == 200
    connection.close()
    return name


def use(monkeypatch: pytest.MonkeyPatch, proxy: FaultProxy, folder: Path) -> None:
    """Let s3fs go through the proxy, with credentials of a file in this folder, waiting briefly."""
    monkeypatch.setattr(patient_filesystem, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(patient_filesystem, "LONGEST_PAUSE_SECONDS", 0.05)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    credentials(folder, "first")


def credentials(folder: Path, key: str) -> None:
    """Write the file that s3fs reads its credentials from."""
    text = f"[default]\naws_access_key_id = {key}\naws_secret_access_key = any\n"
    (folder / "credentials").write_text(text)
