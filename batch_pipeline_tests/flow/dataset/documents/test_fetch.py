"""Documents from URLs: from the declared hosts alone, and once a night."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.flow.dataset.documents import fetch
from batch_pipeline.flow.dataset.documents.fetch import Fetcher
from batch_pipeline.flow.dataset.documents.inspection.inspect_types import Refused
from batch_pipeline.flow.dataset.layers import Overlay
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline_tests.document_files import pdf
from batch_pipeline_tests.flow.dataset.documents.snapshots import (
    document_job,
    kept_files,
    mark_of,
    rows_of,
    taken,
)
from batch_pipeline_tests.support import settings, write_rows

PDF = pdf(["From afar."])


class FileHost(ThreadingHTTPServer):
    """A web server with documents, and with what goes wrong with them."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FileHost

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked[path] += 1
        self.server.headers.append(dict(self.headers))
        if path == "/flaky" and self.server.asked[path] > 1:
            path = "/a.pdf"
        answers: dict[str, tuple[int, dict[str, str], bytes]] = {
            "/a.pdf": (200, {}, PDF),
            "/login": (200, {"content-type": "text/html"}, b"<!DOCTYPE html><p>Log in</p>"),
            "/moved": (302, {"location": "/a.pdf"}, b""),
            "/elsewhere": (302, {"location": "http://169.254.169.254/latest"}, b""),
            "/file": (302, {"location": "file:///etc/passwd"}, b""),
            "/loop": (302, {"location": "/loop"}, b""),
            "/huge": (200, {"content-length": str(600 << 20)}, b"%PDF-"),
            "/broken": (200, {"content-length": "1000"}, b"%PDF-"),
            "/empty": (200, {}, b""),
            "/flaky": (503, {}, b""),
        }
        status, headers, body = answers.get(path, (404, {}, b""))
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[FileHost]:
    """A web server of files."""
    with FileHost() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetches are repeated without pauses."""
    monkeypatch.setattr(fetch, "wait_exponential", lambda **_: lambda _state: 0)


def test_urls_are_fetched_once_a_night_and_each_failure_concerns_its_row(
    host: FileHost, tmp_path: Path
) -> None:
    names = ("a.pdf", "moved", "flaky", "login", "elsewhere", "file", "loop", "huge", "broken",
             "empty", "nothing")  # fmt: skip
    rows: list[dict[str, Any]] = [
        {"id": name, "scan": f"{host.url}/{name}?signature=secret"} for name in names
    ]
    rows += [
        {"id": "host", "scan": "https://files.example.com/a.pdf"},
        {"id": "scheme", "scan": host.url.replace("http", "https") + "/a.pdf"},
        {"id": "password", "scan": host.url.replace("//", "//user:pass@") + "/a.pdf"},
    ]
    spec = document_job(write_rows(tmp_path / "in.jsonl", rows), "{scan:pdf}", hosts=[host.url])
    with Pipeline(settings(tmp_path / "home")) as pipeline:
        # Looked at without a snapshot it is fetched, too, and a snapshot finds it then.
        taken(pipeline, spec, keep=False)
        below = taken(pipeline, spec)
        found = rows_of(pipeline, below)
        assert (host.asked["/a.pdf"], host.asked["/flaky"]) == (
            2,
            2,
        )  # as itself, and after a redirect
        ends = {name: (row["reason"], row["detail"]) for name, row in found.items()}
        assert {name: reason for name, (reason, _) in ends.items()} == {
            "a.pdf": None,
            "moved": None,
            "flaky": None,
            "login": "not a PDF",
            "elsewhere": "URL not allowed",
            "file": "URL not allowed",
            "loop": "URL cannot be fetched",
            "huge": "larger than a document may be",
            "broken": "URL cannot be fetched",
            "empty": "empty file",
            "nothing": "URL cannot be fetched",
            "host": "URL not allowed",
            "scheme": "URL not allowed",
            "password": "URL not allowed",
        }
        assert found["huge"]["status"] == "too_large"
        assert ends["host"][1] == "URL not allowed: host files.example.com is not in input.hosts"
        assert ends["elsewhere"][1] == "URL not allowed: host 169.254.169.254 is not in input.hosts"
        assert ends["nothing"][1].startswith("URL cannot be fetched: HTTP 404 of http://127.0.0.1")
        assert all("secret" not in (detail or "") for _, detail in ends.values())
        assert mark_of(found["a.pdf"], "scan")["stored"] is True
        assert found["a.pdf"]["stored"] == found["moved"]["stored"]
        assert set(found["a.pdf"]["stored"]) <= kept_files(pipeline)
        # A redrive asks for it as it is now.
        taken(pipeline, spec, overlay=Overlay(below, {"a.pdf"}))
        assert host.asked["/a.pdf"] == 3
    assert not {"cookie", "authorization"} & {
        name.lower() for headers in host.headers for name in headers
    }


def test_a_declared_name_must_not_lead_into_the_local_network(
    host: FileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = host.server_address[1]
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *_args, **_more: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))],
    )
    url = f"http://files.example.com:{port}"
    with pytest.raises(Refused, match=r"files\.example\.com is 127\.0\.0\.1, an address of the"):
        Fetcher([url]).fetch(f"{url}/a.pdf", tmp_path / "a", 1_000)
    assert not host.asked


def test_a_document_that_grows_beyond_what_was_announced_is_not_read_to_its_end(
    host: FileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Refused, match="larger than a document may be") as refused:
        Fetcher([host.url]).fetch(f"{host.url}/a.pdf", tmp_path / "a", 10)
    assert refused.value.too_large
    monkeypatch.setattr(fetch, "MOST_SECONDS", -1)
    with pytest.raises(Refused, match="not all of it has come within"):
        Fetcher([host.url]).fetch(f"{host.url}/a.pdf", tmp_path / "a", 10_000)
