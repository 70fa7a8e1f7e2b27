"""Copies answers of earlier nights for a night's open units: its reuse, decided once a snapshot.

A unit that an earlier night of the same account has a succeeded answer for is not asked. Its answer
is copied into a file of the night's own, at no cost, so that nothing that becomes of the earlier
night can take it away. Only what a night bought itself is copied: an answer ages from the night
that bought it, however often it is reused.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Connection

from batch_pipeline.flow import joins, paths
from batch_pipeline.flow.answers import answers as night_answers
from batch_pipeline.flow.answers.schemas import ANSWERS_SCHEMA, REUSED, parquet_writer
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import plan
from batch_pipeline.flow.planning.open_units import REUSABLE, open_units
from batch_pipeline.flow.planning.plan import View
from batch_pipeline.flow.results import results_folder
from batch_pipeline.flow.reuse import window
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import answers_files, nights, snapshots
from batch_pipeline.ledger.answers_files import AnswersFile
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import REUSE
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.pricing.tokens import TOKENS
from batch_pipeline.safe_text import get_logger
from batch_pipeline.storage.files import Files

if TYPE_CHECKING:
    import duckdb

log = get_logger(__name__)

# The begin of the names of files of copied answers; no token of a submission is like it.
FILE_PREFIX = "reused-"
# What a copy has of its answer.
_KEPT = (
    "status", "content", "parsed", "stop_reason", "model", "attempt", "batch_id", "custom_id",
    "simulated", "details",
)  # fmt: skip
_FREE = "0::DECIMAL(18, 12)"

# A unit may have been answered twice, where a shard was.
_PICK = f"""
    CREATE OR REPLACE TEMP TABLE picked AS
        SELECT e.unit, max_by(e.custom_id, e.collected_at) AS custom_id,
               any_value(w.id) AS id, any_value(w.fingerprint) AS fingerprint
        FROM earlier e JOIN wanted w ON w.unit = e.unit
        WHERE {REUSABLE} GROUP BY e.unit
"""  # noqa: S608  # made of constants
_TAKE = "DELETE FROM wanted WHERE unit IN (SELECT unit FROM picked)"


def columns(**own: str) -> str:
    """The columns of a copy of the answer `a`, as SQL: what it says is kept, and nothing of it is
    paid again. `own` are the expressions of what is the copy's own."""
    found = dict.fromkeys(ANSWERS_SCHEMA.names, "NULL")
    found |= dict.fromkeys(TOKENS, "0") | dict.fromkeys(("cost_usd", "other_way_usd"), _FREE)
    found |= {"final": "true", "counted": "false", "mode": f"'{REUSED}'"}
    found |= {name: f"a.{name}" for name in _KEPT} | own
    return ", ".join(f"{expression} AS {name}" for name, expression in found.items())


# The side with the answers' texts is the probe side: DuckDB holds the other one.
_COPY_COLUMNS = columns(
    unit="a.unit",
    id="p.id",
    fingerprint="p.fingerprint",
    collected_at="k.at",
    answered_by="k.answered_by",
)
_SELECT_COPIES = f"""
    SELECT {_COPY_COLUMNS}
    FROM earlier a
    JOIN picked p ON p.unit = a.unit AND p.custom_id = a.custom_id
    CROSS JOIN constants k
    WHERE {REUSABLE}
"""  # noqa: S608


@dataclass(frozen=True)
class _Found:
    """How many units earlier nights answer, by partition, and how many are `left` open.

    `documents` with prompts of `size` are all requests of the snapshot that copied answers answer,
    those that were copied for a former snapshot of the night too.
    """

    by_partition: dict[str, int]
    left: int
    documents: int
    size: int

    @property
    def avoided(self) -> tuple[int, int]:
        return self.documents, self.size


@dataclass(frozen=True)
class Source:
    """The answer files of an earlier night, which are there."""

    partition: str
    files: Sequence[str]


def settle(pipeline: Pipeline, spec: JobSpec, night: Night) -> str | None:
    """Decide which earlier answers a night reuses, unless that is decided for its snapshot.

    Returns the partition that has to be complete before that, or None. A night of which requests
    are in flight is left as it is: it began before its job declared `reuse`.
    """
    if spec.reuse is None:
        return None
    while True:
        with pipeline.ledger.read() as connection:
            current = nights.get_night(connection, night.id)
            if not window.is_due(connection, spec, current) or not current.published:
                return None
            if submissions.of_night(connection, night.id, *submissions.LIVE):
                return None
            awaited = window.waits_for(connection, spec, current)
        if awaited != current.waits_for:
            with pipeline.ledger.write() as connection:
                nights.update_night(connection, night.id, waits_for=awaited)
        if awaited is not None:
            return awaited
        try:
            _copy(pipeline, spec, plan.view(pipeline, night))
        except results_folder.NightChangedError:
            log.info("%s %s was changed by another process meanwhile", night.job, night.partition)


def reusable(pipeline: Pipeline, spec: JobSpec, partition: str, account: str) -> list[str]:
    """The answer files of earlier nights that a night which has decided nothing may yet reuse."""
    if spec.reuse is None:
        return []
    with pipeline.ledger.read() as connection:
        night = nights.find_night(connection, spec.name, partition, account)
        begun = night is not None and night.snapshot_id is not None
        if night is not None and begun and not window.is_due(connection, spec, night):
            return []
    return [path for each in sources(pipeline, spec, partition, account) for path in each.files]


def sources(pipeline: Pipeline, spec: JobSpec, partition: str, account: str) -> list[Source]:
    """The earlier nights that have answers, the newest first."""
    found = []
    with pipeline.ledger.read() as connection:
        for each in window.earlier_nights(connection, spec, partition, account):
            files = night_answers.files_of(connection, each)
            if files:
                found.append((each, files))
    there = []
    for each, files in found:
        left = night_answers.still_there(pipeline.files, each, files)
        if len(left) < len(files):
            log.warning(
                "%s %s: %d files of its answers are gone; what they answered cannot be reused",
                each.job, each.partition, len(files) - len(left),
            )  # fmt: skip
        there.append(Source(each.partition, left))
    return there


def _copy(pipeline: Pipeline, spec: JobSpec, seen: View) -> None:
    """Copy what there is for the open units, publish it, and record the decision.

    Raises NightChangedError where the night has changed since it was seen.
    """
    with pipeline.files.staged(".parquet") as staged:
        found = _find(pipeline, spec, seen, staged)
        path = publish(pipeline, seen.night, staged) if found.by_partition else None
    if path is None:
        with pipeline.ledger.write() as connection:
            if nights.get_night(connection, seen.night.id).snapshot_id == seen.snapshot.id:
                record(connection, seen, REUSE, None, 0, found.avoided)
        return
    with published(pipeline, seen, path) as (connection, current):
        copied = sum(found.by_partition.values())
        record(connection, seen, REUSE, path, copied, found.avoided)
        nights.update_night(
            connection, current.id, open_requests=found.left, revision=current.revision + 1
        )
    log.info(
        "%s %s: earlier nights answer requests (%s); %s are open",
        seen.night.job,
        seen.night.partition,
        ", ".join(f"{count:,} by {key}" for key, count in found.by_partition.items()),
        f"{found.left:,}",
    )


def _find(pipeline: Pipeline, spec: JobSpec, seen: View, target: Path) -> _Found:
    """Write copies for the open units of a night into a local file, if there are any."""
    earlier = sources(pipeline, spec, seen.night.partition, seen.night.owner)
    with pipeline.ledger.read() as connection:
        copied = any(f.name for f in answers_files.of_night(connection, seen.night.id))
    if not earlier and not copied:
        return _Found({}, left=0, documents=0, size=0)
    with open_units(pipeline.files, seen.snapshot, seen.answers, seen.manifests) as units:
        documents, size = units.count_reused()
        units.keep("wanted")
        database = units.connection
        before, before_bytes = _wanted(database)
        writer = _Writer(target, seen.snapshot.folder)
        with writer:
            by_partition = {
                source.partition: count
                for source in earlier
                if (count := writer.copy(database, pipeline.files, source))
            }
            left, left_bytes = _wanted(database)
            documents += before - left
            size += before_bytes - left_bytes
            writer.finish(documents, size)
    return _Found(by_partition, left, documents, size)


class _Writer:
    """Writes a file of copies; there is none as long as nothing was copied."""

    def __init__(self, path: Path, snapshot: str) -> None:
        self._path, self._snapshot = path, snapshot
        self._at = datetime.now(UTC)
        self._file: pq.ParquetWriter | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_error: object) -> None:
        if self._file is not None:
            self._file.close()

    def copy(self, database: duckdb.DuckDBPyConnection, files: Files, source: Source) -> int:
        """Copy the answers of a night to units in the table `wanted`, and take these out of it;
        returns how many."""
        joins.add_files(database, "earlier", [(files, source.files)], ANSWERS_SCHEMA)
        database.execute(_PICK)
        [(count,)] = database.execute("SELECT count(*) FROM picked").fetchall()
        if count:
            if self._file is None:
                self._file = parquet_writer(self._path, ANSWERS_SCHEMA)
            for batch in _copies(database, source.partition, self._at):
                self._file.write_batch(batch.cast(ANSWERS_SCHEMA))
            database.execute(_TAKE)
        return int(count)

    def finish(self, documents: int, size: int) -> None:
        """Note in the file what it is for, for a ledger that is lost."""
        if self._file is not None:
            self._file.add_key_value_metadata(facts_of(REUSE, self._snapshot, documents, size))


def facts_of(origin: str, snapshot: str, documents: int, size: int) -> dict[str, str]:
    """What a file of copies says of itself, for a ledger that is lost: why it was made, the folder
    of its snapshot, and what is not bought for it."""
    return {
        "origin": origin,
        "snapshot": snapshot,
        "documents": str(documents),
        "bytes": str(size),
    }


def publish(pipeline: Pipeline, night: Night, staged: Path) -> str:
    """Give the file a name that nothing refers to before the transaction; returns its path."""
    pipeline.files.make_durable(staged)
    folder = paths.answers(night.job, night.partition, night.owner)
    path = f"{folder}/{FILE_PREFIX}{uuid.uuid4().hex}.parquet"
    pipeline.files.publish(staged, path)
    return path


@contextmanager
def published(pipeline: Pipeline, seen: View, path: str) -> Iterator[tuple[Connection, Night]]:
    """`results_folder.with_answers` for a file that is removed again where the night has changed
    since it was seen."""
    try:
        with results_folder.with_answers(pipeline, seen.night, seen.snapshot, path) as found:
            yield found
    except results_folder.NightChangedError:
        pipeline.files.remove(path)
        raise


def record(
    connection: Connection,
    seen: View,
    origin: str,
    path: str | None,
    copied: int,
    avoided: tuple[int, int],
) -> None:
    """Let the ledger name a file of copies, and say what is not bought for it: requests, bytes."""
    name = None if path is None else path.rpartition("/")[2]
    answers_files.add(
        connection, seen.night.id, AnswersFile(seen.snapshot.id, origin, name, copied)
    )
    snapshots.avoid(connection, seen.snapshot, origin, *avoided)


def _copies(
    connection: duckdb.DuckDBPyConnection, partition: str, at: datetime
) -> Iterator[pa.RecordBatch]:
    columns = [
        pa.array([at], ANSWERS_SCHEMA.field("collected_at").type),
        pa.array([f"partition:{partition}"]),
    ]
    connection.register("constants", pa.table(columns, names=["at", "answered_by"]))
    return joins.batches(connection, _SELECT_COPIES)


def _wanted(connection: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """The number of units that are still wanted, and the sizes of their prompts."""
    query = "SELECT count(*), coalesce(sum(prompt_size), 0) FROM wanted"
    [(units, size)] = connection.execute(query).fetchall()
    return int(units), int(size)
