"""The shapes of what collection stores: internal answers, public results, dead letters.

Belongs here: schemas, and how a result's message becomes columns. Where the rows go stands in
`collection` (as batches end) and `publication` (all at once).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.flow.outcomes import Action, Outcome, Status
from batch_pipeline.pricing.prices import TokenUsage

USD = pa.decimal128(18, 12)

# The contract, in this order.
RESULTS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("status", pa.string()),
        ("content", pa.string()),
        ("parsed", pa.string()),
        ("stop_reason", pa.string()),
        ("error_type", pa.string()),
        ("error_message", pa.string()),
        ("model", pa.string()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("cache_write_5m_tokens", pa.int64()),
        ("cache_write_1h_tokens", pa.int64()),
        ("cache_read_tokens", pa.int64()),
        ("cost_usd", USD),
        ("attempt", pa.int64()),
        ("mode", pa.string()),
        ("batch_id", pa.string()),
        ("custom_id", pa.string()),
        ("fingerprint", pa.string()),
        ("simulated", pa.bool_()),
        ("collected_at", pa.timestamp("us", "UTC")),
    ]
)
DEAD_LETTER_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("reason", pa.string()),
        ("attempts", pa.int64()),
        ("error_type", pa.string()),
        ("error_message", pa.string()),
        ("input", pa.string()),
        ("simulated", pa.bool_()),
    ]
)
# One row an answer that the API gave. `id` is the item that bears its tokens and cost, the first of
# those that its unit answers; `final`: the unit is settled by it; `counted`: it was an attempt.
ANSWERS_SCHEMA = pa.schema(
    [
        pa.field("unit", pa.string()),
        pa.field("final", pa.bool_()),
        pa.field("counted", pa.bool_()),
        *RESULTS_SCHEMA,
    ]
)
TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "cache_read_tokens",
)
# What adds up over the answers of an item.
SUMMED = (*TOKENS, "cost_usd")
# What is never sent again and ends in the dead-letter store.
NOT_DEAD = (Status.SUCCEEDED, Status.FILTERED)


# What repeats in a file; a dictionary of texts or ids is built for nothing and thrown away.
_REPEATED = (
    "final", "counted", "status", "stop_reason", "error_type", "model", *TOKENS, "cost_usd",
    "attempt", "mode", "batch_id", "simulated", "collected_at",
)  # fmt: skip
# Nobody looks for a range of these, and the least and the greatest text would be in the footer.
_TEXTS = ("content", "parsed", "error_message")


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of answers or results."""
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=[name for name in schema.names if name in _REPEATED],
        write_statistics=[name for name in schema.names if name not in _TEXTS],
    )


def usage_of(message: Mapping[str, Any]) -> TokenUsage:
    """The billed tokens of a message; a cache write without a split counts as five minutes."""
    usage = message.get("usage") or {}
    written = int(usage.get("cache_creation_input_tokens") or 0)
    split = usage.get("cache_creation") or {}
    hour = int(split.get("ephemeral_1h_input_tokens") or 0)
    return TokenUsage(
        input_tokens=int(usage.get("input_tokens") or 0),
        output_tokens=int(usage.get("output_tokens") or 0),
        cache_write_5m_tokens=max(0, written - hour),
        cache_write_1h_tokens=hour,
        cache_read_tokens=int(usage.get("cache_read_input_tokens") or 0),
    )


def text_of(message: Mapping[str, Any]) -> str:
    """The text blocks, joined; thinking is not part of an answer, a tool call is its JSON input."""
    blocks = [block for block in message.get("content") or () if isinstance(block, Mapping)]
    texts = [str(block.get("text") or "") for block in blocks if block.get("type") == "text"]
    if not any(texts):
        texts = [
            orjson.dumps(block.get("input")).decode()
            for block in blocks
            if block.get("type") == "tool_use"
        ]
    return "".join(texts)


class AnswerReader:
    """Judges one message beyond its stop reason: empty text, JSON, the declared schema."""

    def __init__(self, output_schema: dict[str, Any] | None) -> None:
        self._validator: Any = None
        self.wants_json = output_schema is not None
        if output_schema is not None:
            import jsonschema_rs  # noqa: PLC0415  # only jobs with a schema need it

            self._validator = jsonschema_rs.validator_for(output_schema)

    def read(self, message: Mapping[str, Any], outcome: Outcome) -> tuple[Outcome, str, str | None]:
        """The outcome, the content, and the answer as JSON text where a schema was declared."""
        content = text_of(message)
        if outcome.action is not Action.KEEP:
            return outcome, content, None
        if not content.strip():
            return _invalid("empty_answer", "the answer has no text"), content, None
        if not self.wants_json:
            return outcome, content, None
        try:
            value = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            return _invalid("not_json", f"the answer is not JSON: {error}"), content, None
        problem = next(self._validator.iter_errors(value), None)
        if problem is not None:
            place = "/".join(str(step) for step in problem.instance_path)
            text = f"the answer breaks the schema at {place or 'its top'}: {problem.message}"
            return _invalid("schema_violation", text), content, None
        return outcome, content, content

    def accepts(self, content: str) -> bool:
        """Whether a text is an answer of the declared schema; `read` says why it is not."""
        try:
            return bool(self._validator.is_valid(orjson.loads(content)))
        except orjson.JSONDecodeError:
            return False


def _invalid(error_type: str, message: str) -> Outcome:
    return Outcome(Status.INVALID_OUTPUT, Action.SET_ASIDE, error_type, message)


def zero() -> dict[str, Any]:
    """No tokens and no cost, by column."""
    return {name: Decimal(0) if name == "cost_usd" else 0 for name in SUMMED}
