"""Faults of single HTTP calls, as raw HTTP and the official SDK see them on the wire."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import orjson
import pytest
from anthropic import (
    Anthropic,
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    InternalServerError,
    RateLimitError,
)

from batch_pipeline.simulator import (
    SIMULATOR_HEADER,
    Faults,
    Simulator,
    content_hash,
    running_simulator,
)
from batch_pipeline_tests.simulator.conftest import params, raw_http, requests, sdk
from batch_pipeline_tests.simulator.faults.fault_support import BATCHES, create, ended

CALLS: dict[str, tuple[str, str, Any]] = {
    "create": ("POST", BATCHES, {"requests": requests(1)}),
    "list": ("GET", BATCHES, None),
    "retrieve": ("GET", f"{BATCHES}/msgbatch_01x", None),
    "cancel": ("POST", f"{BATCHES}/msgbatch_01x/cancel", None),
    "delete": ("DELETE", f"{BATCHES}/msgbatch_01x", None),
    "results": ("GET", f"{BATCHES}/msgbatch_01x/results", None),
    "messages": ("POST", "/v1/messages", params()),
    "count_tokens": ("POST", "/v1/messages/count_tokens", params()),
    "models": ("GET", "/v1/models", None),
}


@pytest.mark.parametrize("endpoint", CALLS)
def test_every_endpoint_has_a_script(sim: Simulator, http: httpx2.Client, endpoint: str) -> None:
    method, path, body = CALLS[endpoint]
    normal = http.request(method, path, json=body).status_code
    script = [{"kind": "error", "status": 503, "times": 2}, {"kind": "normal"}]
    sim.set_faults(Faults.of(**{endpoint: {"script": script}}))
    statuses = [http.request(method, path, json=body).status_code for _ in range(4)]
    assert statuses == [503, 503, normal, normal]
    assert sim.books.faults == {f"{endpoint}.error_503": 2}


@pytest.mark.parametrize(
    ("fault", "status", "error", "retry_after"),
    [
        ({"kind": "error", "status": 429}, 429, {"type": "rate_limit_error"}, None),
        ({"kind": "error", "status": 429, "retry_after": 0.5}, 429, {}, "0.5"),
        ({"kind": "queue_full"}, 429, {"type": "rate_limit_error"}, "10"),
        ({"kind": "queue_full", "retry_after": None}, 429, {}, None),
        ({"kind": "error", "status": 500}, 500, {"type": "api_error"}, None),
        ({"kind": "error", "status": 503}, 503, {"type": "api_error"}, None),
        ({"kind": "error", "status": 529}, 529, {"type": "overloaded_error"}, None),
        ({"kind": "error", "status": 408}, 408, {"type": "timeout_error"}, None),
        ({"kind": "error", "status": 409}, 409, {"type": "conflict_error"}, None),
        ({"kind": "error", "status": 413}, 413, {"type": "request_too_large"}, None),
        ({"kind": "billing"}, 402, {"type": "billing_error"}, None),
        ({"kind": "revoked_key"}, 401, {"type": "authentication_error"}, None),
        (
            {"kind": "spend_limit"},
            429,
            {"details": {"error_code": "enforced_spend_limit_reached"}},
            None,
        ),
        (
            {"kind": "spend_limit", "form": "contract"},
            429,
            {"details": {"error_code": "contract_spend_limit_reached"}},
            None,
        ),
        (
            {"kind": "spend_limit", "form": "specified"},
            400,
            {
                "type": "invalid_request_error",
                "message": "You have reached your specified API usage limits.",
            },
            None,
        ),
    ],
)
def test_refusals_have_the_api_s_body_and_make_nothing(
    sim: Simulator,
    http: httpx2.Client,
    fault: dict[str, Any],
    status: int,
    error: dict[str, Any],
    retry_after: str | None,
) -> None:
    sim.set_faults(Faults.of(create={"script": [fault]}))
    answer = create(http)
    body = answer.json()
    assert answer.status_code == status
    assert answer.headers.get("retry-after") == retry_after
    assert answer.headers[SIMULATOR_HEADER] == "1"
    assert body["request_id"] == answer.headers["request-id"]
    assert error.items() <= body["error"].items()
    assert (body["type"], sim.books.batches_created) == ("error", 0)
    assert sum(sim.books.faults.values()) == 1
    assert create(http).status_code == 200


def test_the_sdk_reads_the_error_code(sim: Simulator, client: Anthropic) -> None:
    sim.set_faults(Faults.of(messages={"script": [{"kind": "spend_limit"}]}))
    with pytest.raises(RateLimitError) as refused:
        client.messages.create(**params())
    assert refused.value.error_code == "enforced_spend_limit_reached"


def test_a_gateway_s_page_is_no_api_error(sim: Simulator, http: httpx2.Client) -> None:
    sim.set_faults(Faults.of(create={"script": [{"kind": "error", "status": 502, "html": True}]}))
    answer = create(http)
    assert (answer.status_code, answer.headers["content-type"]) == (502, "text/html; charset=utf-8")
    assert answer.text.startswith("<html>")
    assert answer.headers[SIMULATOR_HEADER] == "1"


@pytest.mark.parametrize("status", [408, 409, 500, 503, 529])
def test_acceptance_behind_an_error(sim: Simulator, client: Anthropic, status: int) -> None:
    script = [{"kind": "error", "status": status, "accepted": True}]
    sim.set_faults(Faults.of(create={"script": script}))
    with pytest.raises(APIStatusError) as error:
        client.messages.batches.create(requests=requests(2))
    assert error.value.status_code == status
    assert [batch.request_counts.succeeded for batch in client.messages.batches.list()] == [2]
    assert sim.books.faults == {f"create.error_{status}_accepted": 1}


def test_what_the_api_refuses_is_not_accepted_behind_an_error(
    sim: Simulator, http: httpx2.Client
) -> None:
    script = [{"kind": "error", "status": 500, "accepted": True}]
    sim.set_faults(Faults.of(create={"script": script}))
    assert http.post(BATCHES, json={"requests": []}).status_code == 400
    assert sim.books.faults == {}


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(("when", "made"), [("at_once", 0), ("before", 0), ("after", 1)])
def test_a_dropped_connection(
    sim: Simulator, client: Anthropic, when: str, made: int, reset: bool
) -> None:
    sim.set_faults(Faults.of(create={"script": [{"kind": "drop", "when": when, "reset": reset}]}))
    with pytest.raises(APIConnectionError) as error:
        client.messages.batches.create(requests=requests(2))
    if when != "at_once":  # there the rest of a body on its way makes a reset of any close
        expected = httpx2.ReadError if reset else httpx2.RemoteProtocolError
        assert isinstance(error.value.__cause__, expected)
    assert (sim.books.batches_created, sim.books.faults) == (made, {f"create.drop_{when}": 1})
    assert len(client.messages.batches.list().data) == made


def test_the_sdk_s_own_retries_of_a_lost_answer_make_three_batches(
    sim: Simulator, client: Anthropic
) -> None:
    sim.set_faults(Faults.of(create={"script": [{"kind": "drop", "times": 2}]}))
    client.with_options(max_retries=2).messages.batches.create(requests=requests(1))
    assert sim.books.batches_created == 3
    assert [content.accepted for content in sim.books.contents.values()] == [3]


def test_an_unreadable_answer_to_a_create_that_worked(sim: Simulator, http: httpx2.Client) -> None:
    sim.set_faults(Faults.of(create={"script": [{"kind": "unreadable"}]}))
    answer = create(http)
    assert answer.status_code == 200
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(answer.content)
    assert sim.books.batches_created == 1


@pytest.mark.parametrize("wait", ["delay_before", "delay_after"])
def test_a_batch_is_made_though_the_client_gave_up(
    sim: Simulator, http: httpx2.Client, wait: str
) -> None:
    sim.set_faults(Faults.of(create={"script": [{"kind": "normal", wait: 0.5}]}))
    begun = time.monotonic()
    patience = httpx2.Timeout(10, read=0.1)
    with pytest.raises(httpx2.ReadTimeout):
        http.post(BATCHES, json={"requests": requests(1)}, timeout=patience)
    early = sim.books.batches_created
    while sim.books.batches_created == 0:
        assert time.monotonic() < begun + 10
        time.sleep(0.01)
    if wait == "delay_before" and time.monotonic() > begun + 0.5:
        assert early == 0  # made after the client had left
    while not sim.books.faults:
        time.sleep(0.01)
    assert sim.books.faults == {f"create.{wait}": 1}


def test_a_slowly_read_body(sim: Simulator, http: httpx2.Client) -> None:
    sim.set_faults(Faults.of(create={"script": [{"kind": "normal", "read_pause": 0.05}]}))
    begun = time.monotonic()
    asked = params("word " * 60_000)
    answer = http.post(BATCHES, json={"requests": [{"custom_id": "long", "params": asked}]})
    assert answer.status_code == 200
    assert time.monotonic() - begun >= 0.1  # it takes more than one piece
    assert sim.books.faults == {"create.slow_upload": 1}
    assert list(sim.books.contents) == [content_hash(asked)]


@pytest.mark.parametrize("end", ["dropped", "clean"])
def test_a_list_page_that_is_cut_off(sim: Simulator, http: httpx2.Client, end: str) -> None:
    ended(http, 1)
    sim.set_faults(Faults.of(list={"script": [{"kind": "cut", "end": end}]}))
    if end == "dropped":
        with pytest.raises(httpx2.RemoteProtocolError):
            http.get(BATCHES)
    else:
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(http.get(BATCHES).content)
    assert sim.books.faults == {f"list.cut_{end}": 1}
    assert len(http.get(BATCHES).json()["data"]) == 1


def test_a_key_revoked_half_way_until_restored(sim: Simulator, client: Anthropic) -> None:
    outage = {"fault": {"kind": "revoked_key"}, "keys": ["any"], "from_call": 3}
    sim.set_faults(Faults.of(outages=[outage]))
    batch = client.messages.batches.create(requests=requests(1))
    client.messages.batches.retrieve(batch.id)
    for _ in range(3):
        with pytest.raises(AuthenticationError):
            client.messages.batches.retrieve(batch.id)
    with pytest.raises(AuthenticationError):
        client.models.list()
    other = client.with_options(api_key="another")
    assert other.messages.batches.retrieve(batch.id).processing_status == "ended"
    sim.set_faults(Faults())
    assert client.messages.batches.retrieve(batch.id).processing_status == "ended"


def test_an_outage_of_some_endpoints_for_some_calls(sim: Simulator, http: httpx2.Client) -> None:
    outage = {
        "fault": {"kind": "spend_limit"},
        "endpoints": ["create", "messages"],
        "from_call": 2,
        "to_call": 3,
    }
    sim.set_faults(Faults.of(outages=[outage]))
    statuses = [create(http).status_code for _ in range(2)]
    statuses += [http.post("/v1/messages", json=params()).status_code for _ in range(2)]
    assert statuses == [200, 429, 429, 200]
    assert http.get(BATCHES).status_code == 200


def statuses_under_chance(seed: int) -> list[int]:
    chance = {"probability": 0.5, "fault": {"kind": "error", "status": 529}}
    faults = Faults.of(list={"chances": [chance]})
    with running_simulator(seed=seed, faults=faults) as sim, raw_http(sim) as http:
        return [http.get(BATCHES).status_code for _ in range(24)]


def test_chance_repeats_under_a_seed() -> None:
    first = statuses_under_chance(1)
    assert set(first) == {200, 529}
    assert first == statuses_under_chance(1)
    assert first != statuses_under_chance(2)


def test_faults_over_http_are_checked_and_taken(client: Anthropic, http: httpx2.Client) -> None:
    url = "/simulator/faults"
    wrong = http.put(url, content="retrieve: {skript: []}")
    assert wrong.status_code == 400
    assert "retrieve.skript: unknown key" in wrong.json()["error"]["message"]
    right = http.put(url, content='{"list": {"script": [{"kind": "error", "status": 500}]}}')
    assert right.status_code == 200
    with pytest.raises(InternalServerError):
        client.messages.batches.list()


def test_a_cut_connection_does_not_disturb_others(sim: Simulator) -> None:
    sim.set_faults(Faults.of(create={"script": [{"kind": "drop", "when": "before"}]}))
    with sdk(sim) as client:
        client.messages.batches.list()  # opens a connection, which the next call uses again
        with pytest.raises(APIConnectionError):
            client.messages.batches.create(requests=requests(1))
        assert client.messages.batches.list().data == []
