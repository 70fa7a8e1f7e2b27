"""Which units of a night are open: the one rule, as queries over Parquet files.

Within one account, job and partition a unit is open unless it has an accepted answer, is part of a
shard that waits or is in flight, or was set aside. What becomes of open units stands in `plan`.

The snapshot is joined part by part, in its order. All other tables are complete by then, so that
memory holds one part and the rows that it is joined with, whatever the size of the night.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.flow import joins
from batch_pipeline.flow.answers import answers as night_answers
from batch_pipeline.flow.answers.answers import NightAnswers
from batch_pipeline.flow.answers.outcomes import MAX_TOKENS, Status, Undecided
from batch_pipeline.flow.answers.schemas import ANSWERS_SCHEMA, REUSED, SUMMED
from batch_pipeline.flow.dataset.choosing import decisions
from batch_pipeline.flow.dataset.layers import each_part, layers_of
from batch_pipeline.flow.dataset.requests.sizes import PROMPT_SIZE
from batch_pipeline.flow.planning import (
    escalations,
    further_turns,
    held_twins,
    manifests,
    sampling,
)
from batch_pipeline.flow.planning.escalations import Escalations
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.storage.files import Files

if TYPE_CHECKING:
    import duckdb

_CUT_OFF = (
    f"status = '{Status.TRUNCATED}' AND error_type = '{MAX_TOKENS}' AND NOT final "
    "AND escalate IS NULL"
)
_SUMS = ", ".join(f"sum({name}) AS prior_{name}" for name in SUMMED)
_PRIORS = ", ".join(f"coalesce(p.prior_{name}, 0) AS prior_{name}" for name in SUMMED)
# What a night may reuse of another one's answers: what that one bought itself, and was accepted.
REUSABLE = f"final AND status = '{Status.SUCCEEDED}' AND mode <> '{REUSED}'"
_REUSABLE = f"""
    CREATE TEMP TABLE reusable AS SELECT DISTINCT unit FROM reusable_answers WHERE {REUSABLE}
"""  # noqa: S608
# Units that are not open: settled by an answer, or in a shard. Tables and not views: DuckDB builds
# the joins on the smaller side only if it knows the sizes.
_TAKEN = """
    CREATE TEMP TABLE taken AS
        SELECT DISTINCT unit FROM answers WHERE final UNION SELECT unit FROM in_shards;
    CREATE TEMP TABLE not_asked AS
        SELECT ordinal FROM decisions WHERE status IS NOT NULL OR answered_by IS NOT NULL;
    CREATE TEMP TABLE asked_before AS
        SELECT ordinal FROM decisions WHERE status IS NULL AND answered_by IS NULL;
    CREATE TEMP TABLE open_items (unit VARCHAR, id VARCHAR);
"""
_NARROWED = """
    FROM snapshot s
    ANTI JOIN not_asked d ON d.ordinal = s.ordinal
    ANTI JOIN taken t ON t.unit = s.unit
    WHERE s.unit IS NOT NULL AND (s.status IS NULL OR s.ordinal IN (FROM asked_before))
"""
_OPEN_ITEMS = f"INSERT INTO open_items SELECT s.unit, s.id {_NARROWED}"
# Earlier attempts at open units, and what their items were billed for. `attempts_before` in the
# manifest are attempts whose answers were redriven: those at the unit, or those at the item where
# another declaration has made another unit of it.
_BEFORE = f"""
    CREATE TEMP TABLE units_before AS
        SELECT unit, max(attempt) AS attempts FROM answers SEMI JOIN open_items USING (unit)
        WHERE redriven GROUP BY unit;
    CREATE TEMP TABLE items_before AS
        SELECT id, max(attempt) AS attempts FROM answers SEMI JOIN open_items USING (id)
        WHERE redriven GROUP BY id;
    CREATE TEMP TABLE tried AS
        SELECT unit, count(*) FILTER (attempt > coalesce(attempts, 0)) AS attempts,
               bool_or({_CUT_OFF}) AS cut_off, {escalations.STATE} AS state,
               coalesce(bool_or(escalate = '{Undecided.UNSURE}' AND NOT redriven), false)
                   AS optional
        FROM answers SEMI JOIN open_items USING (unit) LEFT JOIN units_before USING (unit)
        WHERE counted GROUP BY unit;
    CREATE TEMP TABLE left_out AS
        SELECT unit FROM tried WHERE state = '{Undecided.STANDS}';
    CREATE TEMP TABLE billed AS
        SELECT id, {_SUMS} FROM answers SEMI JOIN open_items USING (id) GROUP BY id;
    {further_turns.MAKE_SAID};
    DROP TABLE open_items;
"""  # noqa: S608  # made of constants
_OPEN_UNITS = f"""
    SELECT s.unit, s.fingerprint, s.ordinal, s.id, s.request_bytes, s.route,
           s.prompt_size, s.visual_tokens,
           greatest(coalesce(b.attempts, 0), coalesce(i.attempts, 0)) AS attempts_before,
           attempts_before + coalesce(a.attempts, 0) + 1 AS attempt, {_PRIORS},
           coalesce(a.cut_off AND a.state IS NULL, false) AS cut_off,
           a.state IS NOT NULL AS escalate, coalesce(a.optional, false) AS optional
    FROM (SELECT s.* {_NARROWED}) s
    ANTI JOIN left_out o ON o.unit = s.unit
    LEFT JOIN tried a ON a.unit = s.unit
    LEFT JOIN units_before b ON b.unit = s.unit
    LEFT JOIN items_before i ON i.id = s.id
    LEFT JOIN billed p ON p.id = s.id
"""  # noqa: S608
_COUNT = f"SELECT count(*) {_NARROWED}"
_COUNT_BY_ROUTE = f"SELECT s.route, count(*) {_NARROWED} GROUP BY s.route"
_ALL = f"{_OPEN_UNITS} ORDER BY s.ordinal"
_KEPT = f"SELECT s.unit, s.id, s.fingerprint, {PROMPT_SIZE} AS prompt_size {_NARROWED}"
_REUSED = f"""
    CREATE TEMP TABLE reused AS
        SELECT DISTINCT unit FROM answers
        WHERE final AND mode = '{REUSED}' AND starts_with(answered_by, 'partition:')
"""  # noqa: S608
_COUNT_REUSED = f"""
    SELECT count(*), coalesce(sum({PROMPT_SIZE}), 0)
    FROM snapshot s
    ANTI JOIN not_asked d ON d.ordinal = s.ordinal
    SEMI JOIN reused r ON r.unit = s.unit
    WHERE s.status IS NULL OR s.ordinal IN (FROM asked_before)
"""  # noqa: S608
_COUNT_REUSABLE = f"""
    SELECT count(*), coalesce(sum({PROMPT_SIZE}), 0)
    FROM (SELECT s.* {_NARROWED}) s SEMI JOIN reusable r ON r.unit = s.unit
"""  # noqa: S608
_SIZES = f"""
    SELECT s.ordinal, s.unit, {PROMPT_SIZE} AS prompt_size,
           coalesce(s.visual_tokens, 0) AS visual_tokens, s.route
    {_NARROWED} ORDER BY s.ordinal
"""


class OpenUnits:
    """The open units of a snapshot, in its order.

    Their columns are those of a manifest, with `cut_off` (an earlier answer ended at `max_tokens`),
    `escalate` (the stronger model is to be asked) and `explained` (the further turns say what was
    wrong with an answer) in place of `variant`.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        home: Files,
        files: Files,
        snapshot: NewSnapshot,
        *,
        answered: bool,
    ) -> None:
        self.connection = connection
        self._home = home
        self._layers = layers_of(files, snapshot)
        self._items = snapshot.items
        self._answered = answered
        self._know_before = False

    def count(self) -> int:
        return sum(self.connection.execute(_COUNT).fetchall()[0][0] for _ in self._each_part())

    def count_by_route(self) -> dict[str | None, int]:
        found: Counter[str | None] = Counter()
        for _ in self._each_part():
            found.update(dict(self.connection.execute(_COUNT_BY_ROUTE).fetchall()))
        return dict(found)

    def all(self) -> Iterator[pa.Table]:
        self._look_before()
        return further_turns.given_to(self.connection, self._found(_ALL))

    def escalations(self) -> Escalations:
        """How the open units that the stronger model may be asked for stand to the whole night."""
        self._look_before()
        return escalations.of(self.connection, self.count)

    def leave_out(self, most: int, *, unsure: bool) -> None:
        """Let the stronger model be asked for at most `most` of the units that wait for that, and
        none of the others be open: units with a failed answer come first, and those with an
        `unsure` one are all left out unless they may go."""
        self._look_before()
        escalations.leave_out(self.connection, most, unsure=unsure)

    def standing(self) -> Iterator[pa.RecordBatch]:
        """The answers that stand for the units that were left out, in any order."""
        return escalations.standing(self.connection)

    def keep(self, table: str) -> None:
        """Make a table of all units with their `id`, `fingerprint` and `prompt_size`, in the
        database of `connection`."""
        columns = "unit VARCHAR, id VARCHAR, fingerprint VARCHAR, prompt_size BIGINT"
        self.connection.execute(f"CREATE TEMP TABLE {table} ({columns})")
        for _ in self._each_part():
            self.connection.execute(f"INSERT INTO {table} {_KEPT}")

    def sum_held(self) -> tuple[int, int]:
        """Held twins that no earlier night's answer settles, and the sizes of their prompts."""
        query = f"""
            SELECT count(*), coalesce(sum({PROMPT_SIZE}), 0)
            FROM held h ANTI JOIN taken t ON t.unit = h.unit
        """  # noqa: S608
        [(count, size)] = self.connection.execute(query).fetchall()
        return int(count), int(size)

    def count_held(self) -> int:
        """Twins that wait, where they are held."""
        [(count,)] = self.connection.execute("SELECT count(*) FROM held").fetchall()
        return int(count)

    def release_twins(self) -> None:
        """Let units that are held count as open."""
        self.connection.execute("DELETE FROM not_asked WHERE ordinal IN (SELECT ordinal FROM held)")

    def pairs(self, count: int, seed: int) -> list[tuple[str, str]]:
        """A seeded sample of held twins with their leaders, by unit, of which both are open."""
        query = """
            SELECT unit, leader_unit FROM held
            WHERE leader_unit NOT IN (SELECT unit FROM taken)
            ORDER BY md5(unit || $seed) LIMIT $count
        """
        return self.connection.execute(query, {"seed": str(seed), "count": count}).fetchall()

    def pairs_of(self, asked: Collection[str]) -> list[tuple[str, str]]:
        """Twins with their leaders, by unit, of which both are among these units."""
        self.connection.register("asked", pa.table({"unit": pa.array(list(asked), pa.string())}))
        query = """
            SELECT unit, leader_unit FROM twins
            WHERE unit IN (SELECT unit FROM asked) AND leader_unit IN (SELECT unit FROM asked)
            ORDER BY ordinal
        """
        return self.connection.execute(query).fetchall()

    def count_reused(self) -> tuple[int, int]:
        """The units that answers of earlier nights settle, and the sizes of their prompts."""
        self.connection.execute(_REUSED)
        counts = [self.connection.execute(_COUNT_REUSED).fetchall()[0] for _ in self._each_part()]
        return sum(units for units, _ in counts), int(sum(size for _, size in counts))

    def take_reusable(self, files: Sequence[str]) -> tuple[int, int]:
        """Let succeeded answers of other nights settle units, as if they were copied; returns the
        number of these units and the sizes of their prompts."""
        sources = [(self._home, files)]
        joins.add_files(self.connection, "reusable_answers", sources, ANSWERS_SCHEMA)
        self.connection.execute(_REUSABLE)
        counts = [self.connection.execute(_COUNT_REUSABLE).fetchall()[0] for _ in self._each_part()]
        self.connection.execute("INSERT INTO taken SELECT unit FROM reusable")
        return sum(units for units, _ in counts), int(sum(size for _, size in counts))

    def sizes(self) -> Iterator[pa.Table]:
        """`ordinal`, `unit`, `prompt_size`, `visual_tokens` and `route` of all units."""
        return self._found(_SIZES)

    def of(self, units: Sequence[str]) -> pa.Table:
        """Those of the given units that are open."""
        wanted = pa.array(units, pa.string())
        found = [t.filter(pc.is_in(t.column("unit"), wanted)) for t in self.all()]
        return pa.concat_tables(found) if found else pa.table({})

    def sample(self, size: int, seed: int) -> pa.Table:
        """A seeded sample of `size` units of all routes, and of each over all lengths, so that the
        long tail is in it."""
        lengths = sampling.Lengths(self.sizes(), str(seed))
        wanted = pa.array(lengths.drawn(size))
        return pa.concat_tables(
            table.filter(pc.is_in(table.column("ordinal"), wanted)) for table in self.all()
        )

    def _look_before(self) -> None:
        """Make the tables of earlier attempts, once; in a new night they are empty."""
        if self._know_before:
            return
        if self._answered:
            for _ in self._each_part():
                self.connection.execute(_OPEN_ITEMS)
        self.connection.execute(_BEFORE)
        self._know_before = True

    def _found(self, query: str) -> Iterator[pa.Table]:
        for _ in self._each_part():
            for batch in joins.batches(self.connection, query):
                yield pa.Table.from_batches([batch])

    def _each_part(self) -> Iterator[None]:
        return each_part(self.connection, self._layers, self._items)


@contextmanager
def open_units(
    home: Files,
    snapshot: NewSnapshot,
    answers: NightAnswers,
    planned: Sequence[str],
    files: Files | None = None,
    *,
    hold_twins: bool = False,
) -> Iterator[OpenUnits]:
    """The open units of a snapshot, given the night's answers.

    What the manifests in `planned` list is not open: it is in a shard. `files` is where the
    snapshot lies, if that is not the home. With `hold_twins` near duplicates wait for their leaders
    (`held_twins`).
    """
    files = files or home
    in_shards = {"in_shards": (planned, manifests.SCHEMA)}
    with night_answers.tables(home, answers, in_shards) as connection:
        decisions.add_table(connection, files, snapshot)
        connection.execute(_TAKEN)
        if hold_twins:
            held_twins.hold(connection, files, snapshot)
        yield OpenUnits(connection, home, files, snapshot, answered=bool(answers.files))
