"""What an answer holds beside its text."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from batch_pipeline.flow.answers.outcomes import AskedFor
from batch_pipeline.flow.results.judging import details
from batch_pipeline.flow.results.judging.details import MAX_BYTES

TEXT = {"type": "text", "text": "Yes."}
CITED = {"type": "char_location", "cited_text": "so", "document_index": 0}
WITH_CITATION = {**TEXT, "citations": [CITED]}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "x"}
CALL = {"type": "tool_use", "id": "t", "name": "note", "input": {"a": 1}}
DENIED = {"type": "refusal", "category": "bio", "explanation": "No."}
FREE, FORCED = AskedFor(tools=True), AskedFor(tools=True, forced=True)


@pytest.mark.parametrize(
    ("content", "message", "asked", "expected"),
    [
        ([TEXT], {}, {}, None),
        ([{**TEXT, "citations": None}], {"stop_sequence": None, "stop_details": None}, {}, None),
        ([TEXT, TEXT], {}, {}, None),
        ([], {}, {}, None),
        (None, {}, {}, None),
        ("odd", {}, {}, None),
        ([None, 1, {}, {"type": "novel"}], {}, {}, None),
        (
            [WITH_CITATION, TEXT],
            {},
            {},
            {"citations": [{"text": "Yes.", "citations": [CITED]}]},
        ),
        ([THOUGHT, TEXT, THOUGHT], {}, {"thinking": True}, {"thinking": "Hm.\n\nHm."}),
        ([THOUGHT, TEXT], {}, {}, None),
        ([{"type": "thinking", "thinking": None}], {}, {"thinking": True}, None),
        (
            [TEXT, CALL],
            {"stop_reason": "tool_use"},
            {},
            {"tool_calls": [{"name": "note", "input": {"a": 1}}]},
        ),
        ([CALL], {"stop_reason": "tool_use"}, {"asked": FORCED}, None),
        (
            [TEXT],
            {"stop_reason": "stop_sequence", "stop_sequence": "END"},
            {},
            {"stop_sequence": "END"},
        ),
        (
            [],
            {"stop_reason": "refusal", "stop_details": DENIED},
            {},
            {"stop_details": DENIED, "refusal_category": "bio"},
        ),
        ([TEXT], {"stop_details": {"type": "novel"}}, {}, {"stop_details": {"type": "novel"}}),
        (
            [TEXT],
            {},
            {"paused": [WITH_CITATION], "continued": 2},
            {"citations": [{"text": "Yes.", "citations": [CITED]}], "continued": 2},
        ),
    ],
)
def test_details(
    content: object, message: dict[str, Any], asked: dict[str, Any], expected: Any
) -> None:
    said = {"content": content, "stop_reason": "end_turn", **message}
    found = details.of_message(said, **{"asked": FREE, **asked})
    assert (None if found is None else orjson.loads(found)) == expected


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ([WITH_CITATION] * 20_000, {"citations", "cut_off"}),
        ([WITH_CITATION, {**THOUGHT, "thinking": "ä" * MAX_BYTES}], {"thinking", "cut_off"}),
        ([WITH_CITATION] * 20_000 + [THOUGHT], {"citations", "thinking", "cut_off"}),
        ([{**CALL, "input": {"a": "\x01" * MAX_BYTES}}], {"cut_off"}),
        ([{**CALL, "input": {"a": "a" * 400_000}}] * 3, {"tool_calls", "cut_off"}),
    ],
)
def test_details_that_are_too_large_are_cut_from_their_end(
    content: list[dict[str, Any]], kept: set[str]
) -> None:
    message = {"content": content, "stop_reason": "tool_use"}
    found = details.of_message(message, FREE, thinking=True)
    assert found is not None
    assert len(found.encode()) <= MAX_BYTES
    assert set(orjson.loads(found)) == kept
    assert len(found.encode()) > 0.8 * MAX_BYTES or kept == {"cut_off"}


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ({}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True),
        ({"thinking": {"type": "adaptive"}}, True),
        ({"thinking": {"type": "disabled"}}, False),
    ],
)
def test_thinking_is_kept_where_it_was_asked_for(params: dict[str, Any], wanted: bool) -> None:
    assert details.wants_thinking(params) is wanted
