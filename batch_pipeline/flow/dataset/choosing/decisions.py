"""Decisions on rows of a snapshot that are made after all of its rows are read.

Belongs here: the file `decisions.parquet` beside a snapshot, with one row for each row of the
snapshot that was decided on. Planning asks for none of these; results take a row's status, or whose
answer it shows, from its decision. How it is decided stands in `duplicates`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.flow import joins

if TYPE_CHECKING:
    import duckdb

    from batch_pipeline.ledger.snapshots import NewSnapshot
    from batch_pipeline.storage.files import Files

# Either the row is set aside with `status` in the results, or `status` is NULL and the request of
# the row with the ordinal `answered_by` answers it too; `unit` is then the unit of that request. A
# decision without either takes back that the row's own status sets it aside. `reason` says why, the
# same for all such rows, and `detail` says more of this row.
SCHEMA = pa.schema(
    [
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("status", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("answered_by", pa.int64()),
        pa.field("unit", pa.string()),
        pa.field("detail", pa.string()),
    ]
)
FILE_NAME = "decisions.parquet"
IDENTICAL_REQUEST = "identical_request"
# A filter sets the row aside, but it was asked before the filter was declared.
ASKED_BEFORE = "asked_before"
# The status of a row `s` with its decision `d`, if there is one.
STATUS = "CASE WHEN d.ordinal IS NULL THEN s.status ELSE d.status END"


def path_of(snapshot: NewSnapshot) -> str:
    return f"{snapshot.folder}/{FILE_NAME}"


def add_table(connection: duckdb.DuckDBPyConnection, files: Files, snapshot: NewSnapshot) -> None:
    """Make the decisions of a snapshot, which lies in `files`, the table `decisions`."""
    joins.add_files(connection, "decisions_file", [(files, [path_of(snapshot)])], SCHEMA)
    # A table and not a view: it is joined with each part of the snapshot.
    connection.execute("CREATE TEMP TABLE decisions AS FROM decisions_file")


def followers(
    files: Files, snapshot: NewSnapshot, asked: pa.ChunkedArray
) -> dict[int, list[tuple[int, str]]]:
    """The rows that requests answer besides their own, as ordinal and id.

    `asked` has the ordinals of the requests; the keys are places in it.
    """
    if not snapshot.duplicates:
        return {}
    ordinals = asked.combine_chunks()
    rows = (
        files.dataset([path_of(snapshot)])
        .to_table(["answered_by", "ordinal", "id"], pc.field("answered_by").isin(ordinals))
        .sort_by("ordinal")
    )
    found: dict[int, list[tuple[int, str]]] = {}
    places = pc.index_in(rows.column("answered_by"), ordinals).to_pylist()
    for place, row in zip(places, rows.to_pylist(), strict=True):
        found.setdefault(place, []).append((row["ordinal"], row["id"]))
    return found
