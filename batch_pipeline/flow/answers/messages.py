"""What a message of the API holds: its billed tokens, its text, and whether that text may be kept.

Both engines read messages here. What a stop reason or an error means stands in `outcomes`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema_rs
import orjson

from batch_pipeline.flow.answers.outcomes import (
    NOT_JSON,
    SCHEMA_VIOLATION,
    TOOL_USE,
    Action,
    AskedFor,
    Outcome,
    Status,
    odd_answer,
    shape_of,
)
from batch_pipeline.pricing.tokens import TokenUsage

# The most tokens of one class that one answer can have: several rounds of tools, each with the
# largest context that there is.
MOST_TOKENS = 10_000_000

Tokens = tuple[int, int, int, int, int]


class OddAnswerError(ValueError):
    """A message has another shape than the API's; the text says what is odd about it."""


def tokens_of(message: Mapping[str, Any]) -> Tokens | None:
    """The billed tokens of a message by class, in the order of `TokenUsage`.

    None where the API does not say, or says what cannot be: counts that are no whole numbers,
    negative, or above `MOST_TOKENS`. A cache write that it does not split counts as one of five
    minutes.
    """
    try:
        usage = message["usage"]
        split = usage.get("cache_creation")
        counts = (
            usage["input_tokens"],
            usage["output_tokens"],
            usage.get("cache_creation_input_tokens") or 0,
            (split.get("ephemeral_1h_input_tokens") or 0) if split else 0,
            usage.get("cache_read_input_tokens") or 0,
        )
    except (KeyError, TypeError, AttributeError):
        return None
    for count in counts:
        if type(count) is not int or not 0 <= count <= MOST_TOKENS:
            return None
    prompt, output, written, hour, read = counts
    return prompt, output, max(0, written - hour), hour, read


def usage_of(message: Mapping[str, Any]) -> TokenUsage:
    """The billed tokens of a message, see `tokens_of`; none where these are not known."""
    return TokenUsage(*(tokens_of(message) or ()))


def text_of(message: Mapping[str, Any]) -> str:
    """The text blocks of a message, joined; without any text the inputs of its tool calls as JSON.

    Thinking, and blocks of types that are not known here, are not part of an answer. Raises
    OddAnswerError.
    """
    content = message.get("content")
    if type(content) is not list:
        if content is None:
            return ""
        raise OddAnswerError(f"its content is {shape_of(content)}")
    blocks = [block for block in content if isinstance(block, dict)]
    try:
        text = "".join([block.get("text") or "" for block in blocks if block.get("type") == "text"])
    except TypeError:
        raise OddAnswerError("a text in its content is no text") from None
    if text:
        return text
    calls = [block.get("input") for block in blocks if block.get("type") == "tool_use"]
    return "".join([as_json(call) for call in calls])


def as_json(value: object) -> str:
    """A value that was read from JSON as JSON again."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        # Nested more deeply than orjson writes.
        return json.dumps(value, ensure_ascii=False)


class AnswerReader:
    """Reads messages of one declaration: their text, and JSON checked against its schema."""

    def __init__(self, output_schema: dict[str, Any] | None) -> None:
        self._validator: Any = None
        if output_schema is not None:
            self._validator = jsonschema_rs.validator_for(output_schema)

    def read(
        self,
        message: Mapping[str, Any],
        outcome: Outcome,
        asked: AskedFor,
        paused: Sequence[Any] = (),
    ) -> tuple[Outcome, str, str | None]:
        """The outcome, the text, and the text again where it is the JSON that the schema asks for.

        `outcome` is what the stop reason says; an answer that would be kept by it is not kept if
        its text is empty, is no JSON, or breaks the schema. A call of a tool to which the model was
        not forced is not what the schema is about. `paused` are the blocks of the same answer
        before this message: they belong to the text, except before JSON that is whole without.
        """
        try:
            text = whole = text_of(message)
            if paused:
                whole = text_of({**message, "content": [*paused, *(message.get("content") or ())]})
        except OddAnswerError as error:
            return odd_answer(str(error)), "", None
        if outcome.action is not Action.KEEP:
            return outcome, whole, None
        if not whole or whole.isspace():
            return _invalid("empty_answer", "the answer has no text"), whole, None
        if self._validator is None or (message.get("stop_reason") == TOOL_USE and not asked.forced):
            return outcome, whole, None
        if paused and self._checked(whole) is None:
            return outcome, whole, whole
        broken = self._checked(text)
        return (outcome, text, text) if broken is None else (broken, text, None)

    def _checked(self, text: str) -> Outcome | None:
        """How a text breaks the schema; None: it does not."""
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            return _invalid(NOT_JSON, f"the answer is not JSON: {error}")
        try:
            problem = next(self._validator.iter_errors(value), None)
        except ValueError as error:
            return _invalid(SCHEMA_VIOLATION, f"the answer cannot be checked: {error}")
        if problem is None:
            return None
        place = "/".join(str(step) for step in problem.instance_path)
        said = f"the answer breaks the schema at {place or 'its top'}: {problem.message}"
        return _invalid(SCHEMA_VIOLATION, said)


def _invalid(error_type: str, message: str) -> Outcome:
    return Outcome(Status.INVALID_OUTPUT, Action.SET_ASIDE, error_type, message)
