"""What a message of the API holds: its billed tokens, its text, and whether that text may be kept.

Both engines read messages here. What a stop reason or an error means stands in `outcomes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema_rs
import orjson

from batch_pipeline.flow.outcomes import Action, Outcome, Status
from batch_pipeline.pricing.tokens import TokenUsage


def tokens_of(message: Mapping[str, Any]) -> tuple[int, int, int, int, int]:
    """The billed tokens of a message by class, in the order of `TokenUsage`.

    A cache write that the API does not split counts as one of five minutes.
    """
    usage = message.get("usage") or {}
    written = int(usage.get("cache_creation_input_tokens") or 0)
    split = usage.get("cache_creation")
    hour = int(split.get("ephemeral_1h_input_tokens") or 0) if split else 0
    return (
        int(usage.get("input_tokens") or 0),
        int(usage.get("output_tokens") or 0),
        max(0, written - hour),
        hour,
        int(usage.get("cache_read_input_tokens") or 0),
    )


def usage_of(message: Mapping[str, Any]) -> TokenUsage:
    """The billed tokens of a message; see `tokens_of`."""
    return TokenUsage(*tokens_of(message))


def text_of(message: Mapping[str, Any]) -> str:
    """The text blocks of a message, joined; without any text the inputs of its tool calls as JSON.

    Thinking, and blocks of types that are not known here, are not part of an answer.
    """
    blocks = [block for block in message.get("content") or () if isinstance(block, dict)]
    text = "".join(
        [str(block.get("text") or "") for block in blocks if block.get("type") == "text"]
    )
    if text:
        return text
    calls = [block.get("input") for block in blocks if block.get("type") == "tool_use"]
    return "".join([orjson.dumps(call).decode() for call in calls])


class AnswerReader:
    """Reads messages of one declaration: their text, and JSON checked against its schema."""

    def __init__(self, output_schema: dict[str, Any] | None) -> None:
        self._validator: Any = None
        if output_schema is not None:
            self._validator = jsonschema_rs.validator_for(output_schema)

    def read(self, message: Mapping[str, Any], outcome: Outcome) -> tuple[Outcome, str, str | None]:
        """The outcome, the text, and the text again where it is the JSON that the schema asks for.

        `outcome` is what the stop reason says; an answer that would be kept by it is not kept if
        its text is empty, is no JSON, or breaks the schema.
        """
        text = text_of(message)
        if outcome.action is not Action.KEEP:
            return outcome, text, None
        if not text or text.isspace():
            return _invalid("empty_answer", "the answer has no text"), text, None
        if self._validator is None:
            return outcome, text, None
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            return _invalid("not_json", f"the answer is not JSON: {error}"), text, None
        problem = next(self._validator.iter_errors(value), None)
        if problem is not None:
            place = "/".join(str(step) for step in problem.instance_path)
            said = f"the answer breaks the schema at {place or 'its top'}: {problem.message}"
            return _invalid("schema_violation", said), text, None
        return outcome, text, text


def _invalid(error_type: str, message: str) -> Outcome:
    return Outcome(Status.INVALID_OUTPUT, Action.SET_ASIDE, error_type, message)
