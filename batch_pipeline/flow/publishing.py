"""Files that get their names with a transaction of the ledger, in a local and in a remote home.

A local file is renamed inside the transaction. With a remote home that would be an upload, for
which the ledger would be locked, and which the database may end the transaction for. There the
files are uploaded before it, under names that nothing refers to; the transaction records which
names they get; they are moved after its commit, step by step. A process that dies between commit
and move leaves its record to the next one, which `carry_out` finds.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.flow import paths
from batch_pipeline.flow.concurrency import is_gone
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger import nights, readings
from batch_pipeline.ledger.home import publications
from batch_pipeline.ledger.home.publications import Publication
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.processes.heartbeat import beating
from batch_pipeline.safe_text import get_logger
from batch_pipeline.storage.files import STAGING, STAGING_MAX_AGE_SECONDS, Files

log = get_logger(__name__)

# How often a process looks whether another one has carried a publication out.
LOOK_SECONDS = 0.5

# A staged file and its name; without a file: a folder that the other files here replace.
Named = tuple[Path | None, str]
Publish = Callable[[Connection, Sequence[Named]], None]


@contextmanager
def prepared(pipeline: Pipeline, night: Night, staged: Sequence[Path]) -> Iterator[Publish]:
    """Prepare staged files for a transaction, which publishes some of them; missing ones are left
    out.

    Yields a function that is to be called in the transaction, once: it does what it is given in
    this order. What a remote home still lacks then is done when the block has ended, hence after
    the commit.
    """
    files = pipeline.files
    if not files.is_remote:
        yield lambda _, named: _publish(files, named)
        return
    batch = f"{STAGING}/{int(time.time())}-{uuid.uuid4().hex}"
    uploaded = {path: f"{batch}-{n}" for n, path in enumerate(staged) if path.exists()}
    for path, name in uploaded.items():
        files.publish(path, name)
    used: set[str] = set()

    def publish(connection: Connection, named: Sequence[Named]) -> None:
        steps = [(None if path is None else uploaded[path], target) for path, target in named]
        used.update(name for name, _ in steps if name is not None)
        publications.record(connection, night.job, night.partition, steps)

    # After an error the uploads stay until they are swept: whether a commit whose answer was lost
    # took effect is not known.
    yield publish
    for name in set(uploaded.values()) - used:
        files.remove(name)
    carry_out(pipeline, night)


def carry_out(pipeline: Pipeline, night: Night) -> None:
    """Finish all publications of a night's partition; waits where another process is at it.

    Where a file is lost, the results folder is marked to be built again.
    """
    holder = f"{pipeline.holder}:{uuid.uuid4().hex[:8]}"
    lease_seconds = pipeline.settings.lease_seconds
    while pipeline.files.is_remote:
        with pipeline.ledger.read() as connection:
            if publications.first(connection, night.job, night.partition) is None:
                return
        with pipeline.ledger.write() as connection:
            mine = publications.claim(
                connection, night.job, night.partition, holder, lease_seconds, is_gone
            )
        if mine is None:
            time.sleep(LOOK_SECONDS)
            continue
        with _held(pipeline, mine, holder) as keep:
            lost = _move(pipeline.files, mine, keep)
            with pipeline.ledger.write() as connection:
                if publications.done(connection, mine.id, holder) and lost:
                    log.error("%s %s: lost in the home: %s", mine.job, mine.partition, lost)
                    shown = nights.shown_night(connection, mine.job, mine.partition)
                    if shown is not None:
                        nights.update_night(connection, shown.id, rebuilding=True)


def sweep(pipeline: Pipeline) -> None:
    """Remove what dead processes have left in the home before it was to be published."""
    pipeline.files.sweep()
    _sweep_readings(pipeline)
    if not pipeline.files.is_remote:
        return
    oldest = time.time() - STAGING_MAX_AGE_SECONDS
    found = pipeline.files.list(STAGING, "")
    with pipeline.ledger.read() as connection:
        waiting = publications.waiting_files(connection)
    for path in found:
        written_at = path.rsplit("/", 1)[-1].partition("-")[0]
        if written_at.isdecimal() and int(written_at) < oldest and path not in waiting:
            pipeline.files.remove(path)


def _sweep_readings(pipeline: Pipeline) -> None:
    """Remove what was read of inputs whose readings the ledger does not know any more.

    A reading is in the ledger before any file of it is in the home.
    """
    found = pipeline.files.list(paths.READINGS, "")
    if not found:
        return
    with pipeline.ledger.read() as connection:
        known = readings.tokens(connection, STAGING_MAX_AGE_SECONDS)
    for folder in found:
        if folder.rpartition("/")[2] not in known:
            pipeline.files.remove(folder)


def _publish(files: Files, named: Sequence[Named]) -> None:
    kept = {target for path, target in named if path is not None}
    for path, target in named:
        if path is None:
            _empty(files, target, kept, lambda: True)
        elif path.exists():
            files.publish(path, target)


def _empty(files: Files, folder: str, kept: set[str], go_on: Callable[[], bool]) -> None:
    """Remove the other Parquet files of a folder.

    Files that another process has published since it took over are not among those listed.
    """
    former = [path for path in files.list(folder, ".parquet") if path not in kept]
    for path in former if go_on() else ():
        files.remove(path)


def _move(files: Files, publication: Publication, go_on: Callable[[], bool]) -> list[str]:
    """Do the steps that are left; returns the names whose files are lost.

    A step that was done has no file any more. So a process that wakes up after another one has
    taken over finds nothing to move, even if the folder has been built anew since.
    """
    kept = {target for path, target in publication.steps if path is not None}
    lost = []
    for path, target in publication.steps:
        if path is None:
            _empty(files, target, kept, go_on)
        elif not files.move(path, target):
            lost.append(target)
    return lost


@contextmanager
def _held(pipeline: Pipeline, mine: Publication, holder: str) -> Iterator[Callable[[], bool]]:
    """Extend a claim while the block runs, and give it up where the block fails."""

    def keep(seconds: float = pipeline.settings.lease_seconds) -> bool:
        with pipeline.ledger.write() as connection:
            return publications.keep(connection, mine.id, holder, seconds)

    try:
        with beating(f"publication-{mine.id}", pipeline.settings.lease_seconds / 4, keep):
            yield keep
    except BaseException:
        with contextlib.suppress(sa.exc.DBAPIError):
            keep(0.0)
        raise
