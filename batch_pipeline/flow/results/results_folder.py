"""The results folder of a night as a whole: built anew when the snapshot changes.

While batches end, `collection` adds a file each; here all rows are made again from the snapshot and
the answers there are, because items came, went, or are now answered by what was bought before. At
a night's end it is counted.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from batch_pipeline.errors import LedgerError, UsageError
from batch_pipeline.flow import answers, joins, paths
from batch_pipeline.flow.answers import StandingAnswers
from batch_pipeline.flow.dataset.layers import add_table, layers_of
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results import dead_letters, settled_rows
from batch_pipeline.flow.schemas import RESULTS_SCHEMA
from batch_pipeline.ledger import accounts, nights, redrives, submissions, takeovers
from batch_pipeline.ledger import snapshots as inputs
from batch_pipeline.ledger.accounts import Account
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import NewSnapshot, Snapshot

log = logging.getLogger(__name__)


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


def reconcile_counts(pipeline: Pipeline, night: Night, snapshot: Snapshot) -> None:
    """Input = succeeded + set aside, id by id, or the night does not count as complete."""
    results = pipeline.files.list(paths.results(night.job, night.partition), ".parquet")
    with joins.tables(pipeline.files, {"results": (results, RESULTS_SCHEMA)}) as connection:
        add_table(connection, layers_of(pipeline.files, snapshot))
        query = """
            SELECT (SELECT count(*) FROM results),
                   (SELECT count(*) FROM (SELECT id FROM snapshot) s ANTI JOIN results USING (id))
        """
        [(rows, missing)] = connection.execute(query).fetchall()
    if rows != snapshot.items or missing:
        with pipeline.ledger.write() as connection:
            nights.update_night(connection, night.id, rebuilding=True)
        raise LedgerError(
            f"{night.job} {night.partition}: the input has {snapshot.items:,} items, the results "
            f"{rows:,} rows, and {missing:,} items have none. The results are built again from "
            "what the API answered with the next run; if this stays, report it as a bug."
        )


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
        answered = answers.of_night(connection, night, snapshot, redriven)
    with pipeline.files.staged() as results, pipeline.files.staged() as letters:
        results.mkdir()
        letters.mkdir()
        settled = _write_rows(pipeline, snapshot, answered, results, letters, simulated=simulated)
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


def _write_rows(
    pipeline: Pipeline,
    snapshot: NewSnapshot,
    answered: StandingAnswers,
    results: Path,
    letters: Path,
    *,
    simulated: bool,
) -> dict[str, int]:
    """Write what is settled of a snapshot into two local folders; the number by status."""
    if not answered.files and not snapshot.set_aside:
        # A new night: no items have to be looked through to find none.
        settled_rows.write_none(results)
        return {}
    with settled_rows.of_snapshot(pipeline.files, snapshot, answered, simulated=simulated) as rows:
        settled = rows.write(results)
        for number, dead in enumerate(rows.dead_letters()):
            path = letters / settled_rows.file_name(number)
            dead_letters.write(pipeline.files, snapshot, dead, path, simulated=simulated)
    return settled


def _changed(night: Night) -> NightChangedError:
    return NightChangedError(
        f"{night.job} {night.partition} was changed by another process meanwhile; nothing is lost, "
        "run again."
    )


def _replace(pipeline: Pipeline, target: str, folder: Path) -> None:
    """Former files go before new ones come: a moment without a row, never one with it twice.

    New ones have new names: readers open a file several times, and must not get parts of two.
    """
    for path in pipeline.files.list(target, ".parquet"):
        pipeline.files.remove(path)
    build = uuid.uuid4().hex[:8]
    for file in sorted(folder.iterdir()):
        pipeline.files.publish(file, f"{target}/{file.stem}-{build}{file.suffix}")
