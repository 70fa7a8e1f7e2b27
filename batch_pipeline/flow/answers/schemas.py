"""The shapes of what collection stores: answers, results and dead letters, as Parquet columns.

How a result becomes a row of them stands in `results.judging.judge`.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.pricing.tokens import TOKENS

# Up to 999,999 USD to a picodollar: a price of six decimals for a million tokens times one token.
USD = pa.decimal128(18, 12)

# Public: names, types and order are promised to readers.
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
        *((name, pa.int64()) for name in TOKENS),
        ("cost_usd", USD),
        ("attempt", pa.int64()),
        ("mode", pa.string()),
        ("batch_id", pa.string()),
        ("custom_id", pa.string()),
        ("fingerprint", pa.string()),
        ("simulated", pa.bool_()),
        ("collected_at", pa.timestamp("us", "UTC")),
        # Whose answer a row reuses: `partition:P` or `id:X`.
        ("answered_by", pa.string()),
        # The rule of the job that the row was asked by, see `dataset.routes`; NULL: none.
        ("route", pa.string()),
        # What an answer holds beside its text, as JSON: citations, thinking, calls of tools, why
        # it stopped. NULL: nothing of it.
        ("details", pa.string()),
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
# Internal: one row for each answer of the API. `id` is the item that bears its tokens and cost, the
# first of those that its unit answers; `final` says whether it settles the unit, `counted` whether
# it was an attempt. `other_way_usd` is what it would have cost in real time, or as a batch; NULL:
# its tokens at the declared model's price. `turn` is the answer's content as JSON where the request
# goes on with it as a further turn, `container` that of the API's in which it goes on.
ANSWERS_SCHEMA = pa.schema(
    [
        pa.field("unit", pa.string()),
        pa.field("final", pa.bool_()),
        pa.field("counted", pa.bool_()),
        *RESULTS_SCHEMA,
        pa.field("other_way_usd", USD),
        pa.field("variant", pa.string()),
        pa.field("escalate", pa.string()),
        pa.field("turn", pa.string()),
        pa.field("container", pa.string()),
    ]
)
# The mode of a row whose answer was bought for another row; its tokens and cost are 0.
REUSED = "reused"
# Columns of a result that are sums over all answers of its item.
SUMMED = (*TOKENS, "cost_usd")
# Columns with few values in a file. For texts and ids the writer would build a dictionary, find it
# too large and throw it away.
_REPEATED = (
    "final", "counted", "status", "stop_reason", "error_type", "model", *TOKENS, "cost_usd",
    "attempt", "mode", "batch_id", "simulated", "collected_at", "other_way_usd", "route",
    "answered_by", "variant", "escalate",
)  # fmt: skip
# Columns without statistics: the file's footer would hold the least and the greatest text in full.
_TEXTS = ("content", "parsed", "error_message", "details", "turn")


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of a file of answers or results; a context manager."""
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=[name for name in schema.names if name in _REPEATED],
        write_statistics=[name for name in schema.names if name not in _TEXTS],
    )
