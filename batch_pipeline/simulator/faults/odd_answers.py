"""Odd answers: successes that are not what was asked for, and which requests get one."""

from __future__ import annotations

from typing import Any

import orjson
from jsonschema_rs import validator_for

from batch_pipeline.simulator.answers.content import tool_call
from batch_pipeline.simulator.faults.declaration import RequestChance, RequestMatch

NOVEL = {"novel_field": {"a": 1}}
NOT_JSON = "Sure! Here it is: {"
# The first of these that a schema does not allow is the answer that breaks it.
_BREAKING = ('{"unexpected_field":true}', "[]", '"unexpected"', "null")

Rule = RequestMatch | RequestChance


def is_due(rule: Rule, raw: bytes) -> bool:
    """Whether a request (its valid params as JSON) gets the odd answer of a rule.

    It does not if the answer has paused often enough, if there is no tool to call, or if the
    request explains what was wrong with the answer and that heals it.
    """
    if rule.outcome == "pause_turn":
        return _pauses(orjson.loads(raw)["messages"]) < rule.times
    if rule.outcome == "tool_call":
        return any("input_schema" in tool for tool in orjson.loads(raw).get("tools") or ())
    return not (rule.heals_when_explained and _is_explained(rule.outcome, orjson.loads(raw)))


def odd_answer(
    truth: dict[str, Any], rule: Rule, raw: bytes, digest: bytes, seed: int
) -> dict[str, Any]:
    """A successful result as `rule` wants it; the usage, and so the bill, is that of `truth`."""
    message: dict[str, Any] = truth["message"]
    if rule.outcome == "extra_fields":
        message = {**message, **NOVEL, "usage": {**message["usage"], **NOVEL}}
        return {**truth, **NOVEL, "message": message}
    return {**truth, "message": {**message, **_changes(message, rule, raw, digest, seed)}}


def _changes(
    message: dict[str, Any], rule: Rule, raw: bytes, digest: bytes, seed: int
) -> dict[str, Any]:
    content: list[dict[str, Any]] = message["content"]
    match rule.outcome:
        case "refusal":
            told = rule.stop_details
            details = {} if told is None else {"stop_details": told.model_dump()}
            return {"content": [], "stop_reason": "refusal", **details}
        case "empty":
            return {"content": [], "stop_reason": "end_turn"}
        case "max_tokens":
            return {"content": [_half(block) for block in content], "stop_reason": "max_tokens"}
        case "tool_call":
            thoughts = [block for block in content if block["type"] == "thinking"]
            call = tool_call(orjson.loads(raw), digest, seed)
            return {"content": [*thoughts, call], "stop_reason": "tool_use"}
        case "pause_turn":
            # A block without text would be refused when the answer is continued.
            begun = [half for half in map(_half, content) if half.get("text", "-").strip()]
            search = _search(orjson.loads(raw), digest)
            return {"content": [*begun, search], "stop_reason": "pause_turn"}
    text = _wrong_text(rule.outcome, orjson.loads(raw))
    return {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}


def _wrong_text(outcome: str, params: dict[str, Any]) -> str:
    if outcome == "not_json":
        return NOT_JSON
    schema = ((params.get("output_config") or {}).get("format") or {}).get("schema")
    if schema is None:
        return _BREAKING[0]
    valid = validator_for(schema)
    breaking = (text for text in _BREAKING if not valid.is_valid(orjson.loads(text)))
    # A schema that allows every value is broken by a text that is no JSON.
    return next(breaking, NOT_JSON)


def _is_explained(outcome: str, params: dict[str, Any]) -> bool:
    """Whether the last two turns are the wrong answer and a reply of the user.

    The text is compared, because the turns of an example in the prompt have the same roles.
    """
    turns: list[dict[str, Any]] = params["messages"][-2:]
    if [turn["role"] for turn in turns] != ["assistant", "user"]:
        return False
    content = turns[0]["content"]
    if isinstance(content, list):
        content = "".join(block.get("text") or "" for block in content)
    return bool(content == _wrong_text(outcome, params))


def _pauses(messages: list[dict[str, Any]]) -> int:
    """How often the answer that the messages end with has paused; 0: they end with the user's."""
    last = messages[-1]
    if last["role"] == "user" or isinstance(last["content"], str):
        return 0
    return sum(block["type"] == "server_tool_use" for block in last["content"])


def _search(params: dict[str, Any], digest: bytes) -> dict[str, Any]:
    names = (tool.get("name") for tool in params.get("tools") or () if "input_schema" not in tool)
    return {
        "type": "server_tool_use",
        "id": f"srvtoolu_01{digest.hex()[:22]}",
        "name": next(names, None) or "web_search",
        "input": {"query": "more about this"},
    }


def _half(block: dict[str, Any]) -> dict[str, Any]:
    text = block.get("text")
    return {**block, "text": text[: len(text) // 2]} if isinstance(text, str) else block
