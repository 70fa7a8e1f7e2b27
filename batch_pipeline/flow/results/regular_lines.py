"""The common case of result lines, column by column: a block of them at once, without a loop.

A line is regular if its request succeeded with one text block, or with calls of the tools that it
was to use, came to its end, fits the declared schema and is there once. Everything else is left to
`line_judge`, which judges any line; for a regular one both give the same rows. What cannot be told
apart here is not regular.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from batch_pipeline.flow.outcomes import FINISHED, TOOL_USE, Status
from batch_pipeline.flow.planning.followers import Followers
from batch_pipeline.flow.schemas import (
    ANSWERS_SCHEMA,
    RESULTS_SCHEMA,
    TOKENS,
    USD,
    AnswerReader,
    text_of,
)
from batch_pipeline.ledger.submissions import Submission
from batch_pipeline.pricing.prices import ModelPrice, Tiers, TokenUsage

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

PICODOLLARS = Decimal(10) ** 12
# A text with one of these has something besides white space, by whatever definition.
_VISIBLE = r"[!-~\p{L}]"
# More tokens than this in one answer are not to be multiplied in 64 bits without a look.
_MOST_TOKENS = 2**31

_INT, _TEXT = pa.int64(), pa.string()
_USAGE = pa.struct(
    [
        ("input_tokens", _INT),
        ("output_tokens", _INT),
        ("cache_creation_input_tokens", _INT),
        ("cache_read_input_tokens", _INT),
        ("cache_creation", pa.struct([("ephemeral_1h_input_tokens", _INT)])),
    ]
)
_MESSAGE = pa.struct(
    [
        ("model", _TEXT),
        ("stop_reason", _TEXT),
        ("content", pa.list_(pa.struct([("type", _TEXT), ("text", _TEXT)]))),
        ("usage", _USAGE),
    ]
)
_LINE = pa.schema(
    [("custom_id", _TEXT), ("result", pa.struct([("type", _TEXT), ("message", _MESSAGE)]))]
)


@dataclass(frozen=True)
class Regular:
    """What the regular lines of a block come to, and the `odd` ones as they are, in their order.

    `numbers` are the requests answered, and `results` has a row of each of their items; of the
    requests `first_attempts` were asked for the first time. `billed` had tokens in, on
    `billed_bytes` of requests.
    """

    numbers: Ints
    answers: pa.Table
    results: pa.Table
    usage: TokenUsage
    cost: Decimal
    first_attempts: int
    billed: int
    billed_bytes: int
    odd: list[bytes]


class RegularLines:
    """Reads blocks of one submission's lines; `tools` says whether calls of tools are answers."""

    def __init__(
        self,
        submission: Submission,
        manifest: pa.Table,
        price: ModelPrice,
        reader: AnswerReader,
        followers: Followers,
        *,
        tools: bool,
        simulated: bool,
        at: datetime,
    ) -> None:
        self._submission = submission
        self._manifest = manifest.combine_chunks()
        self._prices = _picodollars(price.batch if submission.engine == "batch" else price.realtime)
        self._starts = (price.batch if submission.engine == "batch" else price.realtime).starts
        self._reader = reader
        self._followers = followers
        self._tools = tools
        self._own_id = rf"^{submission.token}_(0|[1-9][0-9]{{0,8}})\z"
        before = pc.fill_null(self._column("attempts_before"), 0)
        self._tried = pc.subtract(self._column("attempt"), before).to_numpy(zero_copy_only=False)
        self._constants: Mapping[str, pa.Scalar] = {
            "final": pa.scalar(True),
            "counted": pa.scalar(True),
            "status": pa.scalar(str(Status.SUCCEEDED), _TEXT),
            "error_type": pa.scalar(None, _TEXT),
            "error_message": pa.scalar(None, _TEXT),
            "mode": pa.scalar(submission.engine, _TEXT),
            "batch_id": pa.scalar(submission.batch_id, _TEXT),
            "simulated": pa.scalar(simulated),
            "collected_at": pa.scalar(at, RESULTS_SCHEMA.field("collected_at").type),
        }

    def read(self, block: bytes, seen: Flags) -> Regular | None:
        """The regular lines of a block of whole lines; None: read them all one by one.

        `seen` tells which requests have had their line before.
        """
        lines = None if self._prices is None else _parsed(block)
        if lines is None:
            return None
        result = lines.column("result")
        message = pc.struct_field(result, "message")
        numbers = self._numbers(lines.column("custom_id"), len(seen))
        fits = numbers >= 0
        fits[fits] = ~seen[numbers[fits]]
        # Two lines of one request: which came first is for the other way to say.
        fits[fits] = np.bincount(numbers[fits], minlength=1)[numbers[fits]] == 1
        fits &= _is_in(pc.struct_field(result, "type"), ("succeeded",))
        finished = (*FINISHED, TOOL_USE) if self._tools else FINISHED
        fits &= _is_in(pc.struct_field(message, "stop_reason"), finished)
        texts = _texts(pc.struct_field(message, "content"))
        if self._tools:
            texts = _with_calls(block, texts, fits)
        fits &= _visible(texts)
        tokens = _tokens(pc.struct_field(message, "usage"))
        for counted in tokens.values():
            fits &= (counted >= 0) & (counted < _MOST_TOKENS)
        if self._reader.wants_json:
            fits[fits] = [self._reader.accepts(text) for text in texts.filter(fits).to_pylist()]
        rows = np.flatnonzero(fits)
        return self._regular(
            numbers[rows],
            texts.take(rows),
            pc.struct_field(message, "model").take(rows),
            pc.struct_field(message, "stop_reason").take(rows),
            {name: counted[rows] for name, counted in tokens.items()},
            _others(block, fits),
        )

    def _regular(
        self,
        numbers: Ints,
        texts: pa.Array,
        model: pa.Array,
        stop_reason: pa.Array,
        tokens: dict[str, Ints],
        odd: list[bytes],
    ) -> Regular:
        prompt = _prompt(tokens)
        picodollars = self._cost(tokens, prompt)
        billed = numbers[prompt > 0]
        taken = {
            name: self._column(name).take(numbers)
            for name in ("unit", "id", "attempt", "fingerprint")
        }
        count = len(numbers)
        columns = {
            **{name: pa.repeat(value, count) for name, value in self._constants.items()},
            **taken,
            "content": texts,
            "parsed": texts if self._reader.wants_json else pa.nulls(count, _TEXT),
            "stop_reason": stop_reason,
            "model": model,
            **{name: pa.array(tokens[name]) for name in TOKENS},
            "cost_usd": _usd(picodollars),
            "custom_id": _joined(self._submission.token, numbers),
        }
        summed = dict(columns)
        for name in TOKENS:
            summed[name] = pc.add(columns[name], self._column(f"prior_{name}").take(numbers))
        prior = _picodollars_of(self._column("prior_cost_usd").take(numbers))
        summed["cost_usd"] = _usd(picodollars + prior)
        return Regular(
            numbers=numbers,
            answers=_table(columns, ANSWERS_SCHEMA),
            results=self._with_followers(numbers, _table(summed, RESULTS_SCHEMA)),
            usage=TokenUsage(**{name: int(tokens[name].sum()) for name in TOKENS}),
            cost=Decimal(int(picodollars.sum())).scaleb(-12),
            first_attempts=int((self._tried[numbers] == 1).sum()),
            billed=len(billed),
            billed_bytes=pc.sum(self._column("request_bytes").take(billed)).as_py() or 0,
            odd=odd,
        )

    def _with_followers(self, numbers: Ints, bearers: pa.Table) -> pa.Table:
        """The rows of the items that bear the requests' costs, and after them those of the others,
        which cost nothing."""
        rows = np.full(self._manifest.num_rows, -1, np.int64)
        rows[numbers] = np.arange(len(numbers))
        rows = rows[self._followers.requests]
        here = np.flatnonzero(rows >= 0)
        if not len(here):
            return bearers
        others = bearers.take(rows[here])
        own = {"id": self._followers.table.column("id").take(here)}
        own |= {name: pa.repeat(pa.scalar(0, _INT), len(here)) for name in TOKENS}
        own["cost_usd"] = pa.repeat(pa.scalar(Decimal(0), USD), len(here))
        columns = {name: own.get(name, others.column(name)) for name in RESULTS_SCHEMA.names}
        return pa.concat_tables([bearers, _table(columns, RESULTS_SCHEMA)])

    def _numbers(self, ids: pa.Array, count: int) -> Ints:
        """The request that each line answers; -1 where it is not one of ours."""
        ours = _flags(pc.match_substring_regex(ids, self._own_id))
        digits = pc.utf8_slice_codeunits(ids.filter(ours), len(self._submission.token) + 1)
        numbers = np.full(len(ids), -1, np.int64)
        numbers[ours] = digits.cast(_INT).to_numpy(zero_copy_only=False)
        numbers[numbers >= count] = -1
        return numbers

    def _cost(self, tokens: Mapping[str, Ints], prompt: Ints) -> Ints:
        """Picodollars of each answer, at the prices of its own prompt's length."""
        assert self._prices is not None
        prices = self._prices[np.searchsorted(self._starts, prompt, side="left")]
        total: Ints = np.sum([prices[:, n] * tokens[name] for n, name in enumerate(TOKENS)], axis=0)
        return total

    def _column(self, name: str) -> pa.Array:
        column = self._manifest.column(name)
        return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _parsed(block: bytes) -> pa.RecordBatch | None:
    """The lines as columns, one row a line; None where a line is anything but an object of them."""
    whole = block.removesuffix(b"\n")
    count = whole.count(b"\n") + 1
    # No JSON value holds these three bytes: each line begins with an object and ends with one.
    if not (whole.startswith(b"{") and whole.endswith(b"}") and whole.count(b"}\n{") == count - 1):
        return None
    try:
        if not whole.isascii():
            whole.decode()
        table = pj.read_json(
            io.BytesIO(whole),
            pj.ReadOptions(use_threads=False, block_size=len(whole) + 1),
            pj.ParseOptions(explicit_schema=_LINE, unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return None
    batches = table.combine_chunks().to_batches()
    return batches[0] if table.num_rows == count and len(batches) == 1 else None


def _texts(content: pa.ListArray) -> pa.Array:
    """The text of each message that has exactly one text block; null for the others."""
    blocks, rows = content.flatten(), pc.list_parent_indices(content).to_numpy()
    found = np.flatnonzero(_is_in(pc.struct_field(blocks, "type"), ("text",)))
    once = np.bincount(rows[found], minlength=len(content))[rows[found]] == 1
    positions = np.full(len(content), -1, np.int64)
    positions[rows[found][once]] = found[once]
    return pc.struct_field(blocks, "text").take(pa.array(positions, mask=positions < 0))


def _with_calls(block: bytes, texts: pa.Array, wanted: Flags) -> pa.Array:
    """The texts, and where there is none that of the tool calls, as `answers.text_of` has it."""
    # What the input of a tool looks like is not known: it is no column.
    rows = np.flatnonzero(wanted & ~_visible(texts))
    if not len(rows):
        return texts
    lines = block.split(b"\n")
    found: list[str | None] = [None] * len(texts)
    for row in rows:
        # Else it is for the other way to say what it is.
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            found[row] = text_of(orjson.loads(lines[row])["result"]["message"])
    calls = pa.array(found, _TEXT)
    return pc.if_else(calls.is_valid(), calls, texts)


def _visible(texts: pa.Array) -> Flags:
    return _flags(pc.match_substring_regex(texts, _VISIBLE))


def _tokens(usage: pa.StructArray) -> dict[str, Ints]:
    """Tokens by class, as `answers.usage_of` has them."""

    def counted(name: str, of: pa.StructArray = usage) -> Ints:
        found: Ints = pc.fill_null(pc.struct_field(of, name), 0).to_numpy(zero_copy_only=False)
        return found

    written = counted("cache_creation_input_tokens")
    hour = counted("ephemeral_1h_input_tokens", pc.struct_field(usage, "cache_creation"))
    return {
        "input_tokens": counted("input_tokens"),
        "output_tokens": counted("output_tokens"),
        "cache_write_5m_tokens": np.maximum(0, written - hour),
        "cache_write_1h_tokens": hour,
        "cache_read_tokens": counted("cache_read_input_tokens"),
    }


def _prompt(tokens: Mapping[str, Ints]) -> Ints:
    total: Ints = np.sum([tokens[name] for name in TOKENS if name != "output_tokens"], axis=0)
    return total


def _others(block: bytes, taken: Flags) -> list[bytes]:
    """The lines that are not taken; none of them: the block is not split for nothing."""
    left = np.flatnonzero(~taken)
    if not len(left):
        return []
    lines = block.split(b"\n")
    return [lines[number] for number in left]


def _picodollars(tiers: Tiers) -> Ints | None:
    """Picodollars for a token, by tier and class; None where they are no whole numbers."""
    rows = [[price * PICODOLLARS for price in prices] for prices in tiers.prices]
    if any(price != int(price) for row in rows for price in row):
        return None
    return np.array([[int(price) for price in row] for row in rows], np.int64)


def _usd(picodollars: Ints) -> pa.Array:
    """Amounts as the 128-bit integers that Arrow's decimals are, of scale 12."""
    wide = np.zeros((len(picodollars), 2), np.int64)
    wide[:, 0] = picodollars
    return pa.Array.from_buffers(USD, len(picodollars), [None, pa.py_buffer(wide)])


def _picodollars_of(amounts: pa.Array) -> Ints:
    wide = np.frombuffer(amounts.buffers()[1], np.int64).reshape(-1, 2)
    return wide[amounts.offset : amounts.offset + len(amounts), 0]


def _joined(token: str, numbers: Ints) -> pa.Array:
    return pc.binary_join_element_wise(token, pa.array(numbers).cast(_TEXT), "_")


def _table(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _is_in(values: pa.Array, wanted: tuple[str, ...]) -> Flags:
    return _flags(pc.is_in(values, pa.array(wanted)))


def _flags(values: pa.BooleanArray) -> Flags:
    found: Flags = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return found
