"""The results folder of a night, beside it the dead letters and typed rows: how they come there.

There are two ways, and both leave one row for each item that is settled:

- A submission that is collected adds a file with the rows of the items that it settled
  (`collection`).
- `switch_snapshot`, `show` and `repair` build all files anew from the snapshot and the answers that
  stand, because items came or went, are answered by what was bought before, or because another
  account's night was shown. `settled_rows` makes those rows.

At a night's end `reconcile_counts` compares the folder with the snapshot, id by id.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import orjson
from sqlalchemy import Connection

from batch_pipeline.errors import LedgerError, UsageError
from batch_pipeline.flow import joins, paths, publishing
from batch_pipeline.flow.answers import answers
from batch_pipeline.flow.answers.answers import NightAnswers
from batch_pipeline.flow.answers.schemas import RESULTS_SCHEMA
from batch_pipeline.flow.dataset.layers import add_table, layers_of
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.publishing import Named
from batch_pipeline.flow.results import dead_letters, settled_rows
from batch_pipeline.flow.results.typed.rows import TypedRows
from batch_pipeline.ledger import nights
from batch_pipeline.ledger import snapshots as inputs
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.accounts.accounts import Account
from batch_pipeline.ledger.control import redrives
from batch_pipeline.ledger.home import restoring
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import NewSnapshot, Snapshot
from batch_pipeline.ledger.submissions import submissions, takeovers
from batch_pipeline.safe_text import get_logger
from batch_pipeline.settings import is_simulated

log = get_logger(__name__)


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
        former = accounts.get_account(connection, shown.owner)
        mine = accounts.get_account(connection, night.owner)
    if mine.simulated and not former.simulated:
        raise UsageError(
            f"{night.job} {night.partition} holds real answers of owner {former.name!r}; the "
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
    """Make a snapshot the night's own, and build the folder from it, in one transaction.

    The same transaction records that answers of the statuses in `redriven` settle nothing any more.
    `deadline` returns, for the time of the snapshot, when the night's results are wanted. Raises
    NightChangedError, and changes nothing, where a submission of the night is in flight, or where a
    redrive finds the night in another revision than `night` has.
    """
    rebuilt = _rebuilt(pipeline, night, new, idle=True, redriven=redriven)
    with rebuilt as (connection, current, settled):
        redrives.record(connection, night.id, redriven)
        takeovers.release(connection, night.id)
        snapshot = inputs.replace_snapshot(connection, current, new, settled)
        nights.update_night(connection, night.id, deadline_at=deadline(snapshot.taken_at))
        return snapshot


def repair(pipeline: Pipeline, night: Night) -> None:
    """Finish what a process that died has left: files to be moved, a folder to be built again."""
    while True:
        publishing.carry_out(pipeline, night)
        night = pipeline.refreshed(night)
        if not night.rebuilding or night.snapshot_id is None:
            return
        try:
            show(pipeline, night)
        except NightChangedError:
            # The folder is built again from what the other process has left.
            log.info("%s %s changed while it was repaired", night.job, night.partition)


def show(pipeline: Pipeline, night: Night) -> None:
    """Build the folder anew from the night's present snapshot.

    Batches may be in flight: what they answer is appended later.
    """
    night = pipeline.refreshed(night)
    assert night.snapshot_id is not None
    with pipeline.ledger.read() as connection:
        snapshot = inputs.get_snapshot(connection, night.snapshot_id)
    with _rebuilt(pipeline, night, snapshot, idle=False):
        pass


def rebuild(pipeline: Pipeline, night: Night) -> None:
    """Build the folder anew, as `show` does, and count anew what is settled: after a recovery."""
    night = pipeline.refreshed(night)
    assert night.snapshot_id is not None
    with pipeline.ledger.read() as connection:
        snapshot = inputs.get_snapshot(connection, night.snapshot_id)
    with _rebuilt(pipeline, night, snapshot, idle=False) as (connection, _, settled):
        restoring.settled(connection, snapshot.id, settled)


def reconcile_counts(pipeline: Pipeline, night: Night, snapshot: Snapshot) -> None:
    """Input = succeeded + set aside, id by id, or the night does not count as complete."""
    publishing.carry_out(pipeline, night)
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
def with_answers(
    pipeline: Pipeline, night: Night, snapshot: Snapshot, path: str
) -> Iterator[tuple[Connection, Night]]:
    """Build the folder anew with a further file of answers, which is in the home, and run the block
    in the transaction that publishes it.

    Yields the connection, and the night as the ledger has it now. Raises NightChangedError, and
    changes nothing, where a submission of the night is in flight, or where the night has another
    revision than `night` has.
    """
    rebuilt = _rebuilt(pipeline, night, snapshot, idle=True, further=[path])
    with rebuilt as (connection, current, settled):
        restoring.settled(connection, snapshot.id, settled)
        yield connection, current


@contextmanager
def _rebuilt(
    pipeline: Pipeline,
    night: Night,
    snapshot: NewSnapshot,
    *,
    idle: bool,
    redriven: Collection[str] = (),
    further: Sequence[str] = (),
) -> Iterator[tuple[Connection, Night, dict[str, int]]]:
    """Build all files anew, and run the block in the transaction that replaces the former ones.

    Yields the connection, the night as the ledger has it now, and the number of settled items by
    status. `idle` demands that no submission of the night is in flight. `further` are files of
    answers that the ledger does not know yet. Raises NightChangedError.
    """
    with pipeline.ledger.write() as connection:
        seen, night = night, nights.get_night(connection, night.id)
        if (redriven or further) and night.revision != seen.revision:
            raise _changed(night)
        nights.update_night(connection, night.id, rebuilding=True)
        answered = answers.of_night(connection, night, snapshot, redriven)
    answered = replace(answered, files=[*answered.files, *further])
    publishing.carry_out(pipeline, night)
    with (
        pipeline.files.staged() as results,
        pipeline.files.staged() as letters,
        pipeline.files.staged() as typed,
        pipeline.files.staged() as report,
        pipeline.files.staged() as restored,
    ):
        for folder in (results, letters, typed):
            folder.mkdir()
        simulated = is_simulated(night.owner)
        settled = _write_rows(pipeline, snapshot, answered, results, letters, simulated=simulated)
        if night.output:
            rows = TypedRows(pipeline.files, snapshot, night.output)
            for file in sorted(results.iterdir()):
                rows.write(file, typed / file.name)
        said = pipeline.files.read(paths.report(night.job, night.partition, ".json"))
        # Typed rows go first and come last: none is there without its row of the results.
        former, *typed_rows = _replacing(paths.typed(night.job, night.partition), typed)
        named = [
            *_reported(night, said, report, complete=False),
            former,
            *_replacing(paths.results(night.job, night.partition), results),
            *_replacing(paths.dead_letter(night.job, night.partition), letters),
            *typed_rows,
        ]
        complete = [] if idle else _reported(night, said, restored, complete=True)
        staged = [path for path, _ in (*named, *complete) if path is not None]
        for path in (results, letters, typed, *staged):
            pipeline.files.make_durable(path)
        with (
            publishing.prepared(pipeline, night, staged) as publish,
            pipeline.ledger.write() as connection,
        ):
            current = nights.get_night(connection, night.id)
            busy = idle and submissions.of_night(connection, night.id, *submissions.LIVE)
            # `rebuilding` makes the next run repair the folder if this process dies while it
            # replaces files. Another process that has built the folder meanwhile has cleared it.
            other = current.revision != night.revision or current.output != night.output
            if other or not current.rebuilding or busy:
                raise _changed(night)
            same = current.published and current.completed_at is not None
            publish(connection, [*named, *complete] if same else named)
            nights.show_night(connection, current)
            yield connection, current, settled
            nights.update_night(connection, night.id, rebuilding=False)


def _write_rows(
    pipeline: Pipeline,
    snapshot: NewSnapshot,
    answered: NightAnswers,
    results: Path,
    letters: Path,
    *,
    simulated: bool,
) -> dict[str, int]:
    """Write the settled items of a snapshot into two local folders; returns their number by
    status."""
    if not answered.files and not snapshot.set_aside:
        # A new night: nothing is settled, and there is no need to read the snapshot to know it.
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


def _replacing(target: str, folder: Path) -> list[Named]:
    """A staged folder's files in the place of those of a folder.

    Former files are removed before new ones are published: for a moment a row may be missing, but
    it is never there twice. New files have new names: a reader opens a file several times, and must
    not read parts of two files.
    """
    build = uuid.uuid4().hex[:8]
    files = sorted(folder.iterdir())
    named = [(file, f"{target}/{file.stem}-{build}{file.suffix}") for file in files]
    return [(None, target), *named]


def _reported(night: Night, said: bytes | None, staged: Path, *, complete: bool) -> list[Named]:
    """The night's report with this value of `complete`; nothing where it is not complete so far.

    The report says `false` before the first file is replaced. Where the same items are settled as
    before, it says `true` again after the last file.
    """
    report = {} if said is None else orjson.loads(said)
    if not report.get("complete"):
        return []
    staged.write_bytes(orjson.dumps({**report, "complete": complete}))
    return [(staged, paths.report(night.job, night.partition, ".json"))]
