"""Rows that a filter sets aside although they were asked, and answered, before it was declared.

They keep their answers: what is paid for is not dropped. Belongs here: which rows these are.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from batch_pipeline.flow import joins
from batch_pipeline.flow.answers import answers
from batch_pipeline.flow.dataset.choosing import decisions
from batch_pipeline.flow.dataset.layers import ORDINALS_A_LAYER, Layers, add_table, layers_of
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import Snapshot

SCHEMA = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("id", pa.string()),
        ("unit", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("request_bytes", pa.int64()),
        ("prompt_size", pa.int64()),
        ("visual_tokens", pa.int64()),
    ]
)
NONE = SCHEMA.empty_table()
# The former snapshot is the table `s`: by id, because another row may ask for the same unit.
_FOUND = f"""
    SELECT n.ordinal, n.id, n.unit, n.status, n.reason, n.request_bytes,
           n.prompt_size, n.visual_tokens
    FROM new n
    JOIN former s ON s.id = n.id AND s.unit = n.unit
    LEFT JOIN decisions d ON d.ordinal = s.ordinal
    WHERE n.status IS NOT NULL AND n.ordinal < {{below}} AND {decisions.STATUS} IS NULL
      AND n.unit IN (SELECT unit FROM answers WHERE final)
    ORDER BY n.ordinal
"""  # noqa: S608  # made of constants


@dataclass(frozen=True)
class Former:
    """A night and the snapshot that another one is to replace."""

    night: Night
    snapshot: Snapshot


def find(pipeline: Pipeline, former: Former, layers: Layers) -> pa.Table:
    """The rows of a new snapshot that are set aside with a request, and whose item has an answer to
    that request: columns of `SCHEMA`.

    Of several layers the last one has the rows of a redrive, which asks again on purpose.
    """
    with pipeline.ledger.read() as connection:
        found = answers.of_night(connection, former.night, former.snapshot)
    if not found.files:
        return NONE
    below = ORDINALS_A_LAYER * max(1, len(layers) - 1)
    with answers.tables(pipeline.files, found, {}) as connection:
        add_table(connection, layers_of(pipeline.files, former.snapshot), "former")
        add_table(connection, layers, "new")
        decisions.add_table(connection, pipeline.files, former.snapshot)
        batches = list(joins.batches(connection, _FOUND.format(below=below)))
    return pa.Table.from_batches([batch.cast(SCHEMA) for batch in batches], SCHEMA)
