"""Result lines of unexpected shape: what each of them comes to, and what is booked for it.

A line whose custom id can be read is judged; one that cannot be read is named by its number.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from batch_pipeline.flow.dataset.requests.declaration import custom_id
from batch_pipeline.flow.results.judging.odd_lines import ResultsIncompleteError
from batch_pipeline_tests.flow.results.judging.test_judge import (
    MODEL,
    REQUESTS,
    TOKEN,
    TOOLS,
    judged,
    line,
    message,
    price_of,
)
from batch_pipeline_tests.support import job

GOOD = {"input_tokens": 1, "output_tokens": 2}
HUGE = "x" * 50_000_000
API_ERROR = {"type": "error", "error": {"type": "api_error", "message": "m"}}
# The most that request 0 can have cost: 100 bytes, and the tokens that the job allows for.
BOUND = price_of(MODEL).upper_bound(100, job("/in.jsonl").max_tokens, "batch")


def of(result: object, **changes: Any) -> bytes:
    return json.dumps({"custom_id": custom_id(TOKEN, 0), "result": result, **changes}).encode()


def said(**changes: Any) -> bytes:
    return of({"type": "succeeded", "message": message("fine", **changes)})


def usage(**changes: Any) -> bytes:
    return said(usage={**GOOD, **changes})


def deep(levels: int) -> bytes:
    block = '{"type": "tool_use", "input": ' + "[" * levels + "]" * levels + "}"
    called = json.dumps(message("", content=[], stop_reason="tool_use"))
    return of({"type": "succeeded", "message": 0}).replace(
        b'"message": 0', f'"message": {called.replace("[]", f"[{block}]")}'.encode()
    )


# Usable text with unusable usage stays an answer, and is booked at its bound.
UNPRICED = {
    "usage absent": said(usage=None),
    "usage a list": said(usage=[]),
    "usage a text": said(usage="many"),
    "usage a number": said(usage=7),
    "usage empty": said(usage={}),
    "usage without input": said(usage={"output_tokens": 2}),
    "usage without output": said(usage={"input_tokens": 2}),
    "input null": usage(input_tokens=None),
    "input a text": usage(input_tokens="1"),
    "output a word": usage(output_tokens="many"),
    "input negative": usage(input_tokens=-1),
    "output negative": usage(output_tokens=-(2**40)),
    "input a fraction": usage(input_tokens=1.5),
    "output true": usage(output_tokens=True),
    "input 2**40": usage(input_tokens=2**40),
    "output 2**63": usage(output_tokens=2**63),
    "output 2**64": usage(output_tokens=2**64),
    "output 1e300": usage(output_tokens=1e300),
    "output of 5,000 digits": usage(output_tokens=12345).replace(b"12345", b"9" * 5_000),
    "output 1e999": usage(output_tokens=12345).replace(b"12345", b"1e999"),
    "input a list": usage(input_tokens=[1]),
    "cache read a text": usage(cache_read_input_tokens="7"),
    "cache read negative": usage(cache_read_input_tokens=-7),
    "cache write 2**40": usage(cache_creation_input_tokens=2**40),
    "cache split a list": usage(cache_creation=[1]),
    "cache split of texts": usage(cache_creation={"ephemeral_1h_input_tokens": "7"}),
}
# Usable as they are.
FINE = {
    "BOM": b"\xef\xbb\xbf" + said(),
    "CRLF": said() + b"\r",
    "blanks around": b" \t " + said() + b"  ",
    "cache null": usage(cache_creation=None, cache_read_input_tokens=None),
    "model an object": said(model={}),
    "no model": said(model=None),
    "a null block": said(content=[None, {"type": "text", "text": "fine"}]),
    "a number as a block": said(content=[7, {"type": "text", "text": "fine"}]),
    "a null text beside another": said(
        content=[{"type": "text", "text": None}, {"type": "text", "text": "fine"}]
    ),
    "unknown fields": of({"type": "succeeded", "message": message("fine"), "x": [1]}, y={}),
    "marked as not attempted": of({"type": "succeeded", "message": message("fine")}).replace(
        b'"type": "succeeded"', b'"type": "succeeded", "attempted": false', 1
    ),
}
# Billed, and of no use: error type.
INVALID = {
    "content a number": (said(content=7), "odd_answer"),
    "content a text": (said(content="fine"), "odd_answer"),
    "content an object": (said(content={"type": "text"}), "odd_answer"),
    "content null": (said(content=None), "empty_answer"),
    "content empty": (said(content=[]), "empty_answer"),
    "content of texts": (said(content=["fine"]), "empty_answer"),
    "text null": (said(content=[{"type": "text", "text": None}]), "empty_answer"),
    "text a number": (said(content=[{"type": "text", "text": 7}]), "odd_answer"),
    "text a list": (said(content=[{"type": "text", "text": ["a"]}]), "odd_answer"),
    "stop reason a number": (said(stop_reason=3), "stop_reason:3"),
    "stop reason null": (said(stop_reason=None), "stop_reason:None"),
    "stop reason long": (said(stop_reason="x" * 999), f"stop_reason:{'x' * 88}"),
}
INVALID_AND_UNPRICED = {
    "no message": of({"type": "succeeded"}),
    "message null": of({"type": "succeeded", "message": None}),
    "message a list": of({"type": "succeeded", "message": ["a"]}),
    "message a text": of({"type": "succeeded", "message": "fine"}),
    "nested too deeply": deep(100_000),
}
# Not billed, whatever they carry: error type, and whether the request is sent again.
ERRORED = {
    "result null": (of(None), "unknown:None", False),
    "result a text": (of("succeeded"), "unknown:None", False),
    "result a list": (of([1]), "unknown:None", False),
    "no result": (of(None).replace(b'"result"', b'"outcome"'), "unknown:None", False),
    "result type null": (of({"type": None}), "unknown:None", False),
    "result type a list": (of({"type": ["succeeded"]}), "unknown:None", False),
    "result type unknown": (of({"type": "novel"}), "unknown:novel", True),
    "error a text": (of({"type": "errored", "error": "overloaded"}), "unknown", True),
    "error null": (of({"type": "errored", "error": None}), "unknown", True),
    "error of no type": (of({"type": "errored", "error": {"error": {}}}), "unknown", True),
    "error type a list": (of({"type": "errored", "error": {"type": ["x"]}}), "unknown", True),
    "error with a message of ours": (
        of({"type": "errored", "error": API_ERROR, "message": message("x")}), "api_error", True,
    ),
    "error with attempted": (
        of({"type": "errored", "error": API_ERROR, "attempted": False}), "api_error", True,
    ),
    "expired with usage": (of({"type": "expired", "message": message("x")}), "expired", True),
    "canceled with text": (of({"type": "canceled", "message": "x"}), "canceled", True),
}  # fmt: skip
# Lines that answer no request: what is said of them.
UNREADABLE = {
    "invalid UTF-8": said().replace(b"fine", b"\xff\xfe"),
    "NaN": usage(input_tokens=float("nan")),
    "Infinity": usage(input_tokens=float("inf")),
    "blanks": b"   ",
    "NUL bytes": b"\x00" * 80,
    "cut": said()[:-9],
    "two in one line": said() + said(),
    "no JSON": b"<html><body>502</body></html>",
    "an array": b"[" + said() + b"]",
    "a number": b"7",
    "null": b"null",
    "no custom id": b'{"result":{"type":"expired"}}',
    "custom id a number": of({"type": "expired"}, custom_id=5),
    "custom id null": of({"type": "expired"}, custom_id=None),
    "custom id a list": of({"type": "expired"}, custom_id=[custom_id(TOKEN, 0)]),
    "only nesting": b"[" * 100_000,
}
FOREIGN = {
    "unknown id": of({"type": "expired"}, custom_id="x"),
    "empty id": of({"type": "expired"}, custom_id=""),
    "another batch's id": of({"type": "expired"}, custom_id="ponmlkjihgfedcba_0"),
    "a number beyond the batch": of({"type": "expired"}, custom_id=f"{TOKEN}_99"),
    "an id of thousands of digits": of({"type": "expired"}, custom_id=TOKEN + "_" + "1" * 5_000),
}


def cases(table: dict[str, Any]) -> Callable[[Any], Any]:
    rows = [row if isinstance(row, tuple) else (row,) for row in table.values()]
    names = ["odd", "expected", "again"][: len(rows[0])]
    return pytest.mark.parametrize(names, rows, ids=list(table))


def one(odd: bytes, **asked: Any) -> tuple[dict[str, Any], Any]:
    """The answer to request 0, and the bound that it is booked at beside its tokens' price."""
    found = judged([line(1, message("fine")), odd], **asked)
    assert found.answers[1]["status"] == "succeeded", "the others are not stopped"
    counts = found.judge.counts(duplicate=False)
    assert counts.columns()["unproven_usd"] == counts.estimated_usd, "it counts as spent"
    assert sorted(found.answers) == [0, 1]
    return found.answers[0], counts.estimated_usd


@cases(UNPRICED)
def test_usable_text_with_unusable_usage_is_booked_at_its_bound(odd: bytes) -> None:
    answer, estimated = one(odd)
    assert (answer["status"], answer["content"]) == ("succeeded", "fine")
    assert answer["cost_usd"] == answer["input_tokens"] == answer["output_tokens"] == 0
    assert estimated == BOUND > 0


@cases(FINE)
def test_what_is_only_unusual_is_used_and_priced(odd: bytes) -> None:
    answer, estimated = one(odd)
    assert (answer["status"], answer["content"], estimated) == ("succeeded", "fine", 0)
    assert (answer["input_tokens"], answer["output_tokens"]) == (1, 2)


@cases(INVALID)
def test_a_billed_answer_of_no_use_is_invalid_output(odd: bytes, expected: str) -> None:
    answer, estimated = one(odd)
    assert (answer["status"], answer["error_type"]) == ("invalid_output", expected)
    assert answer["final"]
    assert (answer["output_tokens"], estimated) == (2, 0)


@cases(INVALID_AND_UNPRICED)
def test_a_success_without_a_message_is_invalid_output_at_its_bound(odd: bytes) -> None:
    answer, estimated = one(odd)
    assert (answer["status"], answer["error_type"]) == ("invalid_output", "odd_answer")
    assert answer["error_message"].startswith("the answer cannot be read: its message is ")
    assert (answer["final"], answer["cost_usd"], estimated) == (True, 0, BOUND)


@cases(ERRORED)
def test_what_did_not_succeed_costs_nothing(odd: bytes, expected: str, again: bool) -> None:
    answer, estimated = one(odd)
    assert answer["error_type"] == expected
    assert answer["status"] == (expected if expected in ("expired", "canceled") else "errored")
    assert (answer["counted"], answer["final"]) == (True, not again)
    assert answer["cost_usd"] == answer["output_tokens"] == estimated == 0


@cases(UNREADABLE)
def test_a_line_that_cannot_be_read_is_named_by_its_number(odd: bytes) -> None:
    lines = [line(n, message("fine")) for n in range(1, REQUESTS)]
    lines[2:2] = [b"", odd]
    found = judged(lines)
    assert sorted(found.answers) == list(range(1, REQUESTS))
    with pytest.raises(ResultsIncompleteError, match=r"lack 1 of 6 .*1 lines .*\(line 4: "):
        found.judge.check_complete()
    whole = judged([*lines, line(0, message("fine"))])
    whole.judge.check_complete()
    gone = judged(lines, gone="the API has deleted it")
    gone.judge.check_complete()
    assert gone.answers[0]["error_type"] == "results_gone"
    assert gone.judge.counts(duplicate=False).gone_requests == 1


@cases(FOREIGN)
def test_lines_of_others_requests_are_left_alone(odd: bytes) -> None:
    found = judged([odd, odd, *(line(n, message("fine")) for n in range(REQUESTS))])
    found.judge.check_complete()
    assert {row["status"] for row in found.results} == {"succeeded"}


@pytest.mark.parametrize("distance", [0, 5])
def test_of_two_lines_for_one_request_the_one_that_succeeded_counts(distance: int) -> None:
    failed, good = of({"type": "errored", "error": API_ERROR}), said()
    between = [line(n, message("fine")) for n in range(1, 1 + distance)]
    for lines in ([failed, *between, good], [good, *between, failed], [failed, good, said()]):
        answers = judged(lines).answers
        assert (answers[0]["status"], answers[0]["content"]) == ("succeeded", "fine")
    first = judged([failed, of({"type": "expired"})]).answers[0]
    assert first["error_type"] == "api_error"


def test_a_line_of_50_mb_and_unusual_line_separators_in_a_text_are_kept() -> None:
    for text in (HUGE, "a\u2028b\u2029c\x85d\x0be"):
        answer, estimated = one(line(0, message(text)))
        assert (answer["content"] == text, answer["status"], estimated) == (True, "succeeded", 0)


def test_tool_calls_nested_more_deeply_than_usual_are_kept() -> None:
    answer, _ = one(deep(500), params=TOOLS)
    assert (answer["status"], answer["content"]) == ("succeeded", "[" * 500 + "]" * 500)
