"""The books, restarts, interrupted uploads, the hooks and the foreground server."""

from __future__ import annotations

import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from anthropic import Anthropic
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.simulator import (
    SIMULATOR_HEADER,
    Simulator,
    StateInUseError,
    content_hash,
    running_simulator,
)
from batch_pipeline.simulator.app import Hooks
from batch_pipeline.simulator.books.books import Content
from batch_pipeline.simulator.models import MODELS
from batch_pipeline_tests.simulator.conftest import params, raw_http, requests, sdk


def test_books_know_what_was_accepted_and_billed(
    sim: Simulator, client: Anthropic, http: httpx2.Client
) -> None:
    batch = client.messages.batches.create(requests=requests(2))
    client.messages.create(**requests(1)[0]["params"])
    before = sim.books.contents
    client.messages.batches.retrieve(batch.id)
    client.messages.batches.retrieve(batch.id)

    first, second = (content_hash(each["params"]) for each in requests(2))
    cost = sim.books.realtime_cost_usd
    after = sim.books.contents
    assert before == {first: Content(2, 1, cost, 1), second: Content(1, 0, Decimal(0))}
    assert after[first] == Content(2, 2, cost * 3 / 2, 1)
    assert (after[second].accepted, after[second].billed) == (1, 1)
    assert sum(each.cost_usd for each in after.values()) == cost + sim.books.batch_cost_usd
    assert sim.books.billed_more_than_once == [first]
    shown = http.get("/simulator/books").json()
    assert shown["contents"][first] == {
        "accepted": 2, "billed": 2, "billed_realtime": 1, "cost_usd": str(cost * 3 / 2),
    }  # fmt: skip
    assert shown["billed_requests"] == 3
    assert "contents" not in http.get("/simulator/books?contents=false").json()


def test_books_bill_what_usage_says(sim: Simulator, client: Anthropic) -> None:
    message = client.messages.create(**params())
    batch = client.messages.batches.create(requests=requests(3))
    client.messages.batches.retrieve(batch.id)
    results: list[Any] = [line.result for line in client.messages.batches.results(batch.id)]
    used = [result.message.usage for result in results]
    assert (
        sim.books.realtime_cost_usd
        == (Decimal(message.usage.input_tokens) + 5 * Decimal(message.usage.output_tokens)) / 10**6
    )
    assert sim.books.batch_cost_usd == sum(
        Decimal(each.input_tokens) + 5 * Decimal(each.output_tokens) for each in used
    ) / (2 * 10**6)


@pytest.mark.parametrize(
    ("model", "tokens", "batch", "usd"),
    [
        ("claude-haiku-5-5", (100_000, 0, 0, 0, 0), False, "0.01"),
        ("claude-haiku-5-5", (100_001, 0, 0, 0, 0), False, "0.0500005"),
        ("claude-haiku-4-5", (10, 20, 30, 40, 50), True, "0.0001745"),
    ],
)
def test_long_prompts_and_classes_of_tokens_have_their_prices(
    model: str, tokens: tuple[int, ...], batch: bool, usd: str
) -> None:
    uncached, written_5m, written_1h, read, output = tokens
    usage = {
        "input_tokens": uncached,
        "cache_creation_input_tokens": written_5m + written_1h,
        "cache_read_input_tokens": read,
        "output_tokens": output,
        "cache_creation": {
            "ephemeral_5m_input_tokens": written_5m,
            "ephemeral_1h_input_tokens": written_1h,
        },
    }
    assert Decimal(MODELS[model].cost_pico_usd(usage, batch=batch)) / 10**12 == Decimal(usd)


def test_batches_and_books_survive_a_restart(tmp_path: Path) -> None:
    with running_simulator(turnaround=0.0, state_dir=tmp_path) as sim, sdk(sim) as client:
        ended = client.messages.batches.create(requests=requests(2)).id
        lines = list(client.messages.batches.results(ended))
        sim.hold()
        running = client.messages.batches.create(requests=requests(3)).id
    (tmp_path / "spool" / "left.incoming").write_bytes(b"{")

    with running_simulator(turnaround=0.0, state_dir=tmp_path) as sim, sdk(sim) as client:
        assert [batch.id for batch in client.messages.batches.list()] == [running, ended]
        assert list(client.messages.batches.results(ended)) == lines
        assert client.messages.batches.retrieve(running).request_counts.succeeded == 3
        assert (sim.books.batches_created, sim.books.billed_requests) == (2, 5)
        assert not (tmp_path / "spool" / "left.incoming").exists()


def test_batches_of_29_days_ago_are_removed_at_the_start(tmp_path: Path) -> None:
    with running_simulator(turnaround=0.0, state_dir=tmp_path) as sim, sdk(sim) as client:
        old, young = (client.messages.batches.create(requests=requests(2)).id for _ in range(2))
        assert len(list(client.messages.batches.results(old))) == 2
    with sqlite3.connect(tmp_path / "simulator.sqlite") as connection:
        made = (datetime.now(UTC) - timedelta(days=29, minutes=1)).isoformat()
        change = "UPDATE batch SET body = json_set(body, '$.created_at', ?) WHERE id = ?"
        connection.execute(change, (made, old))
    connection.close()
    for _ in range(2):
        with running_simulator(turnaround=0.0, state_dir=tmp_path) as sim, sdk(sim) as client:
            assert [batch.id for batch in client.messages.batches.list()] == [young]
            assert not list((tmp_path / "spool").glob(f"{old}.*"))


def test_a_state_folder_has_one_simulator_and_one_reader(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with running_simulator(state_dir=folder) as sim, sdk(sim) as client:
        client.messages.batches.create(requests=requests(1))
        with (
            pytest.raises(StateInUseError, match="state"),
            running_simulator(state_dir=folder),
        ):
            pass
        paths = [folder, *(path for path in folder.iterdir())]
        assert [path.name for path in paths if path.stat().st_mode & 0o077] == []
    with running_simulator(state_dir=folder) as sim, sdk(sim) as client:
        assert len(list(client.messages.batches.list())) == 1


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_an_incomplete_body_creates_nothing(
    sim: Simulator, http: httpx2.Client, framing: str
) -> None:
    body = orjson.dumps({"requests": requests(3)})
    if framing == "chunked":
        header, sent = b"transfer-encoding: chunked", b"%x\r\n%b\r\n" % (len(body), body)
    else:
        header, sent = b"content-length: %d" % (len(body) + 1), body
    spool = sim._store._spool._folder
    with socket.create_connection(("127.0.0.1", int(sim.url.rsplit(":", 1)[1]))) as connection:
        connection.sendall(
            b"POST /v1/messages/batches HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\n"
            b"anthropic-version: 2026-10-21\r\n" + header + b"\r\n\r\n" + sent
        )
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(10)
        while connection.recv(4096):  # until the server has closed its side as well
            pass
    http.get("/simulator/books")
    assert sim.books.batches_created == 0
    assert list(spool.iterdir()) == []


def test_hooks_see_every_handler_and_the_results() -> None:
    class Busy(Hooks):
        async def before(self, request: Request, /) -> Response | None:
            return Response(status_code=529) if request.url.path == "/v1/models" else None

        async def after(self, request: Request, response: Response, /) -> Response:
            response.headers["x-seen"] = request.method
            return response

        def results(self, batch_id: str, chunks: Iterator[bytes], /) -> Iterator[bytes]:
            yield from (chunk[:-10] for chunk in chunks)

    with (
        running_simulator(turnaround=0.0, hooks=Busy()) as sim,
        sdk(sim) as client,
        raw_http(sim) as http,
    ):
        answer = http.get("/v1/models")
        assert (answer.status_code, answer.headers["x-seen"]) == (529, "GET")
        url = client.messages.batches.retrieve(
            client.messages.batches.create(requests=requests(1)).id
        ).results_url
        assert url is not None
        assert not http.get(url).content.endswith(b"\n")


def test_an_unforeseen_error_is_an_api_error_and_names_the_simulator(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Broken(Hooks):
        async def before(self, request: Request, /) -> Response | None:
            raise RuntimeError("broken hook")

    with running_simulator(hooks=Broken()) as sim, raw_http(sim) as http:
        answer = http.get("/v1/models")
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "api_error")
    assert answer.headers[SIMULATOR_HEADER] == "1"
    out, errors = capfd.readouterr()
    assert (out, "broken hook" in errors) == ("", True)


def test_serve_prints_its_url_and_removes_its_folder(tmp_path: Path) -> None:
    program = (
        "from batch_pipeline.simulator import serve;"
        "serve(0, on_ready=lambda url: print(url, flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx2.get(f"{url}/simulator/books").json()["batches_created"] == 0
        assert list(tmp_path.iterdir())
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["/simulator/books", "/simulator/faults", "/v1/messages/batches", "/v1/messages", "/x"]
)
def test_a_request_for_another_host_is_refused(http: httpx2.Client, path: str) -> None:
    """A web page whose name leads to this machine must not read books and documents."""
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", "[::]"):
        for method in ("GET", "POST", "PUT"):
            answer = http.request(method, path, headers={"host": host})
            assert (answer.status_code, answer.headers[SIMULATOR_HEADER]) == (403, "1")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8765", "a.localhost"]
)
def test_this_machine_has_several_names(http: httpx2.Client, host: str) -> None:
    answer = http.get("/simulator/books", headers={"host": host})
    assert answer.status_code == 200
