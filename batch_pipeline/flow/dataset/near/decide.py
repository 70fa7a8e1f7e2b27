"""Decides what becomes of the near duplicates in a snapshot that is not published yet.

With `action: filter` a twin is set aside in the snapshot's decisions, and with it each row that
asks for the very same. With `action: reuse` the twins are listed in a file of their own: whether
their leaders answer for them is known only after the pilot, see `flow.planning.held_twins`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.flow import joins
from batch_pipeline.flow.dataset import decisions
from batch_pipeline.flow.dataset.layers import Layers, each_part
from batch_pipeline.flow.dataset.near import twins
from batch_pipeline.flow.dataset.near.twins import Places, Twins
from batch_pipeline.flow.outcomes import Status
from batch_pipeline.storage.files import Files

if TYPE_CHECKING:
    import duckdb

    from batch_pipeline.ledger.snapshots import NewSnapshot

NEAR_DUPLICATE = "near_duplicate"
# The cause in `avoided`.
NEAR_DUPLICATES = "near_duplicates"
FILE_NAME = "twins.parquet"
# A twin's ordinal and unit, and those of its leader with the leader's id; bytes of the twin's
# request.
SCHEMA = pa.schema(
    [
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("request_bytes", pa.int64(), nullable=False),
        pa.field("leader", pa.int64(), nullable=False),
        pa.field("leader_unit", pa.string(), nullable=False),
        pa.field("leader_id", pa.string(), nullable=False),
        pa.field("similarity", pa.float64(), nullable=False),
    ]
)
# `found` has each twin's ordinal, leader and similarity; of the snapshot a part is there at a time.
_LEADERS = """
    INSERT INTO leaders SELECT s.ordinal, s.unit, s.id FROM snapshot s
    SEMI JOIN found f ON f.leader = s.ordinal
"""
_NAMED = f"""
    INSERT INTO twins
    SELECT s.ordinal, s.unit, s.request_bytes, f.leader, l.unit, l.id, f.similarity, s.id AS id
    FROM snapshot s
    JOIN found f ON f.ordinal = s.ordinal
    JOIN leaders l ON l.ordinal = f.leader
"""
_SET_ASIDE = f"""'{Status.FILTERED}' AS status, '{NEAR_DUPLICATE}' AS reason,
    NULL AS answered_by, NULL AS unit,
    printf('%.2f the same as ', t.similarity) || t.leader_id AS detail"""
# Twins, and rows that were decided on before; those that ask the same as a twin share its fate.
_DECIDED = f"""
    SELECT t.ordinal, t.id, {_SET_ASIDE} FROM twins t
    UNION ALL
    SELECT d.ordinal, d.id, {_SET_ASIDE} FROM decided d JOIN twins t ON t.ordinal = d.answered_by
    UNION ALL
    SELECT d.ordinal, d.id, d.status, d.reason, d.answered_by, d.unit, d.detail FROM decided d
    ANTI JOIN twins t ON t.ordinal = d.answered_by
    ORDER BY ordinal
"""  # noqa: S608  # made of constants


@dataclass(frozen=True)
class Decided:
    """Rows that are set aside, how many of them were to be answered by another row's request, and
    the requests that are not sent for it, with their bytes."""

    filtered: int = 0
    duplicates: int = 0
    documents: int = 0
    bytes: int = 0


def path_of(snapshot: NewSnapshot) -> str:
    return f"{snapshot.folder}/{FILE_NAME}"


def decide(
    files: Files,
    folder: Path,
    layers: Layers,
    items: int,
    signatures: Path,
    declared: Mapping[str, Any],
    bought: Places,
) -> Decided:
    """Find the twins among the rows of a snapshot, and write down what becomes of them.

    `folder` has the decisions that were made before. Rows in `bought` (ordinals) have their answers
    already: they may lead, and are no twins.
    """
    path = folder / decisions.FILE_NAME
    decided = pq.read_table(path, columns=["ordinal"]).column("ordinal").to_numpy()
    found = twins.find(signatures, declared["threshold"], np.sort(decided))
    left = ~np.isin(found.ordinals, bought)
    found = Twins(found.ordinals[left], found.leaders[left], found.similarities[left])
    if not len(found.ordinals):
        return Decided()
    with joins.tables(files, {}) as connection:
        _name(connection, layers, items, found)
        if declared["action"] == "filter":
            return _filter(connection, path)
        _list(connection, folder / FILE_NAME)
    return Decided()


def _name(connection: duckdb.DuckDBPyConnection, layers: Layers, items: int, found: Twins) -> None:
    """Make the table `twins`: the columns of `SCHEMA`, and the twin's `id`."""
    columns = {
        "ordinal": found.ordinals, "leader": found.leaders, "similarity": found.similarities
    }  # fmt: skip
    connection.register("found", pa.table(columns))
    connection.execute("CREATE TEMP TABLE leaders (ordinal BIGINT, unit VARCHAR, id VARCHAR)")
    for _ in each_part(connection, layers, items):
        connection.execute(_LEADERS)
    connection.register("no_twins", SCHEMA.append(pa.field("id", pa.string())).empty_table())
    connection.execute("CREATE TEMP TABLE twins AS FROM no_twins")
    for _ in each_part(connection, layers, items):
        connection.execute(_NAMED)


def _filter(connection: duckdb.DuckDBPyConnection, path: Path) -> Decided:
    """Add the twins to the decisions in a file."""
    # Read whole before the file is written anew: a row takes about 100 bytes.
    connection.register("decided", pq.read_table(path))
    [(documents, size)] = connection.execute(
        "SELECT count(*), sum(request_bytes) FROM twins"
    ).fetchall()
    rows = connection.sql(_DECIDED).to_arrow_table().cast(decisions.SCHEMA)
    [(same,)] = connection.execute(
        "SELECT count(*) FROM decided d SEMI JOIN twins t ON t.ordinal = d.answered_by"
    ).fetchall()
    pq.write_table(rows, path, compression="zstd")
    return Decided(documents + same, same, documents, int(size))


def _list(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    names = ", ".join(SCHEMA.names)
    rows = connection.sql(f"SELECT {names} FROM twins ORDER BY ordinal")  # noqa: S608
    pq.write_table(rows.to_arrow_table().cast(SCHEMA), path, compression="zstd")
