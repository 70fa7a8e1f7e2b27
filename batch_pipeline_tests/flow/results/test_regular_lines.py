"""Lines read column by column and lines judged one by one come to the same, whatever they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.errors import ApiError
from batch_pipeline.flow.dataset.requests import Declaration, custom_id
from batch_pipeline.flow.planning import followers, manifests
from batch_pipeline.flow.planning.followers import Followers
from batch_pipeline.flow.results.judge import LineJudge
from batch_pipeline.flow.schemas import RESULTS_SCHEMA, SUMMED
from batch_pipeline.jobs.spec import RetrySpec
from batch_pipeline.pricing.prices import ModelPrice, find_price
from batch_pipeline_tests.flow.dataset.prepared_rows import SNAPSHOT, SUBMISSION
from batch_pipeline_tests.support import job

TOKEN = "abcdefghijklmnop"
REQUESTS = 6
SUBMITTED = replace(SUBMISSION, token=TOKEN, requests=REQUESTS)
TOOLS = {"tools": [{"name": "note", "input_schema": {}}], "tool_choice": {"type": "any"}}
SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
# Requests 1 and 4 answer other items too.
FOLLOWERS = Followers.of([1, 4, 4], [98, 99, 97], ["and", "the same again", "and again"])


@dataclass(frozen=True)
class _Account:
    simulated: bool = False


@dataclass(frozen=True)
class _Pipeline:
    account: _Account = _Account()


def manifest() -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "unit": f"unit {n}", "fingerprint": f"print {n}", "ordinal": n, "id": f"Akte {n}/ä",
            "request_bytes": 100 + n, "attempt": 1 + n % 3, "attempts_before": n % 2 or None,
            "max_tokens": None, **{f"prior_{name}": n for name in SUMMED},
        }
        for n in range(REQUESTS)
    ]  # fmt: skip
    for row in rows:
        row["prior_cost_usd"] = Decimal(row["ordinal"]).scaleb(-12)
    return pa.Table.from_pylist(rows, schema=manifests.SCHEMA)


def price(model: str) -> ModelPrice:
    return find_price(model, datetime(2026, 11, 1, tzinfo=UTC))


def judged(
    lines: list[bytes],
    *,
    one_by_one: bool,
    schema: dict[str, Any] | None,
    model: str,
    params: dict[str, Any],
) -> tuple[Any, ...]:
    """All that comes of some lines, or the type of what was raised."""
    declaration = Declaration.of(job("/in.jsonl", output_schema=schema, params=params))
    snapshot = replace(SNAPSHOT, declaration=declaration.to_json())
    judge = LineJudge(
        _Pipeline(),  # type: ignore[arg-type]
        SUBMITTED, snapshot, manifest(), RetrySpec(truncated_max_tokens=8_000), price(model),
    )  # fmt: skip
    judge._at = judge._regular._constants["collected_at"].as_py()
    if one_by_one:
        judge._regular.read = lambda block, seen: None  # type: ignore[method-assign]
    try:
        chunks = list(judge.chunks([b"\n".join(lines[:4]) + b"\n", b"\n".join(lines[4:])]))
    except (ApiError, AttributeError, ValueError, TypeError) as error:
        return (type(error),)
    answers = [row for chunk in chunks for row in chunk.answers.to_pylist()]
    results = [row for chunk in chunks for row in chunk.results.to_pylist()]
    for row in (*answers, *results):
        row.pop("collected_at")
    order = sorted(results, key=lambda row: str(row["id"]))
    return (
        sorted(answers, key=lambda row: str(row["id"])), order, judge.summary(duplicate=False),
        judge.cost, judge.stopped_by, sorted(judge.letters, key=lambda letter: letter.id),
        judge._seen.tolist(),
    )  # fmt: skip


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
# Nearly regular: a value of another type anywhere sends the whole block the other way.
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
    model=st.sampled_from(["claude-haiku-4-5-20251001", "claude-haiku-5-5"]),
    params=st.sampled_from([{}, TOOLS]),
)
def test_both_ways_come_to_the_same(
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(followers, "of_manifest", lambda *_: FOLLOWERS)
        by_column, by_line = (
            judged(lines, one_by_one=slow, schema=schema, model=model, params=params)
            for slow in (False, True)
        )
    assert by_column == by_line


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
def test_what_is_common_is_read_by_column(
    content: list[Any],
    stop_reason: str,
    params: dict[str, Any],
    answer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or the other way would be all that is compared above."""
    monkeypatch.setattr(followers, "of_manifest", lambda *_: FOLLOWERS)
    message = {
        "content": content, "stop_reason": stop_reason, "model": "claude-haiku-4-5-20251001",
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }  # fmt: skip
    result = {"type": "succeeded", "message": message}
    lines = [
        orjson.dumps({"custom_id": custom_id(TOKEN, number), "result": result})
        for number in range(REQUESTS)
    ]
    declared = Declaration.of(job("/in.jsonl", params=params))
    judge = LineJudge(
        _Pipeline(),  # type: ignore[arg-type]
        SUBMITTED, replace(SNAPSHOT, declaration=declared.to_json()),
        manifest(), RetrySpec(), price("claude-haiku-4-5-20251001"),
    )  # fmt: skip
    regular = judge._regular.read(b"\n".join(lines), judge._seen)
    assert regular is not None
    assert regular.odd == []
    assert regular.results.schema == RESULTS_SCHEMA
    assert regular.numbers.tolist() == list(range(REQUESTS))
    assert regular.answers.num_rows == REQUESTS
    assert set(regular.results.column("content").to_pylist()) == {answer}
    ids = regular.results.column("id").to_pylist()
    assert ids[REQUESTS:] == ["and", "the same again", "and again"]
