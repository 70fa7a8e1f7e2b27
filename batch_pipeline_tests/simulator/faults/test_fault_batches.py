"""Faults of batches and of the requests in them, other tenants, the queue, and the declaration."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import httpx2
import orjson
import pytest
from anthropic import Anthropic, APIConnectionError, APIStatusError, RateLimitError

from batch_pipeline.cli import main
from batch_pipeline.simulator import (
    Faults,
    FaultsError,
    Simulator,
    content_hash,
    load_faults,
    parse_faults,
    running_simulator,
)
from batch_pipeline.simulator.faults.declaration import OddEntry
from batch_pipeline_tests.simulator.conftest import params, raw_http, requests, sdk

ERRORS = (
    "rate_limit_error", "timeout_error", "api_error", "overloaded_error",
    "invalid_request_error", "request_too_large", "not_found_error", "authentication_error",
    "permission_error", "billing_error",
)  # fmt: skip


def results_of(http: httpx2.Client, entries: list[Any]) -> dict[str, Any]:
    """The results of a batch by custom id, and its request counts as `counts`."""
    batch_id = http.post("/v1/messages/batches", json={"requests": entries}).json()["id"]
    url = f"/v1/messages/batches/{batch_id}"
    found: dict[str, Any] = {"counts": http.get(url).json()["request_counts"]}
    for line in http.get(f"{url}/results").content.splitlines():
        value = orjson.loads(line)
        found[value["custom_id"]] = value["result"]
    return found


def always(outcome: str, **more: Any) -> Faults:
    return Faults.of(requests={"chances": [{"outcome": outcome, "probability": 1, **more}]})


@pytest.mark.parametrize(("outcome", "wire"), [(e, e) for e in ERRORS] + [("unknown_error", None)])
def test_an_errored_request_has_its_error_and_costs_nothing(
    sim: Simulator, http: httpx2.Client, outcome: str, wire: str | None
) -> None:
    sim.set_faults(always(outcome, message="as asked"))
    got = results_of(http, requests(2))
    error = got["r_0"]["error"]
    assert (got["r_0"]["type"], error["type"], got["counts"]["errored"]) == ("errored", "error", 2)
    assert error["error"]["message"] == "as asked"
    assert error["request_id"].startswith("req_01")
    if wire is None:
        assert error["error"]["type"] not in ERRORS
    else:
        assert error["error"]["type"] == wire
    assert sim.books.billed_requests == 0
    assert sim.books.faults == {f"requests.{outcome}": 2}


@pytest.mark.parametrize("outcome", ["expired", "canceled", "unknown_result"])
def test_a_request_without_an_answer_costs_nothing(
    sim: Simulator, http: httpx2.Client, outcome: str
) -> None:
    sim.set_faults(always(outcome))
    got = results_of(http, requests(3))
    assert sum(got["counts"].values()) == 3
    if outcome == "unknown_result":
        known = {"succeeded", "errored", "canceled", "expired"}
        assert got["r_0"]["type"] not in known
    else:
        assert got["r_0"] == {"type": outcome}
        assert got["counts"][outcome] == 3
    assert sim.books.billed_requests == 0


def test_odd_answers_are_billed(sim: Simulator, http: httpx2.Client) -> None:
    matching = [
        {"outcome": outcome, "contains": f'"{outcome}"'}
        for outcome in ("extra_fields", "refusal", "empty", "max_tokens", "not_json")
    ]
    sim.set_faults(Faults.of(requests={"matching": matching}))
    texts = [f'the word "{rule["outcome"]}" and more' for rule in matching]
    entries = [
        {"custom_id": r["outcome"], "params": params(t)}
        for r, t in zip(matching, texts, strict=True)
    ]
    got = results_of(http, [*entries, *requests(1)])
    message = {name: result["message"] for name, result in got.items() if name != "counts"}

    assert (message["refusal"]["stop_reason"], message["refusal"]["content"]) == ("refusal", [])
    assert (message["empty"]["stop_reason"], message["empty"]["content"]) == ("end_turn", [])
    assert message["max_tokens"]["stop_reason"] == "max_tokens"
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(message["not_json"]["content"][0]["text"])
    new = message["extra_fields"].keys() - message["r_0"].keys()
    assert new
    assert new == message["extra_fields"]["usage"].keys() - message["r_0"]["usage"].keys()
    assert (got["counts"]["succeeded"], sim.books.billed_requests) == (6, 6)
    assert sum(sim.books.faults.values()) == 5


def test_the_same_faults_for_the_same_content_in_any_batch_and_others_on_a_retry() -> None:
    chances = [{"outcome": "overloaded_error", "probability": 0.5}]

    def failed(seed: int, batches: list[list[Any]]) -> list[set[str]]:
        faults = Faults.of(requests={"chances": chances})
        with (
            running_simulator(turnaround=0.0, seed=seed, faults=faults) as sim,
            raw_http(sim) as http,
        ):
            return [
                {name for name, result in results_of(http, batch).items() if "error" in result}
                for batch in batches
            ]

    whole = requests(40)
    first, second = failed(1, [whole, whole])
    left, right = failed(1, [whole[:20], whole[20:]])
    assert 0 < len(first) < 40
    assert first == left | right
    assert second != first
    assert failed(2, [whole]) != [first]


def test_only_the_first_attempt_fails_even_over_a_restart(tmp_path: Path) -> None:
    matching = [{"outcome": "expired", "contains": "Document 1 of", "attempts": 1}]
    faults = Faults.of(requests={"matching": matching})
    outcomes = []
    for _ in range(2):
        with (
            running_simulator(turnaround=0.0, state_dir=tmp_path, faults=faults) as sim,
            raw_http(sim) as http,
        ):
            got = results_of(http, requests(2))
            outcomes.append((got["r_0"]["type"], got["r_1"]["type"]))
    assert outcomes == [("succeeded", "expired"), ("succeeded", "succeeded")]


def test_real_time_requests_fail_only_where_that_is_declared(
    sim: Simulator, client: Anthropic
) -> None:
    sim.set_faults(always("overloaded_error"))
    assert client.messages.create(**params()).content
    sim.set_faults(always("overloaded_error", ways="both", attempts=2))
    with pytest.raises(APIStatusError) as error:
        client.messages.create(**params())
    assert error.value.status_code == 529
    assert client.messages.create(**params()).content
    sim.set_faults(always("refusal", ways="realtime"))
    assert client.messages.create(**params()).stop_reason == "refusal"
    (content,) = sim.books.contents.values()
    assert (content.accepted, content.billed) == (4, 3)


def test_the_rest_of_a_batch_expires(sim: Simulator, client: Anthropic) -> None:
    sim.set_faults(Faults.of(expired_batches={"first": 1, "done": 0.25}))
    for expired in (6, 0):
        batch = client.messages.batches.create(requests=requests(8))
        counts = client.messages.batches.retrieve(batch.id).request_counts
        assert (counts.succeeded, counts.expired) == (8 - expired, expired)
    assert sim.books.faults == {"expired_batches": 1}


def test_foreign_batches_come_beside_ours(sim: Simulator, client: Anthropic) -> None:
    sim.set_faults(Faults.of(foreign_batches={"probability": 1}))
    ours = client.messages.batches.create(requests=requests(5))
    listed = client.messages.batches.list().data
    assert [batch.id == ours.id for batch in listed] == [False, True, False]
    assert {sum(batch.request_counts.to_dict().values()) for batch in listed} == {5}  # type: ignore[arg-type]
    foreign = [batch.id for batch in listed if batch.id != ours.id]
    for batch_id in foreign:
        assert client.messages.batches.retrieve(batch_id).request_counts.succeeded == 5
        custom_ids = [line.custom_id for line in client.messages.batches.results(batch_id)]
        assert len(custom_ids) == 5
        assert not any(custom_id.startswith("r_") for custom_id in custom_ids)
    client.messages.batches.retrieve(ours.id)

    assert (sim.books.batches_created, sim.books.foreign_batches_created) == (1, 2)
    assert (sim.books.accepted_requests, sim.books.billed_requests) == (5, 5)
    assert sim.books.highest_queue == 5
    assert sim.books.foreign_read == dict.fromkeys(foreign, 1)
    assert sim.books.foreign_touched == {}
    client.messages.batches.delete(ours.id)
    assert sim.books.foreign_touched == {}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_foreign_batch_comes_even_if_ours_does_not(
    sim: Simulator, client: Anthropic, when: str
) -> None:
    drop = {"kind": "drop", "when": "before"}
    foreign = {"probability": 1, "when": when}
    sim.set_faults(Faults.of(create={"script": [drop]}, foreign_batches=foreign))
    with pytest.raises(APIConnectionError):
        client.messages.batches.create(requests=requests(3))
    (candidate,) = client.messages.batches.list().data
    assert candidate.request_counts.succeeded == 3
    assert (sim.books.batches_created, sim.books.foreign_batches_created) == (0, 1)


def test_the_books_know_who_touched_a_foreign_batch(
    sim: Simulator, client: Anthropic, http: httpx2.Client
) -> None:
    sim.hold()
    first, second = sim.create_foreign_batch(2), sim.create_foreign_batch(3)
    client.messages.batches.cancel(first)
    with pytest.raises(APIStatusError):
        client.messages.batches.delete(second)
    sim.set_faults(Faults.of(cancel={"script": [{"kind": "drop", "when": "before"}]}))
    with pytest.raises(APIConnectionError):
        client.messages.batches.cancel(second)
    assert sim.books.foreign_touched == {first: 1, second: 2}
    shown = http.get("/simulator/books").json()
    assert shown["foreign_touched"] == {first: 1, second: 2}
    assert shown["faults"] == {"cancel.drop_before": 1}


def test_the_queue_filled_by_others_enforced_or_not() -> None:
    with running_simulator(queue_limit=10) as sim, sdk(sim) as client:
        sim.hold()
        sim.create_foreign_batch(4)
        sim.set_faults(Faults.of(queue={"foreign_requests": 3}))
        client.messages.batches.create(requests=requests(3))
        with pytest.raises(RateLimitError, match="processing queue"):
            client.messages.batches.create(requests=requests(1))
        sim.set_faults(Faults.of(queue={"enforced": False}))
        client.messages.batches.create(requests=requests(20))
        assert (sim.books.highest_queue, sim.queued) == (23, 27)


def test_the_books_have_the_cost_of_each_content(sim: Simulator, client: Anthropic) -> None:
    for _ in range(2):
        batch = client.messages.batches.create(requests=requests(2))
        client.messages.batches.retrieve(batch.id)
    content = sim.books.contents[content_hash(requests(1)[0]["params"])]
    assert (content.accepted, content.billed) == (2, 2)
    assert content.cost_usd > 0
    total = sum((each.cost_usd for each in sim.books.contents.values()), Decimal(0))
    assert total == sim.books.batch_cost_usd


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("creat: {}", "faults: creat: unknown key"),
        ("create: {scrip: []}", "faults: create.scrip: unknown key"),
        (
            "create: {script: [{kind: error, status: 500, statsu: 1}]}",
            "faults: create.script.0.statsu: unknown key",
        ),
        ("create: {script: [{kind: error}]}", "faults: create.script.0.status: Field required"),
        ("create: {script: [{kind: eror}]}", "create.script.0: Input tag 'eror'"),
        ("list: {script: [{kind: lines}]}", "list.script.0: Input tag 'lines'"),
        ("list: {chances: [{probability: 2, fault: {kind: drop}}]}", "list.chances.0.probability"),
        (
            "outages: [{fault: {kind: drop, times: 2}}]",
            "outages.0.fault: Value error, `times` belongs to the steps of a script",
        ),
        (
            "requests: {chances: [{outcome: expired, probability: 1, ways: both}]}",
            "expired exists in batches only",
        ),
        ("requests: {matching: [{outcome: nope, contains: a}]}", "requests.matching.0.outcome"),
        ("queue: {enforced: 1}", "queue.enforced"),
        ("queue: {}\nqueue: {}", "the key queue is there twice"),
        ("- 1", "faults: Input should be"),
        ("a: [", "faults is not YAML"),
    ],
)
def test_a_wrong_declaration_names_the_key(text: str, problem: str) -> None:
    with pytest.raises(FaultsError) as error:
        parse_faults(text)
    assert problem in str(error.value)


def test_a_file_may_be_yaml_or_json_or_missing(tmp_path: Path) -> None:
    declared = {"retrieve": {"script": [{"kind": "error", "status": 500}], "per_batch": True}}
    path = tmp_path / "faults.json"
    path.write_text(json.dumps(declared))
    assert load_faults(path) == Faults.of(**declared)
    path.write_text("")
    assert load_faults(path) == Faults()
    with pytest.raises(FaultsError, match=r"none\.yaml: No such file"):
        load_faults(tmp_path / "none.yaml")


def test_the_command_refuses_a_wrong_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text("creat: {}")
    with pytest.raises(SystemExit) as ended:
        main(["simulator", "--port", "0", "--faults", str(path)])
    assert ended.value.code == 2
    assert f"{path}: creat: unknown key" in capsys.readouterr().err


def test_the_example_of_the_docs_is_a_declaration_and_shows_every_section() -> None:
    page = (Path(__file__).parents[3] / "docs" / "simulator.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0]
    declared = parse_faults(example)
    assert declared.model_fields_set == Faults.model_fields.keys()
    for kind in ("error", "queue_full", "spend_limit", "revoked_key", "billing", "drop",
                 "unreadable", "cut", "slow", "lines", "normal"):  # fmt: skip
        assert f"kind: {kind}" in example
        assert f"`{kind}`" in page


def test_batches_are_described_wrongly(sim: Simulator, http: httpx2.Client) -> None:
    url = "/v1/messages/batches"
    ours = http.post(url, json={"requests": requests(2)}).json()
    sim.create_foreign_batch(3)
    truth = http.get(f"{url}/{ours['id']}").json()
    sim.set_faults(
        Faults.of(
            shown={
                "clock": 3_600.0,
                "counts": "wrong",
                "foreign_entries": ["no_id"],
                "has_more": "missing",
            }
        )
    )
    listed = http.get(url).json()
    foreign, shown = listed["data"]
    assert "has_more" not in listed
    assert "id" not in foreign
    assert shown == http.get(f"{url}/{ours['id']}").json()
    assert shown["id"] == truth["id"]
    assert shown["request_counts"]["succeeded"] == truth["request_counts"]["succeeded"] + 1
    assert shown["created_at"][:13] != truth["created_at"][:13]
    for oddity in get_args(OddEntry):
        sim.set_faults(Faults.of(shown={"foreign_entries": [oddity], "counts": "text"}))
        entry, shown = http.get(url).json()["data"]
        assert shown["request_counts"] == "many"
        assert (entry is None) is (oddity == "null")
