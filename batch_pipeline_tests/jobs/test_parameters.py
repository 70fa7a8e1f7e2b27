"""Declarations that cannot work are refused where they are written; others are warned of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from anthropic.types.beta.message_create_params import MessageCreateParamsNonStreaming
from anthropic.types.message_create_params import MessageCreateParamsStreaming

from batch_pipeline.errors import DeclarationError
from batch_pipeline.jobs import parameters
from batch_pipeline.jobs.yaml_files.loading import load_job
from batch_pipeline_tests.jobs.test_spec import job, problems

HAIKU_4_5, HAIKU_5_5 = "claude-haiku-4-5-20251001", "claude-haiku-5-5"
OPUS_4_8, OPUS_5, OPUS_5_5 = "claude-opus-4-8", "claude-opus-5", "claude-opus-5-5"
SONNET_5, SONNET_5_5 = "claude-sonnet-5", "claude-sonnet-5-5"
OFF, ADAPTIVE = {"type": "disabled"}, {"type": "adaptive"}
TOOLS = [{"name": "note", "input_schema": {}}]
FORCED = {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "note"}}
RUNS_CODE = {"type": "code_execution_20250825", "name": "code_execution"}
VIA_BATCH = {"via": "batch"}
LONG = ["output-300k-2026-03-24"]


def thinking(budget: object) -> dict[str, Any]:
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def declared(params: dict[str, Any], model_id: str = HAIKU_4_5, **more: Any) -> dict[str, Any]:
    return {"params": params, "model_id": model_id, "max_tokens": 4_000, **more}


@pytest.mark.parametrize(
    ("key", "what"),
    [
        *(
            (f"params.{name}", declared({name: value}))
            for name in (
                "temperature", "top_p", "top_k", "fallbacks", "cache_hint", "context_hint",
                "previous_thread_event_id", "thread", "fallback_credit_token", "extra_body",
                "extra_headers", "extra_query", "timeout", "custom_id", "messages", "store",
                "speed",
            )
            for value in (1, None)
        ),
        (
            "params.billing_policy.bill_to",
            declared({"billing_policy": {"bill_to": "user_profile"}}),
        ),
        ("params.bill_to", declared({"bill_to": "user_profile"})),
        ("params.research_preview_2026_02", declared({"research_preview_2026_02": "active"})),
        ("params.metadata.user_id", declared({"metadata": {"user_id": 7}})),
        # Thinking that a model refuses.
        ("params.thinking.type", declared({"thinking": OFF}, OPUS_5_5)),
        ("params.thinking.type", declared({"thinking": OFF}, "claude-fable-5-2")),
        ("params.thinking.type", declared({"thinking": OFF}, "claude-mythos-5")),
        ("params.thinking.type", declared({"thinking": OFF}, SONNET_5_5)),
        ("params.thinking.type", declared({"thinking": ADAPTIVE})),
        ("params.thinking.type", declared(thinking(2_000), OPUS_4_8)),
        ("params.thinking.type", declared(thinking(2_000), HAIKU_5_5)),
        (
            "params.thinking.type",
            declared({"thinking": OFF, "output_config": {"effort": "max"}}, OPUS_5),
        ),
        ("params.thinking.type", declared(thinking(100))),
        ("params.thinking.type", declared(thinking(4_000))),
        ("params.thinking.type", declared(thinking("much"))),
        # Tools that are forced.
        ("params.tool_choice.type", declared(FORCED, OPUS_5_5)),
        ("params.tool_choice.type", declared(FORCED, "claude-fable-5-1")),
        (
            "params.tool_choice.type",
            declared({"tools": TOOLS, "tool_choice": {"type": "any"}}, SONNET_5_5),
        ),
        ("params.tool_choice.type", declared({**FORCED, **thinking(2_000)})),
        ("params.tool_choice.type", declared({"tool_choice": {"type": "any"}})),
        (
            "params.tool_choice.name",
            declared({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "other"}}),
        ),
        # A beta that only batches take.
        ("betas", declared({}, betas=LONG)),
        ("betas", declared({}, betas=LONG, pilot=VIA_BATCH, mode="auto")),
        ("betas", declared({}, betas=LONG, pilot={"size": 0}, mode="realtime")),
        ("betas", declared({}, betas=["a-2026-01-01, b-2026-01-01"])),
        ("betas", declared({}, betas=["a\nx-header: b"])),
        # A template without any placeholder.
        ("prompt.user", declared({}, prompt={"user": "Summarise the document."})),
        ("prompt.user", declared({}, prompt={"user": "Answer as {{text}}."})),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(key: str, what: dict[str, Any]) -> None:
    assert list(problems(**what)) == [key]


@pytest.mark.parametrize(
    "what",
    [
        declared({"thinking": OFF}),
        declared({"thinking": OFF}, HAIKU_5_5),
        declared({"thinking": OFF}, OPUS_5),
        declared({"thinking": ADAPTIVE}, OPUS_5_5),
        declared({"thinking": {"type": "between_tools"}}, SONNET_5_5),
        declared(thinking(2_000)),
        declared({**thinking(64_000), "tools": TOOLS}, betas=["interleaved-thinking-2025-05-14"]),
        declared(FORCED),
        declared(FORCED, HAIKU_5_5),
        declared({"tools": TOOLS, "tool_choice": {"type": "auto"}}, OPUS_5_5),
        declared({"tools": [{"type": "computer_toolset_20260801"}], **FORCED}),
        declared({"billing_policy": {"type": "billing_policy", "bill_to": "self"}}),
        declared({"metadata": {"user_id": "a-hash"}}),
        declared({"metadata": {"user_id": None}, "cache_control": None}),
        declared({}, betas=LONG, pilot=VIA_BATCH),
        declared({}, betas=LONG, pilot={"size": 0}),
        declared({}, prompt={"user": "{{{text}}}"}),
        declared({"tools": [{"type": "web_search_20250305", "max_uses": 5}]}),
        declared({"tools": [{"type": "web_search_20260318", "max_uses": 5}, RUNS_CODE]}),
        # Of a model that came later nothing is known.
        declared({"thinking": OFF, "output_config": {"effort": "max"}}, "claude-opus-7"),
    ],
)
def test_what_works_is_accepted_without_a_word(what: dict[str, Any]) -> None:
    assert parameters.warnings(job(**what).declared()) == []


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("params.cache_control: marks the end", declared({"cache_control": {"type": "ephemeral"}})),
        ("max_tokens: claude-haiku-5-5 thinks", {**declared({}, HAIKU_5_5), "max_tokens": 200}),
        ("params.thinkin: no Messages parameter that is known here; did you mean thinking?",
         declared({"thinkin": ADAPTIVE})),
        ("params.thinking.type: is between_tools",
         declared({"thinking": {"type": "between_tools"}}, SONNET_5)),
        ("params.output_config.effort: claude-haiku-4-5",
         declared({"output_config": {"effort": "low"}})),
        ("params.tools: has a web search without",
         declared({"tools": [{"type": "web_search_20250305"}]})),
        ("params.tools: has an advisor", declared({"tools": [{"type": "advisor_20260301"}]})),
        ("params.tools: has code execution",
         declared({"tools": [RUNS_CODE, {"type": "web_search_20250305", "max_uses": 5}]})),
        ("params.tools: leaves it to the model",
         declared({"tools": [{"name": "note", "input_schema": {}}]}, output_schema={})),
        ("prompt.user: has no {column} placeholder: the same request",
         declared({}, prompt={"user": "Write a joke."}, deduplicate=False)),
    ],
)  # fmt: skip
def test_what_costs_more_than_it_seems_is_warned_of(said: str, what: dict[str, Any]) -> None:
    [warning] = parameters.warnings(job(**what).declared())
    assert warning.startswith(said)


def test_thinking_that_is_off_needs_no_room() -> None:
    spec = job(**{**declared({"thinking": OFF}, HAIKU_5_5), "max_tokens": 200})
    assert parameters.warnings(spec.declared()) == []


def test_every_parameter_of_the_installed_sdk_is_known() -> None:
    of_the_sdk = {
        name
        for params in (MessageCreateParamsStreaming, MessageCreateParamsNonStreaming)
        for base in params.__mro__
        for name in getattr(base, "__annotations__", {})
    }
    ruled = {rule.key.split(".")[1] for rule in parameters.RULES if rule.key.startswith("params.")}
    assert of_the_sdk <= parameters.KNOWN | ruled | {"message"}


def test_a_refusal_names_file_line_and_key(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "user.md").write_text("No document here.")
    file = tmp_path / "one" / "defs.yaml"
    file.write_text(
        "type: batch_pipeline.BatchJobComponent\n"
        "attributes:\n"
        "  name: one\n"
        "  input: {path: x.csv}\n"
        "  prompt:\n"
        "    user_file: user.md\n"
        "  model_id: claude-opus-5-5\n"
        "  max_tokens: 5000\n"
    )
    with pytest.raises(DeclarationError, match=r"defs\.yaml:6: attributes\.prompt\.user_file: has"):
        load_job(file)
    (tmp_path / "one" / "user.md").write_text("{text}")
    with file.open("a") as declaration:
        declaration.write("  params:\n    thinking:\n      type: disabled\n")
    with pytest.raises(
        DeclarationError, match=r"defs\.yaml:11: attributes\.params\.thinking\.type"
    ):
        load_job(file)
