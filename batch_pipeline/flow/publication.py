"""The results folder of a night as a whole: built anew when the snapshot changes.

While batches end, `collection` adds a file each; here all rows are made again from the snapshot and
the answers there are, because items came, went, or are now answered by what was bought before.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Connection

from batch_pipeline.errors import LedgerError, UsageError
from batch_pipeline.flow import dead_letter, joins, paths, snapshots, standing_answers
from batch_pipeline.flow.answers import NOT_DEAD, RESULTS_SCHEMA, SUMMED
from batch_pipeline.flow.dead_letter import DeadLetter
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.standing_answers import StandingAnswers
from batch_pipeline.state import accounts, inputs, nights, redrives, submissions, takeovers
from batch_pipeline.state.accounts import Account
from batch_pipeline.state.inputs import NewSnapshot, Snapshot
from batch_pipeline.state.nights import Night

log = logging.getLogger(__name__)

FILE_ROWS = 100_000
# Items without an answer of their own have these from the snapshot alone.
_OF_THE_ANSWER = (
    "content", "parsed", "stop_reason", "model", "mode", "batch_id", "custom_id",
)  # fmt: skip
_DEAD = f"status NOT IN ({', '.join(repr(str(status)) for status in NOT_DEAD)})"
# A unit has one final answer, or after a redrive several: the last one counts. What is wide (the
# answers' texts) is only ever probed, what is narrow is built and sorted.
ROWS = f"""
    CREATE VIEW rows AS
    SELECT s.ordinal, s.id, coalesce(s.problem_status, a.status) AS status,
           coalesce(s.problem_status, a.error_type) AS error_type,
           coalesce(s.problem, a.error_message) AS error_message,
           {", ".join(f"a.{name}" for name in _OF_THE_ANSWER)},
           {", ".join(f"coalesce(c.{name}, 0) AS {name}" for name in SUMMED)},
           coalesce(a.attempt, 0) AS attempt, s.fingerprint,
           k.simulated, coalesce(a.collected_at, k.at) AS collected_at
    FROM snapshot s
    CROSS JOIN constants k
    LEFT JOIN (
        answers a JOIN (
            SELECT unit, max_by(custom_id, collected_at) AS custom_id
            FROM answers WHERE final GROUP BY unit
        ) USING (unit, custom_id)
    ) ON a.unit = s.unit
    LEFT JOIN (
        SELECT id, {", ".join(f"sum({name}) AS {name}" for name in SUMMED)}
        FROM answers GROUP BY id
    ) c ON c.id = s.id
    WHERE s.problem_status IS NOT NULL OR a.unit IS NOT NULL
"""  # noqa: S608  # made of constants
RESULTS = f"SELECT {', '.join(RESULTS_SCHEMA.names)} FROM rows"  # noqa: S608
SETTLED = "SELECT status, count(*) FROM rows GROUP BY status"
DEAD_LETTERS = f"""
    SELECT ordinal, id, status AS reason, attempt AS attempts, error_type, error_message
    FROM rows WHERE {_DEAD} ORDER BY ordinal
"""  # noqa: S608


class NightChangedError(LedgerError):
    """Another process changed the night while its folder was being built; nothing was replaced."""


def former_account(pipeline: Pipeline, night: Night) -> Account | None:
    """The account whose answers the folder shows, where this night is to replace them.

    Raises UsageError where a simulator would hide answers that were paid for.
    """
    with pipeline.ledger.read() as connection:
        shown = nights.shown_night(connection, night.job, night.partition)
        if shown is None or shown.id == night.id:
            return None
        former = accounts.get_account(connection, shown.account)
        mine = accounts.get_account(connection, night.account)
    if mine.simulated and not former.simulated:
        raise UsageError(
            f"{night.job} {night.partition} holds real answers of account {former.name!r}; the "
            "simulator does not replace them. Set another BATCH_PIPELINE_HOME to simulate."
        )
    return former


def switch_snapshot(
    pipeline: Pipeline,
    night: Night,
    new: NewSnapshot,
    *,
    redriven: Collection[str] = (),
    deadline: Callable[[float], float | None] = lambda _taken_at: None,
) -> Snapshot:
    """Make a snapshot the night's own and show what is answered of it, in one step.

    In the same step answers of the statuses `redriven` are put behind, and `deadline` says from the
    time of the snapshot when the night's results are wanted. Nothing of the night is in
    flight, and for a redrive it is as `night` says, or NightChangedError is raised and nothing has
    changed.
    """
    rebuilt = _rebuilt(pipeline, night, new, idle=True, redriven=redriven)
    with rebuilt as (connection, current, settled):
        redrives.record(connection, night.id, redriven)
        takeovers.release(connection, night.id)
        snapshot = inputs.replace_snapshot(connection, current, new, settled)
        nights.update_night(connection, night.id, deadline_at=deadline(snapshot.taken_at))
        return snapshot


def repair(pipeline: Pipeline, night: Night) -> None:
    """Build the results folder again if a process died while it did so."""
    while True:
        night = pipeline.refreshed(night)
        if not night.rebuilding or night.snapshot_id is None:
            return
        try:
            show(pipeline, night)
        except NightChangedError:
            # What the other process did counts: the folder is built from that.
            log.info("%s %s changed while it was repaired", night.job, night.partition)


def show(pipeline: Pipeline, night: Night) -> None:
    """Make the results folder show what is answered of the night's own snapshot.

    Batches may be in flight: their answers come into the folder that they find.
    """
    night = pipeline.refreshed(night)
    assert night.snapshot_id is not None
    with pipeline.ledger.read() as connection:
        snapshot = inputs.get_snapshot(connection, night.snapshot_id)
    with _rebuilt(pipeline, night, snapshot, idle=False):
        pass


@contextmanager
def _rebuilt(
    pipeline: Pipeline,
    night: Night,
    snapshot: NewSnapshot,
    *,
    idle: bool,
    redriven: Collection[str] = (),
) -> Iterator[tuple[Connection, Night, dict[str, int]]]:
    """Replace all files of the folder; the block runs in the transaction that does so.

    It is given the night and the number of settled items by status. With `idle` nothing of the
    night may be in flight.
    """
    with pipeline.ledger.write() as connection:
        seen, night = night, nights.get_night(connection, night.id)
        if redriven and night.revision != seen.revision:
            raise _changed(night)
        simulated = accounts.get_account(connection, night.account).simulated
        nights.update_night(connection, night.id, rebuilding=True)
        answered = standing_answers.of_night(connection, night, redriven)
    with pipeline.files.staged() as results, pipeline.files.staged() as letters:
        results.mkdir()
        letters.mkdir()
        with _rows(pipeline, snapshot, answered, simulated=simulated) as database:
            _write_results(database, results)
            settled = dict(database.execute(SETTLED).fetchall())
            _write_dead_letters(pipeline, database, snapshot, letters, simulated=simulated)
        pipeline.files.make_durable(results)
        pipeline.files.make_durable(letters)
        with pipeline.ledger.write() as connection:
            current = nights.get_night(connection, night.id)
            busy = idle and submissions.of_night(connection, night.id, *submissions.LIVE)
            # Without the mark (another process has repaired the folder) a death while files are
            # replaced would go unnoticed.
            if current.revision != night.revision or not current.rebuilding or busy:
                raise _changed(night)
            _replace(pipeline, paths.results(night.job, night.partition), results)
            _replace(pipeline, paths.dead_letter(night.job, night.partition), letters)
            pipeline.files.remove(paths.report(night.job, night.partition, ".json"))
            nights.show_night(connection, current)
            yield connection, current, settled
            nights.update_night(connection, night.id, rebuilding=False)


def _changed(night: Night) -> NightChangedError:
    return NightChangedError(
        f"{night.job} {night.partition} was changed by another process meanwhile; nothing is lost, "
        "run again."
    )


@contextmanager
def _rows(
    pipeline: Pipeline, snapshot: NewSnapshot, answered: StandingAnswers, *, simulated: bool
) -> Iterator[duckdb.DuckDBPyConnection]:
    sources = {"snapshot": (snapshots.part_paths(snapshot), snapshots.SCHEMA)}
    with standing_answers.tables(pipeline.files, answered, sources) as database:
        types = [RESULTS_SCHEMA.field(name).type for name in ("simulated", "collected_at")]
        values: list[list[Any]] = [[simulated], [datetime.now(UTC)]]
        columns = [pa.array(value, kind) for value, kind in zip(values, types, strict=True)]
        database.register("constants", pa.table(columns, names=["simulated", "at"]))
        database.execute(ROWS)
        yield database


def _write_results(database: duckdb.DuckDBPyConnection, folder: Path) -> None:
    writer: pq.ParquetWriter | None = None
    files = rows = 0
    for batch in joins.batches(database, RESULTS):
        if writer is None:
            writer = pq.ParquetWriter(_numbered(folder, files), RESULTS_SCHEMA, compression="zstd")
            files, rows = files + 1, 0
        writer.write_batch(batch.cast(RESULTS_SCHEMA))
        rows += batch.num_rows
        if rows >= FILE_ROWS:
            writer.close()
            writer = None
    if writer is not None:
        writer.close()
    if not files:
        # A folder without a file is no dataset: readers learn the columns of an empty night here.
        pq.write_table(RESULTS_SCHEMA.empty_table(), _numbered(folder, 0), compression="zstd")


def _write_dead_letters(
    pipeline: Pipeline,
    database: duckdb.DuckDBPyConnection,
    snapshot: NewSnapshot,
    folder: Path,
    *,
    simulated: bool,
) -> None:
    for number, batch in enumerate(joins.batches(database, DEAD_LETTERS)):
        letters = [DeadLetter(**row) for row in batch.to_pylist()]
        path = _numbered(folder, number)
        dead_letter.write(pipeline.files, snapshot, letters, path, simulated=simulated)


def _numbered(folder: Path, number: int) -> Path:
    return folder / f"items-{number:05d}.parquet"


def _replace(pipeline: Pipeline, target: str, folder: Path) -> None:
    """Former files go before new ones come: a moment without a row, never one with it twice.

    New ones have new names: readers open a file several times, and must not get parts of two.
    """
    for path in pipeline.files.list(target, ".parquet"):
        pipeline.files.remove(path)
    build = uuid.uuid4().hex[:8]
    for file in sorted(folder.iterdir()):
        pipeline.files.publish(file, f"{target}/{file.stem}-{build}{file.suffix}")
