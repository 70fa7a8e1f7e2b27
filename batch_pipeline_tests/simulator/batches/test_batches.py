"""A batch's life over real HTTP with the official SDK."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import httpx2
import orjson
import pytest
from anthropic import Anthropic, BadRequestError, NotFoundError, RateLimitError

from batch_pipeline.simulator import SIMULATOR_HEADER, Simulator, running_simulator
from batch_pipeline_tests.simulator.conftest import params, requests, sdk


def test_every_request_gets_one_result_in_another_order(client: Anthropic) -> None:
    created = client.messages.batches.create(requests=requests(50))
    ended = client.messages.batches.retrieve(created.id)
    results = list(client.messages.batches.results(created.id))

    assert created.processing_status == "in_progress"
    assert (ended.processing_status, ended.request_counts.succeeded) == ("ended", 50)
    order = [line.custom_id for line in results]
    assert sorted(order) == sorted(f"r_{i}" for i in range(50))
    assert order != [f"r_{i}" for i in range(50)]


def test_a_running_batch_shows_all_requests_as_processing(
    sim: Simulator, http: httpx2.Client
) -> None:
    sim.hold()
    created = http.post("/v1/messages/batches", json={"requests": requests(3)}).json()
    poll = http.get(f"/v1/messages/batches/{created['id']}")

    assert poll.headers["retry-after"] == "10"
    assert poll.json() == created
    assert re.fullmatch(r"msgbatch_01\w{22}", created["id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", created["created_at"])
    del created["id"], created["created_at"], created["expires_at"]
    assert created == {
        "type": "message_batch",
        "processing_status": "in_progress",
        "request_counts": {
            "processing": 3, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0,
        },
        "ended_at": None,
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": None,
    }  # fmt: skip


def test_held_batches_end_after_release(sim: Simulator, client: Anthropic) -> None:
    sim.hold()
    batch = client.messages.batches.create(requests=requests(1))
    assert client.messages.batches.retrieve(batch.id).processing_status == "in_progress"
    sim.release()
    ended = client.messages.batches.retrieve(batch.id)
    assert ended.ended_at is not None
    assert ended.ended_at > batch.created_at


def test_turnaround_can_be_changed_for_running_batches(sim: Simulator, client: Anthropic) -> None:
    sim.set_turnaround(3_600)
    batch = client.messages.batches.create(requests=requests(1))
    assert client.messages.batches.retrieve(batch.id).processing_status == "in_progress"
    sim.set_turnaround(0)
    assert client.messages.batches.retrieve(batch.id).processing_status == "ended"


def test_results_stream_has_the_documented_headers_and_never_changes(
    sim: Simulator, http: httpx2.Client
) -> None:
    batch_id = http.post("/v1/messages/batches", json={"requests": requests(20)}).json()["id"]
    url = http.get(f"/v1/messages/batches/{batch_id}").json()["results_url"]
    first, second = http.get(url), http.get(url)

    assert url == f"{sim.url}/v1/messages/batches/{batch_id}/results"
    assert first.headers["content-type"] == "application/x-jsonl"
    assert first.headers["transfer-encoding"] == "chunked"
    assert (
        first.headers["content-disposition"] == f'attachment; filename="{batch_id}_results.jsonl"'
    )
    assert first.content == second.content
    usage = orjson.loads(first.content.splitlines()[0])["result"]["message"]["usage"]
    assert usage.keys() == {
        "input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens",
        "cache_creation", "service_tier", "inference_geo", "output_tokens_details",
        "server_tool_use",
    }  # fmt: skip
    assert usage["service_tier"] == "batch"


def test_the_same_params_are_answered_alike_in_every_batch(client: Anthropic) -> None:
    answers = []
    for _ in range(2):
        batch = client.messages.batches.create(requests=requests(5))
        client.messages.batches.retrieve(batch.id)
        results: dict[str, Any] = {
            line.custom_id: line.result for line in client.messages.batches.results(batch.id)
        }
        answers.append({custom_id: each.message.content for custom_id, each in results.items()})
    assert answers[0] == answers[1]


def test_list_pages_newest_first_in_both_directions(client: Anthropic) -> None:
    ids = [client.messages.batches.create(requests=requests(1)).id for _ in range(5)][::-1]
    pages = client.messages.batches

    first = pages.list(limit=2)
    assert ([b.id for b in first.data], first.has_more) == (ids[:2], True)
    assert (first.first_id, first.last_id) == (ids[0], ids[1])
    rest = pages.list(limit=3, after_id=ids[1])
    assert ([b.id for b in rest.data], rest.has_more) == (ids[2:], False)
    back = pages.list(limit=1, before_id=ids[2])
    assert ([b.id for b in back.data], back.has_more) == ([ids[1]], True)
    assert [b.id for b in pages.list(limit=2)] == ids  # the SDK's own paging
    with pytest.raises(BadRequestError):
        pages.list(limit=1_001)


def test_cancel_keeps_what_is_done(sim: Simulator, client: Anthropic) -> None:
    sim.hold()
    sim.set_done_at_cancel(0.4)
    batch = client.messages.batches.create(requests=requests(10))
    canceled = client.messages.batches.cancel(batch.id)
    ended = client.messages.batches.retrieve(batch.id)

    assert canceled.processing_status == "canceling"
    assert ended.processing_status == "ended"
    assert ended.cancel_initiated_at == canceled.cancel_initiated_at
    assert (ended.request_counts.succeeded, ended.request_counts.canceled) == (4, 6)
    assert sim.books.billed_requests == 4


def test_an_ended_batch_cannot_be_canceled(client: Anthropic) -> None:
    batch = client.messages.batches.create(requests=requests(1))
    with pytest.raises(BadRequestError):
        client.messages.batches.cancel(batch.id)


def test_cancel_leaves_more_undone_the_earlier_it_comes(sim: Simulator, client: Anthropic) -> None:
    sim.set_turnaround(3_600)
    batch = client.messages.batches.create(requests=requests(10))
    client.messages.batches.cancel(batch.id)
    assert client.messages.batches.retrieve(batch.id).processing_status == "canceling"
    sim.set_turnaround(0)
    assert client.messages.batches.retrieve(batch.id).request_counts.canceled == 10


def test_what_outlives_a_day_expires(sim: Simulator, client: Anthropic) -> None:
    sim.hold()
    batch = client.messages.batches.create(requests=requests(4))
    sim._store._running[batch.id] -= 24 * 3600
    ended = client.messages.batches.retrieve(batch.id)
    assert ended.ended_at == batch.expires_at
    assert ended.request_counts.expired == 4
    assert {line.result.type for line in client.messages.batches.results(batch.id)} == {"expired"}
    assert sim.books.billed_requests == 0


def test_delete_only_when_ended(sim: Simulator, client: Anthropic) -> None:
    sim.hold()
    batch = client.messages.batches.create(requests=requests(1))
    with pytest.raises(BadRequestError):
        client.messages.batches.delete(batch.id)
    sim.release()
    assert client.messages.batches.delete(batch.id).type == "message_batch_deleted"
    with pytest.raises(NotFoundError):
        client.messages.batches.retrieve(batch.id)
    assert client.messages.batches.list().data == []


def test_queue_limit_counts_all_unfinished_batches() -> None:
    with running_simulator(turnaround=0.0, queue_limit=10) as sim, sdk(sim) as client:
        sim.hold()
        client.messages.batches.create(requests=requests(6))
        with pytest.raises(RateLimitError) as refused:
            client.messages.batches.create(requests=requests(5))
        assert refused.value.response.headers["retry-after"] == "10"
        client.with_options(api_key="another").messages.batches.create(requests=requests(4))
        assert sim.queued == 10
        sim.release()
        assert sim.queued == 0
        client.messages.batches.create(requests=requests(10))
        assert (sim.books.highest_queue, sim.books.batches_created) == (10, 3)


def test_bad_params_show_only_at_the_end_and_cost_nothing(
    sim: Simulator, client: Anthropic
) -> None:
    bad = {
        "no-such-model": params(model="claude-nope"),
        "no_max_tokens": params(max_tokens=None),
        "no_messages": params(messages=[]),
        "sampling": params(temperature=0.5),
        "empty_text": params(""),
        "empty_block": params(
            messages=[{"role": "user", "content": [{"type": "text", "text": ""}]}]
        ),
        "text_as_max_tokens": params(max_tokens="many"),
        "unknown_key": params(colour="red"),
        "bad_schema": params(
            output_config={"format": {"type": "json_schema", "schema": {"type": "nonsense"}}}
        ),
    }
    entries: list[Any] = [{"custom_id": name, "params": each} for name, each in bad.items()]
    batch = client.messages.batches.create(requests=[*requests(1), *entries])
    counts = client.messages.batches.retrieve(batch.id).request_counts
    results = {r.custom_id: r.result for r in client.messages.batches.results(batch.id)}

    assert (counts.succeeded, counts.errored) == (1, len(bad))
    for name in bad:
        result = results[name]
        assert result.type == "errored"
        assert result.error.error.type == "invalid_request_error"
        assert result.error.request_id
    assert sim.books.billed_requests == 1


def test_a_schema_that_fails_only_sometimes_does_not_stall_the_batch(client: Anthropic) -> None:
    good, bad = {"const": 1}, {"enum": ["a"], "type": "integer"}
    schemas = [{"anyOf": [good, bad]}, {"anyOf": [bad, good]}]
    entries: list[Any] = [
        {
            "custom_id": f"{n}_{each['custom_id']}",
            "params": {
                **each["params"],
                "output_config": {"format": {"type": "json_schema", "schema": schema}},
            },
        }
        for n, schema in enumerate(schemas)
        for each in requests(20)
    ]
    batch = client.messages.batches.create(requests=entries)
    counts = client.messages.batches.retrieve(batch.id).request_counts
    assert counts.succeeded > 0
    assert counts.errored > 0
    assert counts.succeeded + counts.errored == 40


def test_paces_differ_but_repeat_under_a_seed() -> None:
    def ends(seed: int) -> list[float]:
        with running_simulator(turnaround=100.0, seed=seed) as sim, sdk(sim) as client:
            for _ in range(8):
                client.messages.batches.create(requests=requests(1))
            return [batch.pace for batch in sim._store._batches.values()]

    first = ends(1)
    assert first == ends(1) != ends(2)
    assert all(0.5 <= pace < 1.5 for pace in first)
    assert all(left != right for left, right in pairwise(first))


def test_every_response_names_the_simulator(http: httpx2.Client) -> None:
    batch_id = http.post("/v1/messages/batches", json={"requests": requests(1)}).json()["id"]
    responses = [
        http.get("/v1/messages/batches"),
        http.get(f"/v1/messages/batches/{batch_id}"),
        http.get(f"/v1/messages/batches/{batch_id}/results"),
        http.get("/simulator/books"),
        http.get("/nowhere"),
        http.put("/v1/models"),
        http.get("/v1/models", headers={"x-api-key": ""}),
    ]
    assert [r.status_code for r in responses] == [200, 200, 200, 200, 404, 405, 401]
    assert all(r.headers[SIMULATOR_HEADER] == "1" for r in responses)
    assert len({r.headers["request-id"] for r in responses}) == len(responses)
