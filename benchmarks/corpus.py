"""Input for benchmarks: documents of any number and length, written fast and always the same."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

MODEL = "claude-haiku-4-5-20251001"
SYSTEM = "You are a contracts analyst."
USER = "Sum up this document in one sentence:\n\n{text}"
MAX_TOKENS = 500

_POOL_WORDS = 200_000
_ROWS_A_GROUP = 1_000


def write_documents(path: Path, count: int, words: int, start: int = 0, items: int = 1) -> Path:
    """Write `count` documents of `words` words as Parquet or JSONL, by the file's ending.

    Each document is written `items` times, under different ids.
    """
    rows = documents(count, words, start)
    if items > 1:
        rows = (row | {"id": f"{row['id']}-{n}"} for row in rows for n in range(items))
    if path.suffix == ".parquet":
        schema = pa.schema([("id", pa.string()), ("text", pa.string())])
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            while chunk := list(itertools.islice(rows, _ROWS_A_GROUP)):
                writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
    else:
        with path.open("wb") as file:
            for row in rows:
                file.write(orjson.dumps(row) + b"\n")
    return path


def documents(count: int, words: int, start: int = 0) -> Iterator[dict[str, str]]:
    """Rows whose texts are their number and a slice of one long text of random words."""
    chance = random.Random(words)
    vocabulary = [
        "".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(8000)
    ]
    # Most real texts have some of these, and are not plain ASCII then.
    vocabulary += ["\u2014", "\u201cso\u201d", "caf\u00e9", "\u20ac100"] * 20
    pool = chance.choices(vocabulary, k=max(_POOL_WORDS, 2 * words))
    for number in range(start, start + count):
        offset = chance.randrange(len(pool) - words)
        text = " ".join(pool[offset : offset + words])
        yield {"id": f"document-{number:09}", "text": f"{number}: {text}"}


def declare(folder: Path, source: Path | str, name: str = "bench", **changes: Any) -> Path:
    """A jobs folder with one job over these documents; without a pilot unless one is given."""
    declared: dict[str, Any] = {
        "name": name,
        "input": {"path": str(source)},
        "prompt": {"system": SYSTEM, "user": USER},
        "model_id": MODEL,
        "max_tokens": MAX_TOKENS,
        "pilot": {"size": 0},
        **changes,
    }
    target = folder / name
    target.mkdir(parents=True)
    # JSON is YAML.
    component = {"type": "batch_pipeline.BatchJobComponent", "attributes": declared}
    (target / "defs.yaml").write_bytes(orjson.dumps(component))
    return folder
