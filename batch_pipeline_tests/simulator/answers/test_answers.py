"""Answers as messages: stop reasons, tools, thinking, lengths and tokens."""

from __future__ import annotations

from typing import Any

import orjson
from anthropic import Anthropic
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.simulator.answers.content import Answer, answer
from batch_pipeline.simulator.answers.tokens import count_input, count_text
from batch_pipeline.simulator.books.content_digest import content_digest
from batch_pipeline_tests.simulator.conftest import TOOL, params


def said(seed: int = 0, **changes: Any) -> Answer:
    asked = params(**changes)
    return answer(asked, content_digest(asked), seed)


def test_real_time_and_schema_through_the_sdk(client: Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"animal": {"type": "string", "enum": ["cat", "fox", "dog"]}},
        "required": ["animal"],
        "additionalProperties": False,
    }
    message = client.messages.create(
        **params(output_config={"format": {"type": "json_schema", "schema": schema}})
    )
    assert orjson.loads(message.content[0].text) == {"animal": "fox"}
    assert message.stop_reason == "end_turn"
    assert message.usage.service_tier == "standard"
    counted = client.messages.count_tokens(
        model=message.model,
        messages=[{"role": "user", "content": params()["messages"][0]["content"]}],
    )
    assert counted.input_tokens == message.usage.input_tokens


def test_a_model_alias_is_answered_by_its_full_name(client: Anthropic) -> None:
    message = client.messages.create(**params(model="claude-haiku-4-5"))
    assert message.model == "claude-haiku-4-5-20251001"
    assert client.models.retrieve("claude-haiku-4-5").id == "claude-haiku-4-5-20251001"
    assert message.model in [model.id for model in client.models.list()]


@given(st.text(min_size=1).filter(str.strip), st.integers(1, 80), st.integers(0, 9))
def test_no_answer_is_longer_than_max_tokens(text: str, max_tokens: int, seed: int) -> None:
    got = said(seed, text=text, max_tokens=max_tokens, thinking={"type": "adaptive"})
    assert 0 <= got.thinking_tokens <= got.output_tokens <= max_tokens
    visible = sum(count_text(block.get("text", "")) for block in got.content)
    assert visible <= max_tokens - got.thinking_tokens
    assert (got.stop_reason == "max_tokens") == (got.output_tokens == max_tokens) or (
        got.stop_reason == "end_turn"
    )


def test_lengths_have_a_long_tail_that_rarely_reaches_max_tokens() -> None:
    answers = [said(text=f"Document {i}: " + "some words to quote " * 40) for i in range(2_000)]
    lengths = sorted(each.output_tokens for each in answers)
    cut = sum(each.stop_reason == "max_tokens" for each in answers)
    assert 0 < cut < 20
    assert lengths[-20] > 4 * lengths[1_000]


def test_one_token_cuts_an_answer_off() -> None:
    got = said(max_tokens=1)
    assert (got.stop_reason, got.output_tokens) == ("max_tokens", 1)


def test_a_forced_tool_is_used() -> None:
    for choice in ({"type": "tool", "name": "record"}, {"type": "any"}):
        got = said(tools=[TOOL], tool_choice=choice)
        assert got.stop_reason == "tool_use"
        assert got.content[-1]["type"] == "tool_use"
        assert got.content[-1]["input"].keys() == {"topic"}


def test_thinking_comes_first_and_counts() -> None:
    got = said(thinking={"type": "enabled", "budget_tokens": 1_024})
    assert [block["type"] for block in got.content] == ["thinking", "text"]
    assert 0 < got.thinking_tokens < got.output_tokens


def test_a_stop_sequence_ends_the_answer() -> None:
    text = "one two three four five six seven eight nine ten"
    whole = said(text=text).content[0]["text"]
    got = said(text=text, stop_sequences=[" "])
    assert " " in whole
    assert (got.stop_reason, got.stop_sequence) == ("stop_sequence", " ")
    assert all(" " not in block["text"] for block in got.content)


def test_other_seeds_and_other_content_give_other_answers() -> None:
    text = " ".join(f"word{i}" for i in range(500))
    assert said(0, text=text) == said(0, text=text)
    assert said(0, text=text) != said(1, text=text)
    assert said(0, text=text) != said(0, text=text, max_tokens=201)


def test_tokens_follow_bytes() -> None:
    assert count_text("") == 0
    assert count_text("a" * 400) == 100
    assert count_text("語" * 400) == 300
    assert count_input(params("a" * 400)) - count_input(params("a" * 4)) == 99
