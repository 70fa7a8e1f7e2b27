"""Decides what becomes of the near duplicates in a snapshot that is not published yet.

With `action: filter` a twin is set aside in the snapshot's decisions, and with it each row that
asks for the very same. With `action: reuse` the twins are listed in a file of their own: whether
their leaders answer for them is known only after the pilot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.flow import joins
from batch_pipeline.flow.answers import answers
from batch_pipeline.flow.answers.outcomes import Status
from batch_pipeline.flow.dataset.choosing import decisions
from batch_pipeline.flow.dataset.choosing.asked_before import Former
from batch_pipeline.flow.dataset.choosing.duplicates import DUPLICATES
from batch_pipeline.flow.dataset.choosing.near_duplicates import twins
from batch_pipeline.flow.dataset.layers import Layers, each_part
from batch_pipeline.flow.dataset.requests.sizes import NOTHING, PROMPT_SIZE, SUMS, Sizes
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.storage.files import Files

if TYPE_CHECKING:
    import duckdb

    from batch_pipeline.ledger.snapshots import NewSnapshot

NEAR_DUPLICATE = "near_duplicate"
# The cause in `avoided`.
NEAR_DUPLICATES = "near_duplicates"
FILE_NAME = "twins.parquet"
# A twin's ordinal, id and unit, the sizes of its request as in the snapshot, and its leader.
SCHEMA = pa.schema(
    [
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("request_bytes", pa.int64(), nullable=False),
        pa.field("leader", pa.int64(), nullable=False),
        pa.field("leader_unit", pa.string(), nullable=False),
        pa.field("leader_id", pa.string(), nullable=False),
        pa.field("similarity", pa.float64(), nullable=False),
        pa.field("prompt_size", pa.int64()),
        pa.field("visual_tokens", pa.int64()),
    ]
)
# Of 1.2 million rows a million may be twins; less memory than other joins have costs them a second.
_MEMORY_LIMIT = "SET memory_limit = '96MB'"
# `found` has each twin's ordinal, leader and similarity; of the snapshot a part is there at a time.
_LEADERS = """
    INSERT INTO leaders SELECT s.ordinal, s.unit, s.id FROM snapshot s
    SEMI JOIN found f ON f.leader = s.ordinal
"""
_TWINS = """
    INSERT INTO twins
    SELECT s.ordinal, s.id, s.unit, s.request_bytes, f.leader, l.unit, l.id, f.similarity,
           s.prompt_size, s.visual_tokens
    FROM snapshot s
    JOIN found f ON f.ordinal = s.ordinal
    JOIN leaders l ON l.ordinal = f.leader
"""
_DETAIL = "'a near duplicate of ' || leader_id || printf(' (similarity %.2f)', similarity)"
# Twins and the rows that ask the same as a twin, which share its fate, with their sizes.
_SIZES = "request_bytes, prompt_size, visual_tokens"
_FILTERED = f"""
    CREATE TEMP TABLE filtered AS
        SELECT ordinal, id, {_DETAIL} AS detail, {_SIZES} FROM twins
        UNION ALL
        SELECT d.ordinal, d.id, {_DETAIL} AS detail, {_SIZES}
        FROM decided d JOIN twins t ON t.ordinal = d.answered_by
"""  # noqa: S608  # made of constants
_NO_FILTERED = """
    CREATE TEMP TABLE filtered (
        ordinal BIGINT, id VARCHAR, detail VARCHAR,
        request_bytes BIGINT, prompt_size BIGINT, visual_tokens BIGINT
    )
"""
_CARRIED_ON = f"""
    INSERT INTO filtered
    SELECT s.ordinal, s.id, f.detail, s.request_bytes, s.prompt_size, s.visual_tokens
    FROM snapshot s JOIN former f ON f.ordinal = s.ordinal WHERE f.reason = '{NEAR_DUPLICATE}'
"""  # noqa: S608
_DECIDED = f"""
    SELECT ordinal, id, '{Status.FILTERED}' AS status, '{NEAR_DUPLICATE}' AS reason,
           NULL AS answered_by, NULL AS unit, detail
    FROM filtered
    UNION ALL
    SELECT ordinal, id, status, reason, answered_by, unit, detail
    FROM decided d ANTI JOIN filtered f USING (ordinal)
    ORDER BY ordinal
"""  # noqa: S608


# A number of rows or requests, and the sizes of their prompts together.
Counted = tuple[int, int]


@dataclass(frozen=True)
class Decided:
    """What became of near duplicates.

    `filtered` rows of these `sizes` are set aside, `duplicates` of which were to be answered by
    another row's request; `requests` are not sent for it. `digest` differs where the decisions do.
    """

    filtered: int = 0
    sizes: Sizes = NOTHING
    duplicates: Counted = (0, 0)
    requests: Counted = (0, 0)
    digest: bytes = b""

    def avoided(self, before: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
        """`NewSnapshot.avoided` with these near duplicates, given that without them."""
        found = dict(before)
        if self.duplicates[0]:
            same = {name: found[DUPLICATES][name] for name in ("documents", "bytes")}
            same["documents"] -= self.duplicates[0]
            same["bytes"] -= self.duplicates[1]
            found[DUPLICATES] = same
            if not same["documents"]:
                del found[DUPLICATES]
        if self.requests[0]:
            found[NEAR_DUPLICATES] = {"documents": self.requests[0], "bytes": self.requests[1]}
        return found


def path_of(snapshot: NewSnapshot) -> str:
    return f"{snapshot.folder}/{FILE_NAME}"


def decide(
    pipeline: Pipeline,
    folder: Path,
    layers: Layers,
    items: int,
    signatures: Path,
    declared: dict[str, Any],
    former: Former | None,
) -> Decided:
    """Find the twins among the rows of a snapshot, and write down what becomes of them.

    `folder` has the decisions that were made before. A row whose unit has an answer of the night,
    under the `former` snapshot, keeps it: it may lead, and is no twin.
    """
    path = folder / decisions.FILE_NAME
    passed_over = pq.read_table(path, columns=["ordinal"]).column("ordinal").to_numpy()
    found = twins.find(signatures, declared["threshold"], np.sort(passed_over))
    with joins.tables(pipeline.files, {}) as connection:
        connection.execute(_MEMORY_LIMIT)
        columns = {
            "ordinal": found.ordinals,
            "leader": found.leaders,
            "similarity": found.similarities,
        }
        connection.register("found", pa.table(columns))
        connection.register("nothing", SCHEMA.empty_table())
        connection.execute("CREATE TEMP TABLE leaders (ordinal BIGINT, unit VARCHAR, id VARCHAR)")
        connection.execute("CREATE TEMP TABLE twins AS FROM nothing")
        if len(found.ordinals):
            for query in (_LEADERS, _TWINS):
                for _ in each_part(connection, layers, items):
                    connection.execute(query)
            connection.execute("DROP TABLE leaders")
            _leave_answered(connection, pipeline, former)
        if declared["action"] == "filter":
            return _filter(connection, path)
        return _list(connection, folder / FILE_NAME)


def carry_on(
    pipeline: Pipeline, folder: Path, layers: Layers, items: int, below: NewSnapshot
) -> Decided:
    """Let the near duplicates of a snapshot stay set aside in one that lies on it.

    What a redrive asks again is none of them: they are no dead letters.
    """
    if NEAR_DUPLICATE not in below.filtered_by:
        return Decided()
    path = folder / decisions.FILE_NAME
    with joins.tables(pipeline.files, {}) as connection:
        connection.execute(_MEMORY_LIMIT)
        source = [(pipeline.files, [decisions.path_of(below)])]
        joins.add_files(connection, "former", source, decisions.SCHEMA)
        _add_decided(connection, path)
        connection.execute(_NO_FILTERED)
        for _ in each_part(connection, layers, items):
            connection.execute(_CARRIED_ON)
        counts = below.avoided.get(NEAR_DUPLICATES, {"documents": 0, "bytes": 0})
        return _decided(connection, path, counts["documents"], counts["bytes"])


def _leave_answered(
    connection: duckdb.DuckDBPyConnection, pipeline: Pipeline, former: Former | None
) -> None:
    """Take those out of the twins whose units have answers."""
    if former is None:
        return
    with pipeline.ledger.read() as ledger:
        known = answers.of_night(ledger, former.night, former.snapshot)
    if not known.files:
        return
    units = connection.sql("SELECT DISTINCT unit FROM twins").to_arrow_table()
    with answers.tables(pipeline.files, known, {}) as answered:
        answered.register("units", units)
        query = "SELECT unit FROM units SEMI JOIN (FROM answers WHERE final) USING (unit)"
        connection.register("answered", answered.sql(query).to_arrow_table())
    connection.execute("DELETE FROM twins WHERE unit IN (FROM answered)")


def _filter(connection: duckdb.DuckDBPyConnection, path: Path) -> Decided:
    """Add the twins to the decisions in a file."""
    _add_decided(connection, path)
    connection.execute(_FILTERED)
    documents, size = _sums(connection, "twins")
    connection.execute("DROP TABLE twins")
    return _decided(connection, path, documents, size)


def _add_decided(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Make the decisions in a file the table `decided`."""
    source = [(Files(str(path.parent)), [path.name])]
    joins.add_files(connection, "decided", source, decisions.SCHEMA)


def _decided(
    connection: duckdb.DuckDBPyConnection, path: Path, documents: int, size: int
) -> Decided:
    """Write the decisions with the rows in `filtered` anew."""
    query = f"SELECT count(*), {SUMS} FROM filtered"  # noqa: S608
    [(rows, *sums)] = connection.execute(query).fetchall()
    duplicates = _sums(connection, "filtered SEMI JOIN decided USING (ordinal)")
    anew = path.with_suffix(".new")
    _write(connection, _DECIDED, anew, decisions.SCHEMA)
    anew.replace(path)
    digest = _digest(connection, "filtered", ["ordinal", "detail"])
    sizes = Sizes(*map(int, sums))
    return Decided(int(rows), sizes, duplicates, (documents, size), digest)


def _list(connection: duckdb.DuckDBPyConnection, path: Path) -> Decided:
    """Write the twins into a file."""
    _write(connection, "FROM twins ORDER BY ordinal", path, SCHEMA)
    return Decided(digest=_digest(connection, "twins", ["ordinal", "leader"]))


def _write(
    connection: duckdb.DuckDBPyConnection, query: str, path: Path, schema: pa.Schema
) -> None:
    """Write the rows of a query into a file, as a stream."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in joins.batches(connection, query):
            writer.write_batch(batch.select(schema.names).cast(schema))


def _sums(connection: duckdb.DuckDBPyConnection, table: str) -> Counted:
    query = f"SELECT count(*), coalesce(sum({PROMPT_SIZE}), 0) FROM {table}"  # noqa: S608
    [(rows, total)] = connection.execute(query).fetchall()
    return int(rows), int(total)


def _digest(connection: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str]) -> bytes:
    digest = hashlib.sha256()
    query = f"SELECT {', '.join(columns)} FROM {table} ORDER BY ordinal"  # noqa: S608
    for batch in joins.batches(connection, query):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update(f"{row}\n".encode())
    return digest.digest()
