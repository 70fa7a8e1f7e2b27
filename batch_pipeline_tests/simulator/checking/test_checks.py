"""What is refused at once: raw HTTP, since the SDK cannot send most of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.simulator import Simulator, content_hash, running_simulator, wire
from batch_pipeline.simulator.answers.prompt_cache import PromptCache
from batch_pipeline.simulator.batches.settlement import Responder
from batch_pipeline.simulator.books.content_digest import content_digest
from batch_pipeline.simulator.checking.checks import KNOWN_PARAMS, check_batch, check_message
from batch_pipeline_tests.simulator.conftest import params

VERSION = {"anthropic-version": "2026-10-21"}


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    """One for all: what is refused leaves nothing behind."""
    with running_simulator(turnaround=0.0) as simulator:
        yield simulator


def entry(custom_id: Any = "a", **changes: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "params": params(**changes)}


def files(sim: Simulator) -> list[Path]:
    return sorted(sim._store._spool._folder.iterdir())


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ([], "Input should be"),
        ({}, "requests: Field required"),
        ({"requests": {}}, "requests: Input"),
        ({"requests": []}, "at least 1 item"),
        ({"requests": [entry()], "name": "mine"}, "name: Extra inputs"),
        ({"requests": ["a"]}, "requests.0: Input"),
        ({"requests": [entry(), entry("b"), entry()]}, "requests.2.custom_id"),
        ({"requests": [entry("")]}, "requests.0.custom_id"),
        ({"requests": [entry("a" * 65)]}, "requests.0.custom_id"),
        ({"requests": [entry("é")]}, "requests.0.custom_id"),
        ({"requests": [entry("a\n")]}, "requests.0.custom_id"),
        ({"requests": [entry(7)]}, "requests.0.custom_id"),
        ({"requests": [{"custom_id": "a"}]}, "requests.0.params"),
        ({"requests": [{**entry(), "extra": 1}]}, "requests.0.extra: Extra inputs"),
        ({"requests": [entry(stream=False)]}, "requests.0.params.stream"),
        ({"requests": [entry(speed="fast")]}, "requests.0.params.speed"),
        ({"requests": [entry(store=True)]}, "requests.0.params.store"),
        ({"requests": [entry(max_tokens=0)]}, "requests.0.params.max_tokens"),
    ],
)
def test_a_malformed_request_refuses_the_whole_batch(
    sim: Simulator, http: httpx2.Client, body: Any, where: str
) -> None:
    before = http.get("/v1/messages/batches").json(), files(sim)
    response = http.post("/v1/messages/batches", json=body)
    answer = response.json()

    assert response.status_code == 400
    assert (answer["type"], answer["error"]["type"]) == ("error", "invalid_request_error")
    assert where in answer["error"]["message"]
    assert answer["request_id"] == response.headers["request-id"]
    assert (http.get("/v1/messages/batches").json(), files(sim)) == before


def test_a_batch_may_hold_100_000_requests_and_no_more() -> None:
    body = {"requests": [{"custom_id": f"r{i}", "params": {}} for i in range(100_001)]}
    with pytest.raises(wire.ApiError, match="at most 100000 items"):
        check_batch(body)
    body["requests"].pop()
    assert len(check_batch(body)) == 100_000


def test_a_body_of_too_many_bytes_makes_no_batch(
    sim: Simulator, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch_pipeline.simulator.batches.spool.MAX_BYTES_PER_BATCH", 1_000)
    fits = http.post("/v1/messages/batches", json={"requests": [entry()]})
    response = http.post("/v1/messages/batches", json={"requests": [entry(text="x" * 1_000)]})

    assert fits.status_code == 200
    assert response.status_code == 413
    assert response.json()["error"]["type"] == "request_too_large"
    assert [batch["id"] for batch in http.get("/v1/messages/batches").json()["data"]] == [
        fits.json()["id"]
    ]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"requests": [}'])
def test_a_body_that_is_no_json_is_an_invalid_request(http: httpx2.Client, body: bytes) -> None:
    for path in ("/v1/messages/batches", "/v1/messages"):
        response = http.post(path, content=body)
        assert response.status_code == 400, path
        assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        (VERSION, 401, "authentication_error"),
        ({**VERSION, "x-api-key": ""}, 401, "authentication_error"),
        ({**VERSION, "authorization": "Basic k"}, 401, "authentication_error"),
        ({"x-api-key": "k"}, 400, "invalid_request_error"),
        ({**VERSION, "x-api-key": "k"}, 200, None),
        ({"authorization": "Bearer k", "anthropic-version": "2023-06-01"}, 200, None),
    ],
)
def test_a_call_needs_a_key_and_a_version(
    sim: Simulator, headers: dict[str, str], status: int, kind: str | None
) -> None:
    with httpx2.Client(base_url=sim.url, verify=False) as plain:
        response = plain.get("/v1/messages/batches", headers=headers)
    assert response.status_code == status
    assert kind is None or response.json()["error"]["type"] == kind


@pytest.mark.parametrize(
    ("changes", "status", "kind"),
    [
        ({"model": "claude-nope"}, 404, "not_found_error"),
        ({"max_tokens": None}, 400, "invalid_request_error"),
        ({"max_tokens": True}, 400, "invalid_request_error"),
        ({"max_tokens": 1_000_000}, 400, "invalid_request_error"),
        ({"messages": []}, 400, "invalid_request_error"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "invalid_request_error"),
        ({"text": " \n"}, 400, "invalid_request_error"),
        ({"text": "x " * 500_000}, 400, "invalid_request_error"),
        ({"top_k": 3}, 400, "invalid_request_error"),
        ({"stream": True}, 400, "invalid_request_error"),
        ({"tool_choice": {"type": "any"}}, 400, "invalid_request_error"),
        ({"thinking": {"type": "adaptive"}}, 400, "invalid_request_error"),
        ({"output_config": {"effort": "low"}}, 400, "invalid_request_error"),
        (
            {"model": "claude-opus-5-5", "tools": [{"name": "t"}], "tool_choice": {"type": "any"}},
            400,
            "invalid_request_error",
        ),
    ],
)
def test_real_time_says_at_once_what_a_batch_says_late(
    sim: Simulator, http: httpx2.Client, changes: dict[str, Any], status: int, kind: str
) -> None:
    response = http.post("/v1/messages", json=params(**changes))
    assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
    assert content_hash(params(**changes)) not in sim.books.contents


def test_older_versions_still_take_sampling(http: httpx2.Client) -> None:
    older = {"anthropic-version": "2023-06-01"}
    assert http.post("/v1/messages", json=params(top_p=0.9), headers=older).status_code == 200


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "#"},
        {"$ref": "#/$defs/missing"},
        {"$ref": "https://example.com/schema.json"},
        {"enum": []},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    ],
)
def test_a_schema_that_no_value_fits_is_refused(schema: dict[str, Any]) -> None:
    config = {"format": {"type": "json_schema", "schema": schema}}
    problem = check_message(params(output_config=config), VERSION["anthropic-version"])
    assert problem is not None
    assert problem.message.startswith("output_config.format.schema: ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "any", "tool", "x"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "name", "text", "content"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.sampled_from(sorted(KNOWN_PARAMS - {"stream"})), JSON)
def test_what_passes_the_checks_can_be_answered(name: str, value: Any) -> None:
    """No odd value gets past the checks and then breaks the answer, which would stall a batch."""
    asked = {**params(), name: value}
    if check_message(asked, "2023-06-01") is None:
        got = Responder(0, PromptCache()).message(asked, content_digest(asked), "msg_01", "batch")
        assert got["usage"]["input_tokens"] > 0


def test_models_are_listed_in_the_shape_of_the_sdk(client: Anthropic) -> None:
    pages = [page.data for page in client.models.list(limit=5).iter_pages()]
    models = {model.id: model for page in pages for model in page}
    assert len(models) == sum(map(len, pages)) > 5
    opus = models["claude-opus-5-5"]
    assert opus.capabilities is not None
    assert (opus.lifecycle, opus.max_tokens) == ("active", 128_000)
    assert opus.capabilities.batch.supported
    assert not opus.capabilities.thinking.types.disabled.supported
    assert opus.capabilities.effort.xhigh is not None
    old = client.models.retrieve("claude-sonnet-4-5")
    assert old.lifecycle == "deprecated"
    assert str(old.retires_at).startswith("2026-11-30")
    assert [model.id for model in client.models.list(lifecycle=["retired"])] == []
