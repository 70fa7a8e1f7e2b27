"""Copies answers of earlier nights for a night's open units: its reuse, decided once a snapshot.

A unit that an earlier night of the same account has a succeeded answer for is not asked. Its answer
is copied into a file of the night's own, at no cost, so that nothing that becomes of the earlier
night can take it away. Only what a night bought itself is copied: an answer ages from the night
that bought it, however often it is reused.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from batch_pipeline.flow import answers as night_answers
from batch_pipeline.flow import joins, paths
from batch_pipeline.flow.outcomes import Status
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import plan
from batch_pipeline.flow.planning.open_units import open_units
from batch_pipeline.flow.planning.plan import View
from batch_pipeline.flow.results import results_folder
from batch_pipeline.flow.reuse import window
from batch_pipeline.flow.schemas import ANSWERS_SCHEMA, REUSED, parquet_writer
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import answers_files, nights, snapshots, submissions
from batch_pipeline.ledger.answers_files import AnswersFile
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import REUSE
from batch_pipeline.pricing.tokens import TOKENS
from batch_pipeline.safe_text import get_logger
from batch_pipeline.storage.files import Files

if TYPE_CHECKING:
    import duckdb

log = get_logger(__name__)

# The begin of the names of files of copied answers; no token of a submission is like it.
FILE_PREFIX = "reused-"
# In the metadata of such a file: the folder of the snapshot, for a ledger that is lost.
SNAPSHOT = b"snapshot"

_GOOD = f"final AND status = '{Status.SUCCEEDED}' AND mode <> '{REUSED}'"
# A unit may have been answered twice, where a shard was.
_PICK = f"""
    CREATE OR REPLACE TEMP TABLE picked AS
        SELECT e.unit, max_by(e.custom_id, e.collected_at) AS custom_id,
               any_value(w.id) AS id, any_value(w.fingerprint) AS fingerprint
        FROM earlier e JOIN wanted w ON w.unit = e.unit
        WHERE {_GOOD} GROUP BY e.unit
"""  # noqa: S608  # made of constants
_TAKE = "DELETE FROM wanted WHERE unit IN (SELECT unit FROM picked)"
# The side with the answers' texts is the probe side: DuckDB holds the other one.
_COPIES = f"""
    SELECT e.unit, true AS final, false AS counted, p.id, e.status, e.content, e.parsed,
           e.stop_reason, NULL AS error_type, NULL AS error_message, e.model,
           {", ".join(f"0 AS {name}" for name in TOKENS)}, 0::DECIMAL(18, 12) AS cost_usd,
           e.attempt, '{REUSED}' AS mode, e.batch_id, e.custom_id, p.fingerprint, e.simulated,
           k.at AS collected_at, k.answered_by, 0::DECIMAL(18, 12) AS other_way_usd,
           NULL AS route, NULL AS variant, NULL AS escalate
    FROM earlier e
    JOIN picked p ON p.unit = e.unit AND p.custom_id = e.custom_id
    CROSS JOIN constants k
    WHERE {_GOOD}
"""  # noqa: S608
_SELECT_COPIES = f"SELECT {', '.join(ANSWERS_SCHEMA.names)} FROM ({_COPIES})"  # noqa: S608


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
        seen = plan.view(pipeline, night)
        with pipeline.ledger.read() as connection:
            if not window.is_due(connection, spec, seen.night) or not seen.night.published:
                return None
            if submissions.of_night(connection, night.id, *submissions.LIVE):
                return None
            awaited = window.waits_for(connection, spec, seen.night)
        if awaited != seen.night.waits_for:
            with pipeline.ledger.write() as connection:
                nights.update_night(connection, night.id, waits_for=awaited)
        if awaited is not None:
            return awaited
        try:
            _copy(pipeline, spec, seen)
        except results_folder.NightChangedError:
            log.info("%s %s was changed by another process meanwhile", night.job, night.partition)


def sources(pipeline: Pipeline, spec: JobSpec, night: Night) -> list[Source]:
    """The earlier nights that have answers, the newest first."""
    found = []
    with pipeline.ledger.read() as connection:
        for each in window.earlier_nights(connection, spec, night):
            files = night_answers.files_of(connection, each)
            if files:
                found.append((each, files))
    there = []
    for each, files in found:
        folder = paths.answers(each.job, each.partition, each.account)
        listed = set(pipeline.files.list(folder, ".parquet"))
        missing = [path for path in files if path not in listed]
        if missing:
            log.warning(
                "%s %s: %d files of its answers are gone; what they answered cannot be reused",
                each.job, each.partition, len(missing),
            )  # fmt: skip
        there.append(Source(each.partition, [path for path in files if path in listed]))
    return there


def _copy(pipeline: Pipeline, spec: JobSpec, seen: View) -> None:
    """Copy what there is for the open units, publish it, and record the decision.

    Raises NightChangedError where the night has changed since it was seen.
    """
    found: dict[str, int] = {}
    left = units = size = 0
    path: str | None = None
    earlier = sources(pipeline, spec, seen.night)
    with pipeline.ledger.read() as connection:
        copied = any(f.name for f in answers_files.of_night(connection, seen.night.id))
    with pipeline.files.staged(".parquet") as staged:
        if earlier or copied:
            with open_units(pipeline.files, seen.snapshot, seen.answers, seen.manifests) as open_:
                units, size = open_.count_reused()
                connection = open_.keep("wanted")
                before = _wanted(connection)
                found = _write(connection, pipeline.files, earlier, staged, seen)
                left, left_bytes = _wanted(connection)
                units += before[0] - left
                size += before[1] - left_bytes
        if found:
            pipeline.files.make_durable(staged)
            folder = paths.answers(seen.night.job, seen.night.partition, seen.night.account)
            path = f"{folder}/{FILE_PREFIX}{uuid.uuid4().hex}.parquet"
            # Under a name that nothing refers to until the transaction.
            pipeline.files.publish(staged, path)
    name = None if path is None else path.rpartition("/")[2]
    decided = AnswersFile(seen.snapshot.id, REUSE, name, sum(found.values()))
    if path is None:
        with pipeline.ledger.write() as connection:
            current = nights.get_night(connection, seen.night.id)
            if current.snapshot_id == seen.snapshot.id:
                answers_files.add(connection, seen.night.id, decided)
                snapshots.avoid(connection, seen.snapshot, REUSE, units, size)
        return
    try:
        with results_folder.with_answers(pipeline, seen.night, seen.snapshot, path) as (
            connection,
            current,
        ):
            answers_files.add(connection, seen.night.id, decided)
            snapshots.avoid(connection, seen.snapshot, REUSE, units, size)
            nights.update_night(
                connection, current.id, open_requests=left, revision=current.revision + 1
            )
    except results_folder.NightChangedError:
        pipeline.files.remove(path)
        raise
    log.info(
        "%s %s: %s requests are answered by earlier nights (%s), %s are open",
        seen.night.job, seen.night.partition, f"{sum(found.values()):,}",
        ", ".join(f"{count:,} by {partition}" for partition, count in found.items()), f"{left:,}",
    )  # fmt: skip


def _write(
    connection: duckdb.DuckDBPyConnection,
    files: Files,
    earlier: Sequence[Source],
    target: Path,
    seen: View,
) -> dict[str, int]:
    """Write copies for the units in the table `wanted`, and take these out of it; returns how many
    by partition. No file is made where there are none."""
    found: dict[str, int] = {}
    at = datetime.now(UTC)
    writer = None
    try:
        for source in earlier:
            joins.add_files(connection, "earlier", [(files, source.files)], ANSWERS_SCHEMA)
            connection.execute(_PICK)
            [(count,)] = connection.execute("SELECT count(*) FROM picked").fetchall()
            if count:
                found[source.partition] = count
                writer = writer or parquet_writer(target, ANSWERS_SCHEMA)
                for batch in _copies(connection, source.partition, at):
                    writer.write_batch(batch.cast(ANSWERS_SCHEMA))
                connection.execute(_TAKE)
        if writer is not None:
            writer.add_key_value_metadata({SNAPSHOT: seen.snapshot.folder.encode()})
    finally:
        if writer is not None:
            writer.close()
    return found


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
    """The number of units that are still wanted, and their bytes."""
    query = "SELECT count(*), coalesce(sum(request_bytes), 0) FROM wanted"
    [(units, size)] = connection.execute(query).fetchall()
    return int(units), int(size)
