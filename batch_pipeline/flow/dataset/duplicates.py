"""What occurs twice in an input: ids, which stop the night, and requests, which are bought once.

Belongs here: queries over all rows of a snapshot that is not published yet. What can be told of one
piece of the input is `prepare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow import joins
from batch_pipeline.flow.dataset import decisions, snapshot
from batch_pipeline.flow.dataset.layers import PIECES_A_LAYER, Layers, add_table, each_part, made_by
from batch_pipeline.flow.dataset.prepare import EXAMPLES
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.storage.files import Files


@dataclass(frozen=True)
class Repeats:
    """The number of rows that the request of another row answers, and the number of requests that
    another declaration has made than the snapshot's own."""

    duplicates: int
    kept: int


def note_repeats(
    files: Files,
    folder: Path,
    layers: Layers,
    declarations: Sequence[str],
    items: int,
    lines_before: Sequence[int],
    spec: JobSpec,
    partition: str,
) -> Repeats:
    """Refuse duplicate ids; decide which rows the request of another row answers.

    The decisions are written into `folder`. There are `items` rows in all `layers`, whose requests
    were made by the `declarations` (hashes); `lines_before` has for each piece of the last layer
    the number of lines of its file before it.
    """
    with joins.tables(files, {}) as connection:
        add_table(connection, layers)
        names = {"made_by": made_by(declarations), "own": declarations[-1]}
        connection.execute(_REPEATED.format(**names))
        [(kept,)] = connection.execute(_KEPT.format(**names)).fetchall()
        [(repeated,)] = connection.execute("SELECT count(*) FROM repeated_units").fetchall()
        if connection.execute("FROM repeated_ids LIMIT 1").fetchall():
            found = list(joins.batches(connection, _DUPLICATE_IDS))
            _refuse_duplicate_ids(found, lines_before, spec, partition)
        count = 0
        path = folder / decisions.FILE_NAME
        with pq.ParquetWriter(path, decisions.SCHEMA, compression="zstd") as writer:
            for _ in each_part(connection, layers if repeated else (), items):
                for batch in joins.batches(connection, _ANSWERED_BY_ANOTHER):
                    writer.write_batch(batch.cast(decisions.SCHEMA))
                    count += batch.num_rows
    return Repeats(count, int(kept))


# Hashes that occur twice. To group by hashes rather than texts takes less than half of the time and
# 60 % of the memory: 2.1 s and 190 MB for the ids and units of two million rows.
_TWICE = """
    SELECT hash({0}) AS hashed FROM snapshot WHERE {0} IS NOT NULL
    GROUP BY hashed HAVING count(*) > 1
"""
# Different texts may have the same hash: the few that are left are compared themselves. Of rows
# with the same unit the first is asked whose request the snapshot's own declaration makes.
_REPEATED = f"""
    CREATE TEMP TABLE repeated_ids AS
        SELECT id FROM snapshot WHERE hash(id) IN ({_TWICE.format("id")})
        GROUP BY id HAVING count(*) > 1;
    CREATE TEMP TABLE repeated_units AS
        SELECT unit, first(ordinal ORDER BY {{made_by}} = '{{own}}' DESC, ordinal) AS asked
        FROM snapshot s WHERE hash(unit) IN ({_TWICE.format("unit")})
        GROUP BY unit HAVING count(*) > 1
"""  # noqa: S608  # made of constants
_PIECE = f"ordinal // {snapshot.ORDINALS_A_PIECE} % {PIECES_A_LAYER}"
_DUPLICATE_IDS = f"""
    SELECT id, count(*) OVER () AS ids,
           list({{piece: {_PIECE}, source: source, "row": "row"}} ORDER BY ordinal)[:3] AS places
    FROM snapshot SEMI JOIN repeated_ids USING (id)
    GROUP BY id ORDER BY min(ordinal) LIMIT {EXAMPLES}
"""  # noqa: S608  # made of constants
_KEPT = "SELECT count(DISTINCT unit) FROM snapshot s WHERE {made_by} <> '{own}'"
_ANSWERED_BY_ANOTHER = f"""
    SELECT s.ordinal, s.id, NULL AS status, '{decisions.IDENTICAL_REQUEST}' AS reason,
           r.asked AS answered_by, s.unit
    FROM snapshot s JOIN repeated_units r ON r.unit = s.unit
    WHERE s.ordinal <> r.asked
"""  # noqa: S608


def _refuse_duplicate_ids(
    found: list[pa.RecordBatch], lines_before: Sequence[int], spec: JobSpec, partition: str
) -> None:
    rows = [row for batch in found for row in batch.to_pylist()]

    def places(row: dict[str, Any]) -> str:
        return ", ".join(
            f"{place['source']}:{lines_before[place['piece']] + place['row']}"
            for place in row["places"]
        )

    if rows:
        named = "; ".join(f"{row['id']!r} in {places(row)}" for row in rows)
        raise InputDataError(
            f"{spec.name} {partition}: {rows[0]['ids']:,} ids of column "
            f"{spec.input.id_column!r} occur more than once, so answers could not be told apart; "
            f"nothing was sent. {named}. Make the ids unique, or name another input.id_column."
        )
