"""Prunes old, finished nights: removes their snapshots and raw lines, and then the documents that
the home keeps for no night any more.

Results, dead letters, reports, answers and the ledger's rows stay. A pruned night is final: its
input is not read again, so that nothing of it can be bought again. Once the ledger is lost, a
night's report alone says that it was complete: one that has none gets it first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection

from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.flow import paths
from batch_pipeline.flow.costs import cost_report
from batch_pipeline.flow.dataset.documents.needed_documents import documents_needed
from batch_pipeline.flow.dataset.documents.store import DocumentStore
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.partitions.declared_partitions import Declared
from batch_pipeline.jobs.partitions.partitions import begin_of
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.admission import night_state
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import listed_batches, submissions
from batch_pipeline.safe_text import get_logger
from batch_pipeline.storage.files import STAGING_MAX_AGE_SECONDS, Files

log = get_logger(__name__)


@dataclass(frozen=True)
class Pruned:
    """The result of pruning a job: by partition, the bytes that were removed (or would be), and the
    reason why a night that is old enough stays; and the bytes of kept documents, which nights
    share."""

    freed: dict[str, int]
    kept: dict[str, str]
    documents: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "pruned": [{"partition": key, "bytes": size} for key, size in self.freed.items()],
            "kept": [{"partition": key, "reason": why} for key, why in self.kept.items()],
            "documents": self.documents,
            "bytes": sum(self.freed.values()) + self.documents,
        }


def prune(
    pipeline: Pipeline,
    spec: JobSpec,
    before: str | None = None,
    *,
    partition: str | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Prune a job's nights before a partition or a day, or those of one partition, of all accounts;
    unfinished ones stay.

    Run again after a crash it removes the rest. Nights that have nothing to remove are not listed.
    """
    job = spec.name
    with pipeline.ledger.read() as connection:
        every = {night.partition for night in nights.list_nights(connection, job=job)}
    if before is None:
        chosen = sorted(every & {partition})
    else:
        chosen = begun_before(spec.partitions, every, before)
    freed: dict[str, int] = {}
    kept: dict[str, str] = {}
    for key in chosen:
        folders = [
            paths.snapshots(job, key),
            paths.input_copies(job, key),
            paths.raw(job, key),
            paths.raw_realtime(job, key),
            paths.document_urls(job, key),
        ]
        size = sum(pipeline.files.size(folder) for folder in folders)
        reason = _mark(pipeline, job, key, dry_run=dry_run)
        if reason is None and size and not dry_run:
            reason = _report(pipeline, spec, key)
        if reason is not None:
            kept[key] = reason
        elif size:
            freed[key] = size
            if not dry_run:
                for folder in folders:
                    pipeline.files.remove(folder)
                log.info("%s %s: pruned, %s bytes", job, key, f"{size:,}")
    documents = _prune_documents(pipeline.files, job, freed, dry_run=dry_run)
    return Pruned(freed, kept, documents)


def _report(pipeline: Pipeline, spec: JobSpec, partition: str) -> str | None:
    """Write the report of a night that is complete and has none; returns why that cannot be."""
    with pipeline.ledger.read() as connection:
        night = nights.shown_night(connection, spec.name, partition)
    found = pipeline.files.read(paths.report(spec.name, partition, ".json"))
    if night is None or (found is not None and orjson.loads(found).get("complete")):
        return None
    try:
        cost_report.write_report(pipeline, spec, night)
    except BatchPipelineError as error:
        return f"its report cannot be written: {error}"
    return None


def _prune_documents(files: Files, job: str, pruned: Iterable[str], *, dry_run: bool) -> int:
    """Remove kept documents that no night needs but those that are `pruned`; returns their bytes.

    What is younger than two days stays: a snapshot that is being taken keeps its documents before
    anything names them.
    """
    store = DocumentStore(files, job)
    before = time.time() - STAGING_MAX_AGE_SECONDS
    old = list(store.unneeded((), before))
    if not old:
        return 0
    needed = documents_needed(files, job, set(pruned))
    removed = [(name, size) for name, size in old if name not in needed]
    if not dry_run:
        for name, _ in removed:
            store.remove(name)
    return sum(size for _, size in removed)


def begun_before(declared: Declared, keys: Iterable[str], before: str) -> list[str]:
    """The partitions whose window begins before that of another, or before a day.

    A key that is no time of the job as it is declared now is compared as a text.
    """
    limit = begin_of(declared, before)

    def is_before(key: str) -> bool:
        begin = begin_of(declared, key)
        if begin is None or limit is None:
            return key < before
        # In seconds: Python compares times of one zone by what its clocks show.
        return begin.timestamp() < limit.timestamp()

    return sorted(filter(is_before, keys))


def _mark(pipeline: Pipeline, job: str, partition: str, *, dry_run: bool) -> str | None:
    """Record that a partition's nights are pruned, or return why they stay.

    Recorded before files are removed, with a new revision, so that a process that is about to
    change one of the nights finds out and does not build on missing files.
    """
    with pipeline.ledger.read() if dry_run else pipeline.ledger.write() as connection:
        mine = nights.list_nights(connection, job=job, partition=partition)
        reason = next(filter(None, (why_not(connection, night) for night in mine)), None)
        if reason is None and not dry_run:
            nights.mark_pruned(connection, mine, now(connection))
        return reason


def why_not(connection: Connection, night: Night) -> str | None:
    """Why a night cannot be pruned; None: it is finished."""
    if submissions.of_night(connection, night.id, *submissions.LIVE):
        return "requests are in flight"
    if any(late.night_id == night.id for late in listed_batches.watched(connection)):
        return "a submission of unknown outcome is looked for until 48 hours after"
    if not night.published:
        # Another account's night is shown in its place, and its results are not waited for.
        return None
    if night.held_at is not None:
        return night_state.held(night.job, night.partition).reason
    if night.completed_at is None:
        return "not complete"
    return "its results are being rebuilt" if night.rebuilding else None


def describe(pruned: Pruned, *, dry_run: bool) -> Sequence[str]:
    """Lines for a person."""
    verb = "would be removed" if dry_run else "removed"
    lines = [f"{key}: {_readable(size)} {verb}" for key, size in pruned.freed.items()]
    if pruned.documents:
        lines.append(f"documents that no night needs: {_readable(pruned.documents)} {verb}")
    lines += [f"{key}: stays, {reason}" for key, reason in pruned.kept.items()]
    return lines or ["Nothing to prune."]


def _readable(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size:,} bytes"
