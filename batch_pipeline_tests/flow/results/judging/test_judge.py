"""Result lines become rows and counts, exact to the picodollar, whatever the lines hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.flow.answers.messages import AnswerReader, usage_of
from batch_pipeline.flow.answers.outcomes import Action, AskedFor, Outcome, Status
from batch_pipeline.flow.answers.schemas import ANSWERS_SCHEMA, RESULTS_SCHEMA, SUMMED
from batch_pipeline.flow.dataset.choosing import decisions
from batch_pipeline.flow.dataset.requests.declaration import Declaration, custom_id, parse_custom_id
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import manifests
from batch_pipeline.flow.results.judging.judge import LineJudge
from batch_pipeline.jobs.spec import RetrySpec
from batch_pipeline.pricing.prices import ModelPrice, find_price
from batch_pipeline.pricing.tokens import TOKENS
from batch_pipeline_tests.flow.dataset.prepared_rows import SNAPSHOT, SUBMISSION
from batch_pipeline_tests.support import job

TOKEN = "abcdefghijklmnop"
REQUESTS = 6
SUBMITTED = replace(SUBMISSION, token=TOKEN, requests=REQUESTS)
TOOLS = {"tools": [{"name": "note", "input_schema": {}}], "tool_choice": {"type": "any"}}
SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
# Requests 1 and 4 answer other items too.
OTHERS = [(1, 98, "and"), (4, 99, "the same again"), (4, 97, "and again")]
FOLLOWERS = {1: [(98, "and")], 4: [(99, "the same again"), (97, "and again")]}


PIPELINE = cast("Pipeline", SimpleNamespace(files=None))
MODEL = "claude-haiku-4-5-20251001"


def manifest() -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "unit": f"unit {n}", "fingerprint": f"print {n}", "ordinal": n, "id": f"Akte {n}/ä",
            "request_bytes": 100 + n, "attempt": 1 + n % 3, "attempts_before": n % 2,
            "variant": None, **{f"prior_{name}": n for name in SUMMED},
        }
        for n in range(REQUESTS)
    ]  # fmt: skip
    for row in rows:
        row["prior_cost_usd"] = Decimal(row["ordinal"]).scaleb(-12)
    return pa.Table.from_pylist(rows, schema=manifests.SCHEMA)


def price_of(model: str) -> ModelPrice:
    return find_price(model, datetime(2026, 11, 1, tzinfo=UTC))


@dataclass
class Judged:
    """The rows of some lines, by request, and the judge that made them."""

    judge: LineJudge
    answers: dict[int, dict[str, Any]]
    results: list[dict[str, Any]]


def judged(
    lines: list[bytes],
    *,
    schema: dict[str, Any] | None = None,
    model: str = MODEL,
    params: dict[str, Any] | None = None,
    gone: str | None = None,
) -> Judged:
    declaration = Declaration.of(job("/in.jsonl", output_schema=schema, params=params or {}))
    snapshot = replace(SNAPSHOT, declaration=declaration.to_json())
    retry = RetrySpec(truncated_max_tokens=8_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decisions, "followers", lambda *_: FOLLOWERS)
        judge = LineJudge(
            PIPELINE, SUBMITTED, snapshot, manifest(), retry, price_of(model), gone=gone
        )
    blocks = [b"\n".join(lines[:4]) + b"\n", b"\n".join(lines[4:])]
    answers: dict[int, dict[str, Any]] = {}
    results: list[dict[str, Any]] = []
    for chunk in judge.chunks(blocks):
        assert chunk.answers.schema == ANSWERS_SCHEMA
        assert chunk.results.schema == RESULTS_SCHEMA
        for row in chunk.answers.to_pylist():
            number = int(row["custom_id"].removeprefix(f"{TOKEN}_"))
            assert number not in answers, "a request was answered twice"
            answers[number] = row
        results += chunk.results.to_pylist()
    return Judged(judge, answers, results)


def line(number: int, message: dict[str, Any]) -> bytes:
    result = {"type": "succeeded", "message": message}
    return orjson.dumps({"custom_id": custom_id(TOKEN, number), "result": result})


def message(text: str, **changes: Any) -> dict[str, Any]:
    return {
        "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "model": MODEL,
        "usage": {"input_tokens": 1, "output_tokens": 2}, **changes,
    }  # fmt: skip


TEXTS = st.one_of(
    st.sampled_from(
        ["", " ", "\u3000", "\x1c", "x", "漢字", "a\u2028b\x85", "😀", '{"a": 1}', "{"]
    ),
    st.text(max_size=8),
)
BLOCKS = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}),
    st.sampled_from([
        {"type": "text"}, {"type": "text", "text": None}, {"type": "thinking", "thinking": "hm"},
        {"type": "tool_use", "input": {"a": 1}}, {"type": "novel", "text": "not this"}, {}, None,
    ]),
)  # fmt: skip
COUNTS = st.one_of(st.integers(0, 500_000), st.sampled_from([None, 0, -1, True, 7.0, 2**40, "7"]))
USAGES = st.one_of(
    st.fixed_dictionaries(
        {"input_tokens": COUNTS},
        optional={
            "output_tokens": COUNTS, "cache_creation_input_tokens": COUNTS,
            "cache_read_input_tokens": COUNTS, "service_tier": st.just("batch"),
            "cache_creation": st.one_of(
                st.none(), st.fixed_dictionaries({"ephemeral_1h_input_tokens": COUNTS})
            ),
        },
    ),
    st.none(),
)  # fmt: skip
GOOD_USAGE = st.fixed_dictionaries(
    {"input_tokens": st.integers(0, 300_000), "output_tokens": st.integers(0, 500)}
)
MESSAGES = st.fixed_dictionaries(
    {
        "content": st.one_of(
            st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), max_size=2),
            st.lists(BLOCKS, max_size=3),
        ),
        "stop_reason": st.sampled_from(
            [
                "end_turn",
                "end_turn",
                "tool_use",
                "tool_use",
                "stop_sequence",
                "max_tokens",
                "refusal",
                "novel",
                None,
            ]
        ),
        "usage": st.one_of(GOOD_USAGE, USAGES),
    },
    optional={"model": st.sampled_from(["claude-haiku-4-5", None]), "novel": st.just({"a": [1]})},
)
RESULTS = st.one_of(
    st.fixed_dictionaries({"type": st.just("succeeded"), "message": MESSAGES}),
    st.fixed_dictionaries({"type": st.just("succeeded"), "message": MESSAGES}),
    st.sampled_from([
        {"type": "expired"}, {"type": "canceled"}, {"type": "novel", "x": 1},
        {"type": "errored", "error": {"error": {"type": "overloaded_error", "message": "x"}}},
        {"type": "errored", "error": {"error": {"type": "billing_error", "message": "x"}}},
    ]),
)  # fmt: skip
OWN_IDS = st.integers(0, REQUESTS - 1).map(lambda number: custom_id(TOKEN, number))
IDS = st.one_of(
    OWN_IDS,
    st.sampled_from([f"{TOKEN}_007", f"{TOKEN}_99", "ponmlkjihgfedcba_1", "x", None, 5, ""]),
)
ANY_LINES = st.fixed_dictionaries(
    {"custom_id": IDS, "result": RESULTS}, optional={"novel": st.just({"a": None})}
)
TYPED_LINES = st.builds(
    lambda custom_id, text, usage, stop: {
        "custom_id": custom_id,
        "result": {
            "type": "succeeded",
            "message": {
                "content": [{"type": "text", "text": text}], "usage": usage, "stop_reason": stop,
            },
        },
    },
    OWN_IDS, TEXTS, GOOD_USAGE, st.sampled_from(["end_turn", "end_turn", "max_tokens"]),
)  # fmt: skip
LINES = st.one_of(
    st.lists(TYPED_LINES, max_size=8),
    st.lists(TYPED_LINES, max_size=8),
    st.lists(st.one_of(TYPED_LINES, TYPED_LINES, TYPED_LINES, ANY_LINES), max_size=8),
).map(lambda lines: [orjson.dumps(line) for line in lines])
ODD_LINES = st.sampled_from([
    b"", b"{}", b"null", b"[1]", b'{"custom_id":"x"}', b'{"custom_id":"x","result":null}',
    b'{"custom_id":"\xff","result":{}}', b'{"custom_id": "x", "result": {"type": "\\ud800"}}',
    b'{"result":{"type":"succeeded"}}',
])  # fmt: skip


# What a line may look like that was not written by the API as it is today.
MANGLED: tuple[Callable[[bytes], bytes], ...] = (
    lambda line: line[:-3],
    lambda line: line + line,
    lambda line: line.replace(b'"type":"text"', b'"type":"x","type":"text"'),
    lambda line: line.replace(b'"text":"', b'"text":"\\ud800'),
    lambda line: line.replace(b'"text":"', b'"text":"\\udc00'),
    lambda line: line.replace(b'"text":"', b'"text":"\xff'),
    lambda line: line.replace(b":", b" : "),
    lambda line: b"  " + line + b"\r",
)


@settings(max_examples=250, deadline=None)
@given(
    lines=LINES,
    odd=st.one_of(st.none(), st.none(), st.none(), ODD_LINES),
    mangle=st.one_of(st.none(), st.none(), st.none(), st.sampled_from(MANGLED)),
    schema=st.sampled_from([None, None, SCHEMA]),
    model=st.sampled_from([MODEL, "claude-haiku-5-5"]),
    params=st.sampled_from([{}, TOOLS]),
)
def test_rows_and_counts_agree_with_the_lines(
    lines: list[bytes],
    odd: bytes | None,
    mangle: Callable[[bytes], bytes] | None,
    schema: Any,
    model: str,
    params: dict[str, Any],
) -> None:
    if mangle is not None and lines:
        lines = [mangle(lines[0]), *lines[1:]]
    if odd is not None:
        lines = [*lines[:2], odd, *lines[2:]]
    found = judged(lines, schema=schema, model=model, params=params)
    answers, counts = found.answers, found.judge.counts(duplicate=False)
    firsts = _first_results(lines)
    assert set(answers) == set(firsts)
    price = price_of(model)
    for number, answer in answers.items():
        said = firsts[number].get("message") if firsts[number].get("type") == "succeeded" else None
        usage = usage_of(said or {})
        assert answer["cost_usd"] == price.cost(usage, mode="batch")
        assert [answer[name] for name in TOKENS] == [getattr(usage, name) for name in TOKENS]
        kept = answer["status"] == "succeeded"
        assert answer["final"] or not kept
        assert (answer["error_type"] is None) is kept
        assert answer["parsed"] == (answer["content"] if kept and schema is not None else None)
    assert found.judge.cost == sum(answer["cost_usd"] for answer in answers.values())
    assert counts.tokens == {
        name: sum(answer[name] for answer in answers.values()) for name in TOKENS
    }
    settled = [number for number, answer in answers.items() if answer["final"]]
    assert counts.open == len(answers) - len(settled)
    rows = {row["id"]: row for row in found.results}
    assert len(rows) == len(found.results) == sum(counts.items.values())
    for number in settled:
        answer, row = answers[number], rows.pop(f"Akte {number}/ä")
        for name in TOKENS:
            assert row[name] == answer[name] + number
        assert row["cost_usd"] == answer["cost_usd"] + Decimal(number).scaleb(-12)
        for item_id in (i for r, _, i in OTHERS if r == number):
            other = rows.pop(item_id)
            assert [other[name] for name in SUMMED] == [0] * len(SUMMED)
            same = set(RESULTS_SCHEMA.names) - {"id", *SUMMED}
            assert {name: other[name] for name in same} == {name: row[name] for name in same}
    assert not rows, "rows of items that no settled request answers"
    dead = sorted(row["id"] for row in found.results if row["status"] != "succeeded")
    assert sorted(letter.id for letter in found.judge.letters) == dead


def _first_results(lines: list[bytes]) -> dict[int, dict[str, Any]]:
    """The result that counts of each request: the first that succeeded, else the first."""
    found: dict[int, dict[str, Any]] = {}
    for line in lines:
        try:
            data = json.loads(line)
            known = parse_custom_id(data["custom_id"])
        except (ValueError, KeyError, TypeError):
            continue
        if known is not None and known[0] == TOKEN and known[1] < REQUESTS:
            former = found.setdefault(known[1], data["result"])
            if former.get("type") != "succeeded" and data["result"].get("type") == "succeeded":
                found[known[1]] = data["result"]
    return found


THOUGHT = {"type": "thinking", "thinking": "hm"}


@pytest.mark.parametrize(
    ("content", "stop_reason", "params", "answer"),
    [
        ([THOUGHT, {"type": "text", "text": "yes"}], "end_turn", {}, "yes"),
        ([{"type": "tool_use", "input": {"b": [1, None]}}], "tool_use", TOOLS, '{"b":[1,null]}'),
        (
            [{"type": "text", "text": ""}, *[{"type": "tool_use", "input": n} for n in (1, 2)]],
            "tool_use", TOOLS, "12",
        ),
    ],
)  # fmt: skip
def test_text_or_else_the_inputs_of_tool_calls_are_the_answer(
    content: list[Any], stop_reason: str, params: dict[str, Any], answer: str
) -> None:
    said = message("", content=content, stop_reason=stop_reason)
    found = judged([line(number, said) for number in range(REQUESTS)], params=params)
    found.judge.check_complete()
    assert {row["content"] for row in found.results} == {answer}
    assert {row["status"] for row in found.results} == {"succeeded"}
    assert len(found.results) == REQUESTS + len(OTHERS)


CALL = {"type": "tool_use", "name": "note", "input": {"b": 1}}
FREE = {"tools": TOOLS["tools"]}


@pytest.mark.parametrize(
    ("params", "status", "parsed", "kept"),
    [
        # Forced: the call is the answer, and breaks the schema. Free: it is another answer.
        (TOOLS, "invalid_output", None, None),
        (FREE, "succeeded", None, '{"tool_calls":[{"name":"note","input":{"b":1}}]}'),
        ({}, "invalid_output", None, '{"tool_calls":[{"name":"note","input":{"b":1}}]}'),
    ],
)
def test_a_call_that_nothing_forced_is_an_answer_beside_the_schema(
    params: dict[str, Any], status: str, parsed: str | None, kept: str | None
) -> None:
    said = message("", content=[CALL], stop_reason="tool_use")
    [answer] = judged([line(0, said)], schema=SCHEMA, params=params).answers.values()
    assert (answer["status"], answer["parsed"], answer["details"]) == (status, parsed, kept)
    assert answer["content"] == '{"b":1}'


@pytest.mark.parametrize(
    ("before", "after", "schema", "content", "parsed"),
    [
        ("It ", "is so.", None, "It is so.", None),
        ('{"a"', ": 1}", SCHEMA, '{"a": 1}', '{"a": 1}'),
        ("I look.", '{"a": 1}', SCHEMA, '{"a": 1}', '{"a": 1}'),
        ("I look.", '{"b": 1}', SCHEMA, '{"b": 1}', None),
    ],
)
def test_what_came_before_a_pause_belongs_to_the_answer(
    before: str, after: str, schema: dict[str, Any] | None, content: str, parsed: str | None
) -> None:
    reader, kept = AnswerReader(schema), Outcome(Status.SUCCEEDED, Action.KEEP)
    paused = [{"type": "text", "text": before}, {"type": "server_tool_use", "input": {"q": 1}}]
    said = {"content": [{"type": "text", "text": after}], "stop_reason": "end_turn"}
    outcome, text, found = reader.read(said, kept, AskedFor(), paused)
    assert (text, found) == (content, parsed)
    assert (outcome == kept) is (schema is None or parsed is not None)


def test_stop_reason_and_model_of_another_type_are_kept_as_text() -> None:
    said = message("x", stop_reason=["a"], model=7)
    [answer] = judged([line(0, said)]).answers.values()
    assert (answer["status"], answer["stop_reason"]) == ("invalid_output", "['a']")
    assert answer["model"] == "7"


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    torn = line(0, message("half?")).replace(b"half", b"half \\ud800")
    [answer] = judged([torn]).answers.values()
    assert answer["content"] == "half \ufffd?"


def test_the_items_of_a_duplicate_do_not_count_but_its_tokens_do() -> None:
    counts = judged([line(0, message("x"))]).judge.counts(duplicate=True)
    assert (counts.items, counts.open, counts.first_attempts) == ({}, 0, 0)
    assert counts.tokens["output_tokens"] == 2
    measured = counts.measured_answers, counts.measured_bytes, counts.measured_tokens
    assert measured == (1, 100, 1)
