"""Which units are open: the one rule as queries over snapshot, answers and what is held.

Within one account, job and partition, every unit without an accepted answer that is not in flight
and not set aside. What becomes of them stands in `planning`.

A snapshot is looked at part by part, in its order: what is joined with it is known by then, so that
memory holds one part and its neighbours of the joins, whatever the size of the night.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from batch_pipeline.flow import answers as standing_answers
from batch_pipeline.flow import joins
from batch_pipeline.flow.answers import StandingAnswers
from batch_pipeline.flow.dataset import snapshot as snapshots
from batch_pipeline.flow.outcomes import MAX_TOKENS, Status
from batch_pipeline.flow.planning import manifests
from batch_pipeline.flow.planning.new_units import NewUnits
from batch_pipeline.flow.planning.units import Units
from batch_pipeline.flow.schemas import SUMMED
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.storage.files import Files

if TYPE_CHECKING:
    import duckdb

_CUT_OFF = f"status = '{Status.TRUNCATED}' AND error_type = '{MAX_TOKENS}' AND NOT final"
_SUMS = ", ".join(f"sum({name}) AS prior_{name}" for name in SUMMED)
_PRIORS = ", ".join(f"coalesce(p.prior_{name}, 0) AS prior_{name}" for name in SUMMED)
# What settles a unit, or holds it. Tables and not views: DuckDB builds the joins on the smaller
# side only if it knows the sizes.
_TAKEN = """
    CREATE TEMP TABLE taken AS
        SELECT DISTINCT unit FROM answers WHERE final UNION SELECT unit FROM held;
    CREATE TEMP TABLE answered_for AS SELECT ordinal FROM duplicates;
    CREATE TEMP TABLE open_items (unit VARCHAR, id VARCHAR);
"""
_NARROWED = """
    FROM snapshot s
    ANTI JOIN answered_for d ON d.ordinal = s.ordinal
    ANTI JOIN taken t ON t.unit = s.unit
    WHERE s.unit IS NOT NULL
"""
_OPEN_ITEMS = f"INSERT INTO open_items SELECT s.unit, s.id {_NARROWED}"
# What open units and their items have come to before. `redriven`: attempts that a redrive has put
# behind; its own, and under another declaration the item's.
_BEFORE = f"""
    CREATE TEMP TABLE units_before AS
        SELECT unit, max(attempt) AS attempts FROM answers SEMI JOIN open_items USING (unit)
        WHERE redriven GROUP BY unit;
    CREATE TEMP TABLE items_before AS
        SELECT id, max(attempt) AS attempts FROM answers SEMI JOIN open_items USING (id)
        WHERE redriven GROUP BY id;
    CREATE TEMP TABLE tried AS
        SELECT unit, count(*) FILTER (attempt > coalesce(attempts, 0)) AS attempts,
               bool_or({_CUT_OFF}) AS cut_off
        FROM answers SEMI JOIN open_items USING (unit) LEFT JOIN units_before USING (unit)
        WHERE counted GROUP BY unit;
    CREATE TEMP TABLE billed AS
        SELECT id, {_SUMS} FROM answers SEMI JOIN open_items USING (id) GROUP BY id;
    DROP TABLE open_items;
"""  # noqa: S608  # made of constants
_OPEN_UNITS = f"""
    SELECT s.unit, s.fingerprint, s.ordinal, s.id, s.request_bytes,
           greatest(coalesce(b.attempts, 0), coalesce(i.attempts, 0)) AS attempts_before,
           attempts_before + coalesce(a.attempts, 0) + 1 AS attempt, {_PRIORS},
           coalesce(a.cut_off, false) AS cut_off
    FROM (SELECT s.* {_NARROWED}) s
    LEFT JOIN tried a ON a.unit = s.unit
    LEFT JOIN units_before b ON b.unit = s.unit
    LEFT JOIN items_before i ON i.id = s.id
    LEFT JOIN billed p ON p.id = s.id
"""  # noqa: S608
_COUNT = f"SELECT count(*) {_NARROWED}"
_CUT_OFF_UNITS = f"SELECT * FROM ({_OPEN_UNITS}) WHERE cut_off ORDER BY ordinal"  # noqa: S608
_SIZES = f"SELECT s.ordinal, s.unit, s.request_bytes {_NARROWED} ORDER BY s.ordinal"


class OpenUnits(Units):
    """As `Units` has it, with what the units and their items have come to before."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, files: Files, snapshot: NewSnapshot
    ) -> None:
        self._connection = connection
        self._files = files
        self._parts = snapshots.part_paths(snapshot)
        self._items = snapshot.items
        self._know_before = False

    def count(self) -> int:
        return sum(self._connection.execute(_COUNT).fetchall()[0][0] for _ in self._each_part())

    def all(self) -> Iterator[pa.Table]:
        self._look_before()
        return self._found(f"{_OPEN_UNITS} ORDER BY s.ordinal")

    def sizes(self) -> Iterator[pa.Table]:
        return self._found(_SIZES)

    def cut_off(self, size: int) -> pa.Table:
        self._look_before()
        found: list[pa.Table] = []
        for _ in self._each_part():
            found.append(self._connection.sql(_CUT_OFF_UNITS).to_arrow_table())
            if sum(table.num_rows for table in found) >= size:
                break
        return pa.concat_tables(found).slice(0, size)

    def _look_before(self) -> None:
        if self._know_before:
            return
        for _ in self._each_part():
            self._connection.execute(_OPEN_ITEMS)
        self._connection.execute(_BEFORE)
        self._know_before = True

    def _found(self, query: str) -> Iterator[pa.Table]:
        for _ in self._each_part():
            for batch in joins.batches(self._connection, query):
                yield pa.Table.from_batches([batch])

    def _each_part(self) -> Iterator[None]:
        return snapshots.each_part(self._connection, self._files, self._parts, self._items)


@contextmanager
def open_units(
    home: Files,
    snapshot: NewSnapshot,
    answers: StandingAnswers,
    held: Sequence[str],
    files: Files | None = None,
) -> Iterator[Units]:
    """The open units of a snapshot, given the night's answers and the manifests that are held.

    `files`: where the snapshot lies, if it is not the home.
    """
    files = files or home
    if not answers.files:
        yield NewUnits(files, snapshot, home, held)
        return
    with standing_answers.tables(home, answers, {"held": (held, manifests.SCHEMA)}) as connection:
        paths, schema = snapshots.duplicates_paths(snapshot), snapshots.DUPLICATES_SCHEMA
        duplicates = files.dataset(paths) if paths else schema.empty_table()
        connection.register("duplicates", duplicates)
        connection.execute(_TAKEN)
        yield OpenUnits(connection, files, snapshot)
