"""Which units are open: the one rule as queries over snapshot, answers and what is held.

Within one account, job and partition, every unit without an accepted answer that is not in flight
and not set aside. What becomes of them stands in `planning`.

A snapshot is looked at part by part, in its order: what is joined with it is known by then, so that
memory holds one part and its neighbours of the joins, whatever the size of the night.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from batch_pipeline.flow import joins, manifests, snapshots, standing_answers
from batch_pipeline.flow.answers import SUMMED
from batch_pipeline.flow.outcomes import MAX_TOKENS, Status
from batch_pipeline.flow.standing_answers import StandingAnswers
from batch_pipeline.state.files import Files
from batch_pipeline.state.inputs import Snapshot

_CUT_OFF = f"status = '{Status.TRUNCATED}' AND error_type = '{MAX_TOKENS}' AND NOT final"
_SUMS = ", ".join(f"sum({name}) AS prior_{name}" for name in SUMMED)
_NO_PRIORS = ", ".join(
    f"{'0::DECIMAL(18, 12)' if name == 'cost_usd' else 0} AS prior_{name}" for name in SUMMED
)
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
# The same where nothing has been answered: most nights, once.
_NEW_UNITS = f"""
    SELECT s.unit, s.fingerprint, s.ordinal, s.id, s.request_bytes, 0 AS attempts_before,
           1 AS attempt, {_NO_PRIORS}, false AS cut_off
    {_NARROWED}
"""
_COUNT = f"SELECT count(*) {_NARROWED}"
_CUT_OFF_UNITS = "SELECT * FROM ({units}) WHERE cut_off ORDER BY ordinal"
_DRAWN_UNITS = "SELECT * FROM ({units}) SEMI JOIN drawn USING (ordinal) ORDER BY ordinal"
_LOTS = f"""
    INSERT INTO lots SELECT s.ordinal, s.request_bytes, md5(s.unit || $seed)::UUID {_NARROWED}
"""
# One unit of each of `size` strata of equal count by length, so that the long tail is in it.
_DRAW = """
    CREATE TEMP TABLE drawn AS
        SELECT ordinal FROM (
            SELECT ordinal, lot, ntile($size) OVER (ORDER BY request_bytes, ordinal) AS stratum
            FROM lots
        )
        QUALIFY row_number() OVER (PARTITION BY stratum ORDER BY lot, ordinal) = 1
"""


class OpenUnits:
    """The open units of a night, in the order of its snapshot; as columns those of a manifest,
    with `cut_off` in place of `max_tokens`."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, files: Files, snapshot: Snapshot, units: str
    ) -> None:
        self._connection = connection
        self._units = units
        self._files = files
        self._parts = snapshots.part_paths(snapshot)
        self._items = snapshot.items

    def count(self) -> int:
        return sum(self._connection.execute(_COUNT).fetchall()[0][0] for _ in self._each_part())

    def all(self) -> Iterator[pa.RecordBatch]:
        for _ in self._each_part():
            yield from joins.batches(self._connection, f"{self._units} ORDER BY s.ordinal")

    def cut_off(self, size: int) -> pa.Table:
        """The first `size` units whose last answer was cut off at `max_tokens`."""
        found: list[pa.Table] = []
        for _ in self._each_part():
            found.append(self._table(_CUT_OFF_UNITS))
            if sum(table.num_rows for table in found) >= size:
                break
        return pa.concat_tables(found).slice(0, size)

    def sample(self, size: int, seed: int) -> pa.Table:
        """A seeded sample over all lengths."""
        self._connection.execute(
            "CREATE TEMP TABLE lots (ordinal BIGINT, request_bytes BIGINT, lot UUID)"
        )
        for _ in self._each_part():
            self._connection.execute(_LOTS, {"seed": str(seed)})
        self._connection.execute(_DRAW, {"size": size})
        self._connection.execute("DROP TABLE lots")
        return pa.concat_tables([self._table(_DRAWN_UNITS) for _ in self._each_part()])

    def _table(self, query: str) -> pa.Table:
        return self._connection.sql(query.format(units=self._units)).to_arrow_table()

    def _each_part(self) -> Iterator[None]:
        return snapshots.each_part(self._connection, self._files, self._parts, self._items)


@contextmanager
def open_units(
    files: Files, snapshot: Snapshot, answers: StandingAnswers, held: Sequence[str]
) -> Iterator[OpenUnits]:
    """The open units of a snapshot, given the night's answers and the manifests that are held."""
    sources = {
        "duplicates": (snapshots.duplicates_paths(snapshot), snapshots.DUPLICATES_SCHEMA),
        "held": (held, manifests.SCHEMA),
    }
    with standing_answers.tables(files, answers, sources) as connection:
        connection.execute(_TAKEN)
        if not answers.files:
            yield OpenUnits(connection, files, snapshot, _NEW_UNITS)
            return
        parts = snapshots.part_paths(snapshot)
        for _ in snapshots.each_part(connection, files, parts, snapshot.items):
            connection.execute(_OPEN_ITEMS)
        connection.execute(_BEFORE)
        yield OpenUnits(connection, files, snapshot, _OPEN_UNITS)
