"""Makes the rows of a results folder: joins a snapshot's items with the night's final answers.

`results_folder` publishes the files. Memory does not depend on the size of the night: the narrow
columns (an item's unit, status and costs) are a table in DuckDB, which spills to disk; the answers'
texts stream through in groups of answer files, each joined with its own items alone. One join of
everything would hold all texts in memory, or write them to disk a second time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.flow import joins
from batch_pipeline.flow.answers import answers as night_answers
from batch_pipeline.flow.answers.answers import NightAnswers
from batch_pipeline.flow.answers.outcomes import NOT_DEAD, Status
from batch_pipeline.flow.answers.schemas import (
    ANSWERS_SCHEMA,
    RESULTS_SCHEMA,
    SUMMED,
    parquet_writer,
)
from batch_pipeline.flow.dataset import snapshot as snapshots
from batch_pipeline.flow.dataset.choosing import decisions
from batch_pipeline.flow.dataset.layers import each_part, layers_of
from batch_pipeline.flow.results.dead_letters import DeadLetter
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.storage.files import Files

if TYPE_CHECKING:
    import duckdb

FILE_ROWS = 100_000
# Answers that are joined with their items at a time. Each group scans the table of all items.
GROUP_ANSWERS = 100_000
# Columns that come from an answer: they are NULL in the rows of items that were never sent.
_OF_THE_ANSWER = (
    "content", "parsed", "stop_reason", "model", "mode", "batch_id", "custom_id", "answered_by",
    "details",
)  # fmt: skip
# A unit has one final answer, after a redrive several: `latest` has the last one of several.
_TABLES = f"""
    CREATE TEMP TABLE sums AS
        SELECT id, {", ".join(f"sum({name}) AS {name}" for name in SUMMED)}
        FROM answers GROUP BY id;
    CREATE TEMP TABLE latest AS
        SELECT unit, max_by(custom_id, collected_at) AS custom_id
        FROM answers WHERE final GROUP BY unit HAVING count(*) > 1;
    CREATE TEMP TABLE dead (
        ordinal BIGINT, id VARCHAR, reason VARCHAR, attempts BIGINT, error_type VARCHAR,
        error_message VARCHAR
    )
"""  # noqa: S608  # made of constants
_ITEMS = f"""
    SELECT s.ordinal, s.id, coalesce(d.unit, s.unit) AS unit, s.fingerprint, s.route,
           {decisions.STATUS} AS status, coalesce(d.reason, s.reason) AS reason,
           coalesce(d.detail, s.detail) AS detail,
           {", ".join(f"coalesce(c.{name}, 0) AS {name}" for name in SUMMED)}
    FROM snapshot s LEFT JOIN sums c ON c.id = s.id LEFT JOIN decisions d ON d.ordinal = s.ordinal
"""  # noqa: S608
_NO_ITEMS = f"CREATE TEMP TABLE items AS {_ITEMS} WITH NO DATA"
_ADD_ITEMS = f"""
    INSERT INTO items {_ITEMS} WHERE $answered OR {decisions.STATUS} IS NOT NULL
"""
_SET_ASIDE = "CREATE OR REPLACE TEMP TABLE here AS FROM items WHERE status IS NOT NULL"
_ANSWERED = """
    CREATE OR REPLACE TEMP TABLE here AS
        FROM items SEMI JOIN (SELECT unit FROM answers WHERE final) USING (unit)
        WHERE status IS NULL
"""
# The side with the answers' texts is the probe side of each join: DuckDB holds the other side.
_ROWS_SET_ASIDE = f"""
    SELECT s.ordinal, s.id, s.status,
           CASE WHEN s.status = '{Status.FILTERED}' THEN s.reason ELSE s.status END AS error_type,
           CASE WHEN s.status = '{Status.FILTERED}' THEN coalesce(s.detail, s.reason)
                ELSE concat_ws(': ', s.reason, s.detail) END AS error_message,
           {", ".join(f"NULL AS {name}" for name in _OF_THE_ANSWER)},
           {", ".join(f"s.{name}" for name in SUMMED)}, 0 AS attempt, s.fingerprint, s.route,
           k.simulated, k.at AS collected_at
    FROM here s CROSS JOIN constants k
"""  # noqa: S608
_ROWS_ANSWERED = f"""
    SELECT s.ordinal, s.id, a.status, a.error_type, a.error_message,
           {", ".join(f"a.{name}" for name in _OF_THE_ANSWER)},
           {", ".join(f"s.{name}" for name in SUMMED)}, a.attempt, s.fingerprint, s.route,
           k.simulated, a.collected_at
    FROM answers a
    JOIN here s ON s.unit = a.unit
    LEFT JOIN latest l ON l.unit = a.unit
    CROSS JOIN constants k
    WHERE a.final AND (l.unit IS NULL OR l.custom_id = a.custom_id)
"""  # noqa: S608
_RESULTS = f"SELECT {', '.join(RESULTS_SCHEMA.names)} FROM ({{rows}})"  # noqa: S608
_DEAD = f"""
    INSERT INTO dead SELECT ordinal, id, status, attempt, error_type, error_message
    FROM ({{rows}}) WHERE status NOT IN ({", ".join(repr(str(status)) for status in NOT_DEAD)})
"""  # noqa: S608
_DEAD_LETTERS = "FROM dead ORDER BY ordinal"


class SettledRows:
    """The rows of results of a snapshot's settled items, in an open join."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, files: Files, answers: Sequence[str]
    ) -> None:
        self._connection = connection
        self._files = files
        self._answers = answers

    def write(self, folder: Path) -> dict[str, int]:
        """Write the rows as results files into a local folder; returns their number by status."""
        settled: Counter[str] = Counter()
        writer: pq.ParquetWriter | None = None
        files = rows = 0
        for batch in self._batches():
            if writer is None:
                writer = parquet_writer(folder / file_name(files), RESULTS_SCHEMA)
                files, rows = files + 1, 0
            writer.write_batch(batch.cast(RESULTS_SCHEMA))
            settled.update(_counted(batch.column("status")))
            rows += batch.num_rows
            if rows >= FILE_ROWS:
                writer.close()
                writer = None
        if writer is not None:
            writer.close()
        if not files:
            write_none(folder)
        return dict(settled)

    def dead_letters(self) -> Iterator[list[DeadLetter]]:
        """The written rows that are dead letters, in the snapshot's order, in batches."""
        for batch in joins.batches(self._connection, _DEAD_LETTERS):
            yield [DeadLetter(**row) for row in batch.to_pylist()]

    def _batches(self) -> Iterator[pa.RecordBatch]:
        self._connection.execute(_SET_ASIDE)
        yield from self._selected(_ROWS_SET_ASIDE)
        for group in _groups(self._files, self._answers):
            # The view `answers` reads the files that have this name.
            found = [(self._files, group)]
            joins.add_files(self._connection, "collected_answers", found, ANSWERS_SCHEMA)
            self._connection.execute(_ANSWERED)
            yield from self._selected(_ROWS_ANSWERED)

    def _selected(self, rows: str) -> Iterator[pa.RecordBatch]:
        yield from joins.batches(self._connection, _RESULTS.format(rows=rows))
        self._connection.execute(_DEAD.format(rows=rows))


@contextmanager
def of_snapshot(
    files: Files, snapshot: NewSnapshot, answers: NightAnswers, *, simulated: bool
) -> Iterator[SettledRows]:
    """The settled rows of a snapshot, given the night's answers."""
    layers = layers_of(files, snapshot)
    sources = {"snapshot": ((), snapshots.SCHEMA)}
    with night_answers.tables(files, answers, sources) as connection:
        types = [RESULTS_SCHEMA.field(name).type for name in ("simulated", "collected_at")]
        values: list[list[Any]] = [[simulated], [datetime.now(UTC)]]
        columns = [pa.array(value, kind) for value, kind in zip(values, types, strict=True)]
        connection.register("constants", pa.table(columns, names=["simulated", "at"]))
        decisions.add_table(connection, files, snapshot)
        connection.execute(_TABLES)
        connection.execute(_NO_ITEMS)
        for _ in each_part(connection, layers, snapshot.items):
            connection.execute(_ADD_ITEMS, {"answered": bool(answers.files)})
        connection.execute("DROP TABLE sums")
        yield SettledRows(connection, files, answers.files)


def write_none(folder: Path) -> None:
    """Write a results file without rows: an empty folder is no dataset, and has no columns."""
    pq.write_table(RESULTS_SCHEMA.empty_table(), folder / file_name(0), compression="zstd")


def file_name(number: int) -> str:
    return f"items-{number:05d}.parquet"


def _groups(files: Files, answers: Sequence[str]) -> Iterator[list[str]]:
    """Answer files in groups of at least `GROUP_ANSWERS` answers; the last may have fewer."""
    group: list[str] = []
    rows = 0
    for path in answers:
        group.append(path)
        rows += files.dataset([path]).count_rows()
        if rows >= GROUP_ANSWERS:
            yield group
            group, rows = [], 0
    if group:
        yield group


def _counted(statuses: pa.Array) -> dict[str, int]:
    return {pair["values"]: pair["counts"] for pair in statuses.value_counts().to_pylist()}
