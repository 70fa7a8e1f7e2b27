"""Manifests: which units a shard asks for, in which order, and what they have cost before.

A manifest and its snapshot make a create body reproducible to the byte: request `n` of the shard is
the row with the manifest's n-th ordinal, asked as the manifest's n-th variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.flow.answers.schemas import RESULTS_SCHEMA, SUMMED
from batch_pipeline.storage.files import Files

# `id` is the item that bears the cost; `attempt` counts from 1; `prior_*` is what the item was
# billed for in earlier answers of the night. `attempts_before` are those that a redrive has put
# behind: the bound of attempts counts from there. `variant` names the way in which the request is
# asked otherwise than declared (NULL: as declared); `request_bytes` is its size then. The metadata
# of the file have the variant's definition. `route` is the row's (NULL: the job's own), whatever
# the variant; `optional` requests have an answer that succeeded, which stands if this one fails.
#
# `prompt_size` and `visual_tokens` are as in a snapshot. `turns` are further turns after the row's
# own, as JSON, `container` the one in which the API goes on, `continuations` how often it has gone
# on already; NULL: none.
SCHEMA = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("request_bytes", pa.int64(), nullable=False),
        pa.field("attempt", pa.int64(), nullable=False),
        *(pa.field(f"prior_{name}", RESULTS_SCHEMA.field(name).type) for name in SUMMED),
        pa.field("attempts_before", pa.int64(), nullable=False),
        pa.field("variant", pa.string()),
        pa.field("route", pa.string()),
        pa.field("optional", pa.bool_()),
        pa.field("prompt_size", pa.int64()),
        pa.field("visual_tokens", pa.int64()),
        pa.field("turns", pa.string()),
        pa.field("container", pa.string()),
        pa.field("continuations", pa.int64()),
    ]
)
# The values of the other columns hardly ever occur twice, so that a dictionary would be of no use.
_DISTINCT = ("unit", "fingerprint", "ordinal", "id", "request_bytes", "prompt_size", "turns")
_REPEATED = [name for name in SCHEMA.names if name not in _DISTINCT]

# In the metadata of the file: snapshot, engine, and whether it is a pilot's.
_FACTS = b"shard"


def with_facts(manifest: pa.Table, facts: Mapping[str, object]) -> pa.Table:
    """A manifest that says whose it is, for a ledger that is lost."""
    metadata = {**(manifest.schema.metadata or {}), _FACTS: orjson.dumps(facts)}
    return manifest.replace_schema_metadata(metadata)


def facts_of(manifest: pa.Table) -> dict[str, Any]:
    """What `with_facts` was told; empty for a manifest of an earlier version."""
    found: dict[str, Any] = orjson.loads((manifest.schema.metadata or {}).get(_FACTS, b"{}"))
    return found


def read(files: Files, path: str, columns: Sequence[str] = tuple(SCHEMA.names)) -> pa.Table:
    """Columns of a manifest, with the definitions of its variants in the table's metadata.

    Columns that a file of an older version lacks are NULL.
    """
    return files.read_columns(path, columns, SCHEMA)


def write(files: Files, path: str, table: pa.Table) -> None:
    with files.staged() as staged:
        # Statistics serve to find rows, and a manifest is read whole.
        pq.write_table(
            table, staged, compression="zstd", use_dictionary=_REPEATED, write_statistics=False
        )
        files.make_durable(staged)
        files.publish(staged, path)
