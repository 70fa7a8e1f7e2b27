"""Items that keep the request which a former declaration made of them, because it is answered.

A redrive under a changed declaration asks the redriven items alone with it. When the input is read
anew after that, all other items would become other requests, and be bought again. Belongs here:
which items keep their request, and finding them by id while the input is read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from batch_pipeline.flow import joins
from batch_pipeline.flow.answers import answers
from batch_pipeline.flow.dataset.choosing import decisions
from batch_pipeline.flow.dataset.layers import add_table, layers_of, made_by
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger import snapshots as inputs
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import Snapshot

# What is made by the present declaration needs no keeping: the same comes out again.
_SETTLED_OTHERWISE = """
    SELECT s.id, s.unit, {made_by} AS declaration, s.route
    FROM snapshot s JOIN (
        SELECT DISTINCT unit FROM answers WHERE final
    ) a ON a.unit = s.unit
    LEFT JOIN decisions d ON d.ordinal = s.ordinal
    WHERE {made_by} <> '{present}' AND {status} IS NULL
"""


class MadeBy(NamedTuple):
    """The hash of the declaration that made a request, and its route in it."""

    declaration: str
    route: str | None


@dataclass
class KeptUnits:
    """Finds the unit that an item keeps, by the item's id."""

    builders: Mapping[MadeBy, RequestBuilder] = field(default_factory=dict)
    _database: sqlite3.Connection | None = None

    def of(self, item_id: str) -> tuple[str, MadeBy, RequestBuilder] | None:
        """The unit to keep and what built its request; None: the item has none."""
        if self._database is None:
            return None
        query = "SELECT unit, declaration, route FROM kept WHERE id = ?"
        found = self._database.execute(query, (item_id,)).fetchone()
        if found is None:
            return None
        made_by = MadeBy(*found[1:])
        return found[0], made_by, self.builders[made_by]


def is_kept_on(night: Night, current: Snapshot, present: Declaration) -> bool:
    """Whether items that are settled under former declarations keep their requests when the input
    is read again.

    They do under the declaration of the last redrive, and under another one as long as the redriven
    items are not all settled. A later change of the declaration is an ordinary one: it asks for
    every item.
    """
    same = current.declaration_hash == present.hash
    return current.kept > 0 and (same or night.completed_at is None)


@contextmanager
def settled_otherwise(
    pipeline: Pipeline,
    night: Night,
    current: Snapshot,
    present: Declaration,
) -> Iterator[KeptUnits]:
    """The settled items of a snapshot whose requests `present` did not make; in a file, not in
    memory."""
    query = _SETTLED_OTHERWISE.format(
        made_by=made_by([layer.declaration_hash for layer in current.layers]),
        present=present.hash,
        status=decisions.STATUS,
    )
    with pipeline.ledger.read() as connection:
        found = answers.of_night(connection, night, current)
        builders = {
            MadeBy(key, route): RequestBuilder(asked)
            for key, declared in inputs.declarations(connection, night.id).items()
            for route, asked in Declaration.from_json(declared).by_route().items()
        }
    with (
        pipeline.files.staged(".sqlite") as path,
        closing(sqlite3.connect(path)) as database,
    ):
        # Found by id, one at a time, in whatever order the files now have.
        database.execute("PRAGMA journal_mode = OFF")
        database.execute(
            "CREATE TABLE kept (id TEXT PRIMARY KEY, unit, declaration, route) WITHOUT ROWID"
        )
        with answers.tables(pipeline.files, found, {}) as answered:
            add_table(answered, layers_of(pipeline.files, current))
            decisions.add_table(answered, pipeline.files, current)
            for batch in joins.batches(answered, query):
                rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                database.executemany("INSERT INTO kept VALUES (?, ?, ?, ?)", rows)
        yield KeptUnits(builders, database)
