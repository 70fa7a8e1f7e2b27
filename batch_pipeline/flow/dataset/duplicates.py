"""What occurs twice in an input: ids, which stop the night, and requests, which are bought once.

Belongs here: queries over all rows of a snapshot that is not published yet. What can be told of one
piece of the input is `prepare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow import joins, paths
from batch_pipeline.flow.dataset import decisions, snapshot
from batch_pipeline.flow.dataset.prepare import EXAMPLES
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.storage.files import Files


def note_repeats(
    files: Files,
    folder: Path,
    parts: int,
    items: int,
    lines_before: Sequence[int],
    spec: JobSpec,
    partition: str,
) -> tuple[int, int]:
    """Refuse duplicate ids; decide which rows the request of another row answers.

    `folder` has the snapshot's `parts` with `items` rows; `lines_before` has for each piece the
    number of lines of its file before it. Returns the number of rows that the request of another
    one answers, and the number of kept units.
    """
    local = Files(str(folder))
    part_paths = [paths.part_name(number) for number in range(parts)]
    with joins.tables(files, {}) as connection:
        data = local.dataset(part_paths) if part_paths else snapshot.SCHEMA.empty_table()
        connection.register("snapshot", data)
        connection.execute(_REPEATED)
        [(kept_units,)] = connection.execute(_KEPT_UNITS).fetchall()
        [(repeated,)] = connection.execute("SELECT count(*) FROM repeated_units").fetchall()
        if connection.execute("FROM repeated_ids LIMIT 1").fetchall():
            found = list(joins.batches(connection, _DUPLICATE_IDS))
            _refuse_duplicate_ids(found, lines_before, spec, partition)
        count = 0
        path = folder / decisions.FILE_NAME
        with pq.ParquetWriter(path, decisions.SCHEMA, compression="zstd") as writer:
            looked_at = part_paths if repeated else ()
            for _ in snapshot.each_part(connection, local, looked_at, items):
                for batch in joins.batches(connection, _ANSWERED_BY_FIRST):
                    writer.write_batch(batch.cast(decisions.SCHEMA))
                    count += batch.num_rows
    return count, int(kept_units)


# Hashes that occur twice. To group by hashes rather than texts takes less than half of the time and
# 60 % of the memory: 2.1 s and 190 MB for the ids and units of two million rows.
_TWICE = """
    SELECT hash({0}) AS hashed FROM snapshot WHERE {0} IS NOT NULL
    GROUP BY hashed HAVING count(*) > 1
"""
# Different texts may have the same hash: the few that are left are compared themselves.
_REPEATED = f"""
    CREATE TEMP TABLE repeated_ids AS
        SELECT id FROM snapshot WHERE hash(id) IN ({_TWICE.format("id")})
        GROUP BY id HAVING count(*) > 1;
    CREATE TEMP TABLE repeated_units AS
        SELECT unit, min(ordinal) AS first_ordinal FROM snapshot
        WHERE hash(unit) IN ({_TWICE.format("unit")})
        GROUP BY unit HAVING count(*) > 1
"""  # noqa: S608  # made of constants
_DUPLICATE_IDS = f"""
    SELECT id, count(*) OVER () AS ids,
           list({{piece: ordinal // {snapshot.ORDINALS_A_PIECE}, source: source, "row": "row"}}
                ORDER BY ordinal)[:3] AS places
    FROM snapshot SEMI JOIN repeated_ids USING (id)
    GROUP BY id ORDER BY min(ordinal) LIMIT {EXAMPLES}
"""  # noqa: S608  # made of constants
_KEPT_UNITS = "SELECT count(DISTINCT unit) FROM snapshot WHERE kept_from IS NOT NULL"
_ANSWERED_BY_FIRST = f"""
    SELECT s.ordinal, s.id, NULL AS status, '{decisions.IDENTICAL_REQUEST}' AS reason,
           f.first_ordinal AS answered_by, s.unit
    FROM snapshot s JOIN repeated_units f ON f.unit = s.unit
    WHERE s.ordinal > f.first_ordinal
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
