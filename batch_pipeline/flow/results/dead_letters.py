"""The dead-letter store: the items that are set aside, with the reason and the whole input row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.flow import paths
from batch_pipeline.flow.answers.schemas import DEAD_LETTER_SCHEMA
from batch_pipeline.flow.dataset import snapshot as snapshots
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.reporting.report.report import SetAside
from batch_pipeline.storage.files import Files

# What is in memory at a time: a thousand rows may be all of a batch's 256 MB.
GROUP_ROWS = 1_000
GROUP_BYTES = 8_000_000
# An error is systematic, and not chance, from this share of a night's dead letters and this number.
SYSTEMATIC_SHARE = 0.2
SYSTEMATIC_ITEMS = 5


_REPEATED = ["reason", "attempts", "error_type", "simulated"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An item that was set aside; `ordinal` is its row in the snapshot."""

    ordinal: int
    id: str
    reason: str
    attempts: int
    error_type: str | None
    error_message: str | None


def write(
    files: Files,
    snapshot: NewSnapshot,
    letters: Collection[DeadLetter],
    staged: Path,
    *,
    simulated: bool,
) -> None:
    """Write dead letters with their input rows; no file where there are none.

    One row group is held in memory.
    """
    if not letters:
        return
    ordered = sorted(letters, key=lambda letter: letter.ordinal)
    inputs = snapshots.read_inputs(files, snapshot, [letter.ordinal for letter in ordered])
    group: list[tuple[DeadLetter, bytes]] = []
    size = 0
    # A text that hardly ever comes twice is not looked up in a dictionary, nor kept as statistics.
    options = {"use_dictionary": _REPEATED, "write_statistics": _REPEATED}
    with pq.ParquetWriter(staged, DEAD_LETTER_SCHEMA, compression="zstd", **options) as writer:
        for letter, row in zip(ordered, inputs, strict=True):
            group.append((letter, row.text))
            size += len(row.text)
            if size >= GROUP_BYTES or len(group) >= GROUP_ROWS:
                writer.write_batch(_batch(group, simulated=simulated))
                group.clear()
                size = 0
        if group:
            writer.write_batch(_batch(group, simulated=simulated))


def _batch(group: list[tuple[DeadLetter, bytes]], *, simulated: bool) -> pa.RecordBatch:
    letters = [letter for letter, _ in group]
    columns: dict[str, Any] = {
        name: [getattr(letter, name) for letter in letters]
        for name in ("id", "reason", "attempts", "error_type", "error_message")
    }
    columns["input"] = pa.array([text for _, text in group], pa.binary()).cast(pa.string())
    columns["simulated"] = [simulated] * len(group)
    return pa.RecordBatch.from_pydict(columns, schema=DEAD_LETTER_SCHEMA)


class _Cause(NamedTuple):
    """What dead letters are grouped by."""

    reason: str
    error_type: str | None
    why_not_sent: str | None


def summarize(pipeline: Pipeline, job: str, partition: str) -> list[SetAside]:
    """Dead letters of a night by reason and error, the most frequent first.

    Items that were never sent have `reason: detail` as their message: they are told apart by it.
    """
    files = pipeline.files.list(paths.dead_letter(job, partition), ".parquet")
    counts: Counter[_Cause] = Counter()
    messages: dict[_Cause, str | None] = {}
    ids: dict[_Cause, list[str]] = {}
    for path in files:
        columns = ["id", "reason", "error_type", "error_message"]
        for batch in pipeline.files.dataset([path]).to_batches(columns=columns):
            for row in batch.to_pylist():
                key = _Cause(row["reason"], row["error_type"], _why_not_sent(row))
                counts[key] += 1
                messages.setdefault(key, row["error_message"])
                examples = ids.setdefault(key, [])
                if len(examples) < 3:
                    examples.append(row["id"])
    total = counts.total()
    return [
        SetAside(
            reason=key.reason,
            error_type=key.error_type,
            example_message=messages[key],
            items=count,
            example_ids=tuple(ids[key]),
            systematic=count >= SYSTEMATIC_ITEMS and count >= SYSTEMATIC_SHARE * total,
        )
        for key, count in counts.most_common()
    ]


def _why_not_sent(row: Mapping[str, str | None]) -> str | None:
    """The reason by which a row was set aside before it was sent; None for answered ones."""
    if row["error_type"] != row["reason"] or row["error_message"] is None:
        return None
    return row["error_message"].partition(": ")[0]
