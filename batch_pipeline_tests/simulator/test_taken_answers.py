"""Whether an answer in real time was taken, as the books have it: what may be asked again."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx2
import orjson
import pytest

from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline.simulator.books.content_digest import content_hash
from batch_pipeline_tests.simulator.conftest import params, raw_http

ONE, OTHER = params("One text."), params("Another text.")


def ask(http: httpx2.Client, *asked: dict[str, Any]) -> None:
    """Calls one after the other, over one connection."""
    for one in asked:
        http.post("/v1/messages", json=one)


def open_call(sim: Simulator, asked: dict[str, Any]) -> socket.socket:
    """A connection on which a call is under way."""
    body = orjson.dumps(asked)
    address = urlsplit(sim.url)
    connection = socket.create_connection((address.hostname, address.port))
    connection.sendall(
        b"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1\r\nx-api-key: any\r\n"
        b"anthropic-version: 2026-10-21\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )
    return connection


def until_billed(sim: Simulator, requests: int) -> None:
    end = time.monotonic() + 10
    while sim.books.billed_requests < requests:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_what_is_asked_again_after_its_answer_was_taken_is_noticed(
    sim: Simulator, http: httpx2.Client
) -> None:
    ask(http, ONE, OTHER, ONE)
    assert sim.books.billed_more_than_once == sim.books.bought_again == [content_hash(ONE)]


def test_a_connection_that_lives_on_shows_that_its_answers_were_taken(
    sim: Simulator, http: httpx2.Client
) -> None:
    ask(http, ONE, OTHER, OTHER | {"max_tokens": 201})
    http.close()
    with raw_http(sim) as another:
        ask(another, ONE)
    assert sim.books.bought_again == [content_hash(ONE)]


@pytest.mark.parametrize("answered", [False, True], ids=["before the answer", "soon after it"])
def test_what_was_in_flight_when_its_client_died_may_be_asked_again(
    sim: Simulator, http: httpx2.Client, answered: bool
) -> None:
    sim.set_latency(0 if answered else 60)
    dying = open_call(sim, ONE)
    if answered:
        assert dying.recv(1)
    until_billed(sim, 1)
    dying.close()
    sim.set_latency(0)
    ask(http, ONE)
    assert len(sim.books.billed_more_than_once) == 1
    assert sim.books.bought_again == []
    # The second answer was taken.
    ask(http, OTHER, ONE)
    assert sim.books.bought_again == [content_hash(ONE)]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "drop", "when": "after"},
        {"kind": "error", "status": 500, "accepted": True},
        {"kind": "unreadable"},
        {"kind": "cut"},
        {"kind": "cut", "end": "dropped"},
    ],
    ids=lambda fault: "-".join(map(str, fault.values())),
)
def test_what_a_fault_kept_back_may_be_asked_again(
    sim: Simulator, http: httpx2.Client, fault: dict[str, Any]
) -> None:
    sim.set_faults(Faults.of(messages={"script": [fault]}))
    with contextlib.suppress(httpx2.TransportError):
        ask(http, ONE)
    ask(http, ONE)
    assert len(sim.books.billed_more_than_once) == 1
    assert sim.books.bought_again == []
