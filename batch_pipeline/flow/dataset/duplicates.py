"""What comes twice in an input: ids, which stop the night, and requests, which are bought once.

Belongs here: a look at all rows of a snapshot that is not published yet. What can be told of a
piece alone is `preparing`. In most inputs nothing comes twice: that is seen without a database.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow import joins, paths
from batch_pipeline.flow.dataset import snapshot
from batch_pipeline.flow.dataset.prepared import EXAMPLES
from batch_pipeline.flow.dataset.text_hashes import ROWS_IN_MEMORY, sorted_hashes
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
    *,
    kept: bool = False,
) -> tuple[int, int]:
    """Refuse duplicate ids; write down which rows another row's request answers.

    `folder` has so many parts with so many items; `lines_before` says by piece how many lines of
    its file come before its own; `kept`: there may be kept units. Returns how many rows another
    one's request answers, and how many kept units there are.
    """
    local = Files(str(folder))
    part_paths = [paths.part_name(number) for number in range(parts)]
    if not kept and items <= ROWS_IN_MEMORY and _nothing_twice(local, part_paths):
        return 0, 0
    with joins.tables(files, {}, rows=items) as connection:
        data = local.dataset(part_paths) if part_paths else snapshot.SCHEMA.empty_table()
        connection.register("snapshot", data)
        connection.execute(_REPEATED)
        [(kept_units,)] = connection.execute(_KEPT_UNITS).fetchall()
        [(repeated,)] = connection.execute("SELECT count(*) FROM repeated_units").fetchall()
        if connection.execute("FROM repeated_ids LIMIT 1").fetchall():
            found = list(joins.batches(connection, _DUPLICATE_IDS))
            _refuse_duplicate_ids(found, lines_before, spec, partition)
        count = 0
        path = folder / snapshot.DUPLICATES
        with pq.ParquetWriter(path, snapshot.DUPLICATES_SCHEMA, compression="zstd") as writer:
            looked_at = part_paths if repeated else ()
            for _ in snapshot.each_part(connection, local, looked_at, items):
                for batch in joins.batches(connection, _DUPLICATE_UNITS):
                    writer.write_batch(batch.cast(snapshot.DUPLICATES_SCHEMA))
                    count += batch.num_rows
    return count, int(kept_units)


def _nothing_twice(files: Files, part_paths: Sequence[str]) -> bool:
    """Whether surely no id and no unit occurs more than once; rows without a unit do not count."""
    columns = sorted_hashes(files, part_paths, ("id", "unit"))
    return not any((hashes[1:] == hashes[:-1]).any() for hashes in columns)


# Few, if any: what they are and where they stand is looked up for them alone.
_REPEATED = """
    CREATE TEMP TABLE repeated_ids AS SELECT id FROM snapshot GROUP BY id HAVING count(*) > 1;
    CREATE TEMP TABLE repeated_units AS
        SELECT unit, min(ordinal) AS first_ordinal FROM snapshot
        WHERE unit IS NOT NULL GROUP BY unit HAVING count(*) > 1
"""
_DUPLICATE_IDS = f"""
    SELECT id, count(*) OVER () AS ids,
           list({{piece: ordinal // {snapshot.ORDINALS_A_PIECE}, source: source, "row": "row"}}
                ORDER BY ordinal)[:3] AS places
    FROM snapshot SEMI JOIN repeated_ids USING (id)
    GROUP BY id ORDER BY min(ordinal) LIMIT {EXAMPLES}
"""  # noqa: S608  # made of constants
_KEPT_UNITS = "SELECT count(DISTINCT unit) FROM snapshot WHERE kept_from IS NOT NULL"
_DUPLICATE_UNITS = """
    SELECT s.unit, s.ordinal, s.id, f.first_ordinal
    FROM snapshot s JOIN repeated_units f ON f.unit = s.unit
    WHERE s.ordinal > f.first_ordinal
"""


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
