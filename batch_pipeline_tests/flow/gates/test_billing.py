"""What an answer is billed beside its tokens, by its result line; exact to the picodollar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from batch_pipeline.flow.answers.messages import tokens_of
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.priced import most_searches
from batch_pipeline.flow.gates.billing import Biller
from batch_pipeline.flow.gates.prices import price_at
from batch_pipeline_tests.flow.dataset.prepared_rows import SUBMISSION
from batch_pipeline_tests.support import job

AT = datetime(2026, 11, 20, tzinfo=UTC)
HAIKU, DATED = "claude-haiku-4-5", "claude-haiku-4-5-20251001"
OPUS = "claude-opus-5"
# Tokens of which 0.5 + 2.5 USD a million tokens are billed, and 2.5 + 12.5 for Opus.
TOKENS = {"input_tokens": 1_000, "output_tokens": 100}
PLAIN = Decimal("0.00075")
OF_OPUS = Decimal("0.00375")
NO_FEES = dict.fromkeys(("server_tool_use", "inference_geo", "iterations"))
ADVICE = {"type": "advisor_message", "model": OPUS, **TOKENS}


def biller(mode: str = "batch", stated: Any = None, **changes: Any) -> Biller:
    declaration = Declaration.of(job("/in.jsonl", **{"model_id": HAIKU, **changes}))
    sent = replace(SUBMISSION, intent_at=AT.timestamp(), engine=mode, stated_prices=stated)  # type: ignore[arg-type]
    return Biller(declaration, sent, price_at(declaration, AT, stated))


def said(model: object = DATED, tokens: Mapping[str, Any] = TOKENS, **usage: Any) -> dict[str, Any]:
    return {"model": model, "usage": {**tokens, **usage}}


def iterated(*iterations: Any) -> dict[str, Any]:
    return said(iterations=list(iterations))


BILLED = {
    "nothing but tokens": (said(), "0.00075", "0.0015"),
    "searches": (said(server_tool_use={"web_search_requests": 5}), "0.05075", "0.0515"),
    "no search": (
        said(server_tool_use={"web_search_requests": 0, "web_fetch_requests": 9}),
        "0.00075", "0.0015",
    ),
    "inference in the US": (said(inference_geo="us"), "0.000825", "0.00165"),
    "inference anywhere": (said(inference_geo="global"), "0.00075", "0.0015"),
    "an older model": (said(inference_geo="not_available"), "0.00075", "0.0015"),
    "a dearer model": (said(OPUS), "0.00375", "0.0075"),
    "all cached classes of a dearer model": (
        said(OPUS, cache_read_input_tokens=1_000, cache_creation_input_tokens=3_000,
             cache_creation={"ephemeral_1h_input_tokens": 1_000}),
        "0.01525", "0.0305",
    ),
    "a dearer model in the US that searched": (
        said(OPUS, inference_geo="us", server_tool_use={"web_search_requests": 1}),
        "0.014125", "0.01825",
    ),
    "a cheaper model": (said("claude-haiku-5-5"), "0.000075", "0.00015"),
    "an advisor": (iterated({"type": "message", **TOKENS}, ADVICE), "0.0045", "0.009"),
    "two advices": (iterated(ADVICE, {"type": "message", **TOKENS}, ADVICE), "0.00825", "0.0165"),
    "a compaction": (iterated({"type": "compaction", **TOKENS}), "0.0015", "0.003"),
    "a declined attempt": (
        iterated({"type": "message", "model": OPUS, **TOKENS},
                 {"type": "fallback_message", "model": HAIKU, **TOKENS}),
        "0.0045", "0.009",
    ),
    "an iteration of no known type": (iterated({"model": OPUS, **TOKENS}), "0.0045", "0.009"),
    "an advisor in the US": (
        {**iterated(ADVICE), "usage": {**iterated(ADVICE)["usage"], "inference_geo": "us"}},
        "0.00495", "0.0099",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("message", "batch", "realtime"), BILLED.values(), ids=BILLED)
def test_an_answer_costs_the_same_by_either_engine(
    message: dict[str, Any], batch: str, realtime: str
) -> None:
    by_batch, by_call = biller("batch"), biller("realtime")
    assert by_batch.cost(message) == Decimal(batch)
    assert by_call.cost(message) == Decimal(realtime)
    fees = [fee["picodollars"] for names in by_batch.fees.values() for fee in names.values()]
    plain = said(tokens=message["usage"], **NO_FEES)
    assert Decimal(sum(fees)).scaleb(-12) == Decimal(batch) - by_batch.cost(plain)
    # And what each would have cost the other way.
    one, other = (each.bill(message, tokens_of(message)) for each in (by_batch, by_call))
    if one is not None and other is not None:
        assert one.other_way == other.picodollars


def test_a_dated_name_is_the_same_model() -> None:
    found = biller()
    assert found.is_plain(said(HAIKU))
    found.cost(said(DATED))
    assert found.is_plain(said(DATED))
    assert found.fees == {}


@pytest.mark.parametrize(
    ("message", "name", "usd"),
    [
        (said("claude-unheard-of-9"), "answers of claude-unheard-of-9", PLAIN),
        (said("claude-opus-4-1-20250805"), "answers of claude-opus-4-1-20250805", PLAIN),
        (said(None), "an answer whose model is null", PLAIN),
        (said({}), "an answer whose model is an object", PLAIN),
        (said(inference_geo="mars"), "inference_geo mars", PLAIN),
        (said(inference_geo=["us"]), "inference_geo a list", PLAIN),
        (
            said(server_tool_use={"code_execution_hours": 0.5, "web_search_requests": 1}),
            "server_tool_use.code_execution_hours",
            PLAIN + Decimal("0.01"),
        ),
        (
            said(server_tool_use={"web_search_requests": -5}),
            "server_tool_use.web_search_requests",
            PLAIN,
        ),
        (
            said(server_tool_use={"web_search_requests": 2**63}),
            "server_tool_use.web_search_requests",
            PLAIN,
        ),
        (said(server_tool_use=[5]), "server_tool_use is a list", PLAIN),
        (iterated({**ADVICE, "model": "unknown-9"}), "iterations of unknown-9", PLAIN),
        (iterated({**ADVICE, "input_tokens": "7"}), "iterations that cannot be read", PLAIN),
        (iterated(7, "x", None), "iterations that cannot be read", PLAIN),
        (said(iterations={"a": 1}), "iterations is an object", PLAIN),
    ],
)
def test_what_has_no_price_is_named(message: dict[str, Any], name: str, usd: Decimal) -> None:
    found = biller()
    assert found.cost(message) == usd
    assert [*found.fees["unpriced"]] == [name]
    assert "picodollars" not in found.fees["unpriced"][name]


def test_names_from_outside_are_bounded() -> None:
    found = biller()
    for number in range(1_000):
        found.cost(said(f"model\x00-{number}-{'x' * 1_000}"))
    names = found.fees["unpriced"]
    assert len(names) == 21
    assert sum(fee["quantity"] for fee in names.values()) == 1_000
    assert all(len(name) <= 100 and name.isprintable() for name in names)


def test_a_declared_region_is_part_of_the_price() -> None:
    found = biller(params={"inference_geo": "us"})
    assert found.cost(said(inference_geo="us")) == found.cost(said()) == PLAIN * Decimal("1.1")
    assert found.fees == {}
    assert found.cost(said(inference_geo="global")) == PLAIN


def test_stated_prices_are_those_of_the_jobs_own_model() -> None:
    classes = ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read")
    stated = {way: dict.fromkeys(classes, 1) for way in ("batch", "realtime")}
    usd = Decimal("0.0011")
    found = biller(stated=stated)
    assert found.cost(said(inference_geo="us")) == usd
    assert found.cost(said(server_tool_use={"web_search_requests": 1})) == usd + Decimal("0.01")
    assert found.cost(said(OPUS)) == OF_OPUS
    # A name that only the contract knows stands for any model.
    assert biller(stated=stated, model_id="our-model").cost(said(OPUS)) == usd


@pytest.mark.parametrize(
    ("tools", "most"),
    [
        ([], 0),
        ([{"name": "note", "input_schema": {}}], 0),
        ([{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}], 5),
        ([{"type": "web_search_20260318", "name": "web_search"}], None),
    ],
)
def test_the_declaration_bounds_searches(tools: list[dict[str, Any]], most: int | None) -> None:
    declared = Declaration.of(job("/in.jsonl", params={"tools": tools}))
    assert most_searches(declared) == most
