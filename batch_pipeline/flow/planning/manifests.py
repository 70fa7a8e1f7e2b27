"""Manifests: which units a shard asks for, in which order, and what they have cost before.

With the snapshot a manifest makes a create body reproducible to the byte: request `n` of the shard
is the row with the manifest's n-th ordinal.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.flow.schemas import RESULTS_SCHEMA, SUMMED
from batch_pipeline.storage.files import Files

# `id` is the item that bears the cost; `attempt` counts from 1; `prior_*` is what the item was
# billed for in earlier answers of the night. `attempts_before` are those that a redrive has put
# behind: the bound of attempts counts from there. `max_tokens` is another than the declared one
# where an answer was cut off (`request_bytes` is the size with it). Manifests of former releases
# lack the last two.
SCHEMA = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("request_bytes", pa.int64(), nullable=False),
        pa.field("attempt", pa.int64(), nullable=False),
        *(pa.field(f"prior_{name}", RESULTS_SCHEMA.field(name).type) for name in SUMMED),
        pa.field("attempts_before", pa.int64()),
        pa.field("max_tokens", pa.int64()),
    ]
)
# The rest hardly ever comes twice: a dictionary of it is built for nothing and thrown away.
_REPEATED = [
    name
    for name in SCHEMA.names
    if name not in ("unit", "fingerprint", "ordinal", "id", "request_bytes")
]


def read(files: Files, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    with files.open_native(path) as file:
        wanted = None if columns is None else list(columns)
        return pq.read_table(file, columns=wanted, schema=SCHEMA)


def write(files: Files, path: str, table: pa.Table) -> None:
    with files.staged() as staged:
        # Nobody looks for rows in it.
        pq.write_table(
            table, staged, compression="zstd", use_dictionary=_REPEATED, write_statistics=False
        )
        files.make_durable(staged)
        files.publish(staged, path)
