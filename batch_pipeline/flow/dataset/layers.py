"""The rows of a snapshot as a table of a database: those of all its layers, or part by part.

A night's input is read as one layer. A redrive reads its items again: their rows are a further
layer, and take the place of the rows with the same ids in the layers below.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_pipeline.flow import joins
from batch_pipeline.flow.dataset.snapshot import ORDINALS_A_PIECE, SCHEMA
from batch_pipeline.flow.paths import parts_in
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.storage.files import Files

if TYPE_CHECKING:
    import duckdb

# The part files of each layer, the lowest first, with where they are.
Layers = Sequence[tuple[Files, Sequence[str]]]

# Pieces of a layer count from a multiple of this, so that ordinals ascend from layer to layer.
PIECES_A_LAYER = 1 << 20
ORDINALS_A_LAYER = ORDINALS_A_PIECE * PIECES_A_LAYER
# Parts are queried together up to this many rows, and this many parts if their sizes differ: each
# query takes 10 ms beside what it does.
ROWS_TOGETHER = 20_000
MOST_TOGETHER = 8


@dataclass(frozen=True)
class Overlay:
    """Items of a snapshot that are read again, by id; their new rows lie on the old ones."""

    below: NewSnapshot
    ids: Collection[str]


_NEWER = "CREATE OR REPLACE TEMP TABLE {0}_newer (id VARCHAR, layer BIGINT)"
_ADD_NEWER = f"""
    INSERT INTO {{0}}_newer SELECT id, ordinal // {ORDINALS_A_LAYER} FROM {{0}}_rows
"""  # noqa: S608  # made of constants
_CURRENT = f"""
    CREATE OR REPLACE TEMP VIEW {{0}} AS
        SELECT s.* FROM {{0}}_rows s
        ANTI JOIN {{0}}_newer n ON n.id = s.id AND n.layer > s.ordinal // {ORDINALS_A_LAYER}
"""  # noqa: S608


def layers_of(files: Files, snapshot: NewSnapshot) -> Layers:
    return [(files, parts_in(layer.folder, layer.parts)) for layer in snapshot.layers]


def made_by(declarations: Sequence[str]) -> str:
    """SQL for the hash of the declaration that made the request of a row `s`, given those of the
    layers."""
    of_layers = ", ".join(f"'{declaration}'" for declaration in declarations)
    return f"coalesce(s.kept_from, [{of_layers}][s.ordinal // {ORDINALS_A_LAYER} + 1])"


def add_table(
    connection: duckdb.DuckDBPyConnection, layers: Layers, name: str = "snapshot"
) -> None:
    """Make the rows of all layers the table `name`."""
    _add_newer(connection, layers, name)
    joins.add_files(connection, f"{name}_rows", layers, SCHEMA)
    connection.execute(_CURRENT.format(name))


def each_part(connection: duckdb.DuckDBPyConnection, layers: Layers, items: int) -> Iterator[None]:
    """Make the rows of each part the table `snapshot`, one part after the other; small parts
    several together.

    A join with a whole snapshot would hold all of it: DuckDB cannot know how large it is, and
    builds on it. `items` is the number of rows in all layers. The table is gone at the end: what
    was left of it would be its last part.
    """
    _add_newer(connection, layers, "snapshot")
    count = sum(len(paths) for _, paths in layers)
    together = min(MOST_TOGETHER, max(1, ROWS_TOGETHER * count // max(1, items)))
    for files, paths in layers:
        for first in range(0, len(paths), together):
            some = [(files, paths[first : first + together])]
            joins.add_files(connection, "snapshot_rows", some, SCHEMA)
            connection.execute(_CURRENT.format("snapshot"))
            yield
    connection.execute("DROP VIEW IF EXISTS snapshot")


def _add_newer(connection: duckdb.DuckDBPyConnection, layers: Layers, name: str) -> None:
    connection.execute(_NEWER.format(name))
    for files, paths in layers[1:]:
        if paths:
            joins.add_files(connection, f"{name}_rows", [(files, paths)], SCHEMA)
            connection.execute(_ADD_NEWER.format(name))
