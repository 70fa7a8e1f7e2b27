"""Answers that go another way: calls of tools, pauses, wrong answers that heal, refusals."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from anthropic import Anthropic
from pydantic import ValidationError

from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.simulator.conftest import TOOL, params

SEARCH = {"type": "web_search_20250305", "name": "web_search"}
SCHEMA = {
    "type": "object",
    "properties": {"animal": {"type": "string", "enum": ["cat", "fox"]}},
    "required": ["animal"],
}
TEXT = "The quick brown fox."


def declared(sim: Simulator, **rule: Any) -> None:
    rule = {"contains": TEXT, "ways": "both", **rule}
    sim.set_faults(Faults.of(requests={"matching": [rule]}))


def test_a_tool_is_called_unforced(sim: Simulator, client: Anthropic) -> None:
    declared(sim, outcome="tool_call")
    answer = client.messages.create(**params(TEXT, tools=[SEARCH, TOOL]))
    assert answer.stop_reason == "tool_use"
    assert (answer.content[-1].type, answer.content[-1].name) == ("tool_use", "record")
    assert answer.content[-1].input.keys() == {"topic"}
    # A server runs its tools itself, and without a tool there is nothing to call.
    for tools in ([SEARCH], None):
        assert client.messages.create(**params(TEXT, tools=tools)).stop_reason == "end_turn"
    assert sim.books.faults == {"requests.tool_call": 1}


def test_an_answer_pauses_the_declared_times(sim: Simulator, client: Anthropic) -> None:
    declared(sim, outcome="pause_turn", times=2)
    asked = params(TEXT, model="claude-opus-5", tools=[SEARCH])
    said: list[Any] = []
    for reason in ("pause_turn", "pause_turn", "end_turn"):
        turns = [*asked["messages"], {"role": "assistant", "content": said}]
        answer = client.messages.create(**{**asked, "messages": turns if said else turns[:1]})
        assert answer.stop_reason == reason
        said += [block.to_dict() for block in answer.content]
    kinds = [block["type"] for block in said]
    assert kinds == ["text", "server_tool_use", "text", "server_tool_use", "text"]
    assert said[1]["name"] == "web_search"
    assert (sim.books.billed_requests, sim.books.faults) == (3, {"requests.pause_turn": 2})


@pytest.mark.parametrize("outcome", ["not_json", "invalid_output"])
def test_a_wrong_answer_heals_once_it_is_explained(
    sim: Simulator, client: Anthropic, outcome: str
) -> None:
    wanted = {"format": {"type": "json_schema", "schema": SCHEMA}}
    asked = params(TEXT, output_config=wanted)
    # An example looks like an explanation, and is none.
    example = [{"role": "user", "content": "A cat."}, {"role": "assistant", "content": "{}"}]
    asked["messages"] = [*example, *asked["messages"]]
    declared(sim, outcome=outcome, heals_when_explained=True)
    wrong = client.messages.create(**asked).content[0].text
    again = client.messages.create(**asked).content[0].text
    assert again == wrong
    if outcome == "invalid_output":
        assert "animal" not in orjson.loads(wrong)

    explained = [
        *asked["messages"],
        {"role": "assistant", "content": wrong},
        {"role": "user", "content": "Your answer does not fit the schema."},
    ]
    asked["messages"] = explained
    assert orjson.loads(client.messages.create(**asked).content[0].text)["animal"] in ("cat", "fox")
    declared(sim, outcome=outcome)
    assert client.messages.create(**asked).content[0].text == wrong


def test_an_answer_breaks_any_schema_that_can_be_broken(sim: Simulator, client: Anthropic) -> None:
    def answered(schema: dict[str, Any]) -> str:
        wanted = {"format": {"type": "json_schema", "schema": schema}}
        return str(client.messages.create(**params(TEXT, output_config=wanted)).content[0].text)

    declared(sim, outcome="invalid_output")
    assert not isinstance(orjson.loads(answered({"type": "object"})), dict)
    assert not isinstance(orjson.loads(answered({"type": ["object", "array"]})), dict | list)
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(answered({}))


def test_a_refusal_says_why(sim: Simulator, client: Anthropic) -> None:
    declared(sim, outcome="refusal", stop_details={"category": "bio", "explanation": "No."})
    answer = client.messages.create(**params(TEXT))
    assert answer.stop_details is not None
    assert answer.stop_details.to_dict() == {
        "type": "refusal", "category": "bio", "explanation": "No.",
    }  # fmt: skip
    declared(sim, outcome="refusal")
    assert client.messages.create(**params(TEXT)).stop_details is None


@pytest.mark.parametrize("outcome", ["tool_call", "pause_turn", "invalid_output"])
def test_params_that_cannot_be_answered_have_their_own_error(
    sim: Simulator, client: Anthropic, outcome: str
) -> None:
    """Such params may lack what the fault looks at: that must not hold up the batch."""
    sim.set_faults(Faults.of(requests={"chances": [{"outcome": outcome, "probability": 1.0}]}))
    bad: list[Any] = [{"model": "claude-haiku-4-5", "tools": 7}, params(messages=[]), {}]
    entries: Any = [{"custom_id": f"r{n}", "params": made} for n, made in enumerate(bad)]
    batch = client.messages.batches.create(requests=entries)
    results = [line.result for line in client.messages.batches.results(batch.id)]
    assert [result.type for result in results] == ["errored"] * 3
    assert sim.books.faults == {}


@pytest.mark.parametrize(
    ("key", "value", "owners"),
    [
        ("times", 2, "pause_turn"),
        ("heals_when_explained", True, "not_json and invalid_output"),
        ("stop_details", {"category": "bio"}, "refusal"),
    ],
)
def test_keys_of_other_outcomes_are_refused(key: str, value: Any, owners: str) -> None:
    with pytest.raises(ValidationError, match=f"`{key}` belongs to {owners}"):
        Faults.of(requests={"matching": [{"contains": "x", "outcome": "empty", key: value}]})
