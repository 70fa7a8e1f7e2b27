"""Result lines → answers, results and dead letters of one submission, counts reconciled.

The same for both engines: a batch's lines are downloaded, those of real-time calls come from their
journal. Files are written aside and get their names in the transaction that marks the submission
collected, so that a crash, or a second collector, changes nothing twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow import paths
from batch_pipeline.flow.dataset.requests import Declaration
from batch_pipeline.flow.gates.prices import price_at
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import manifests
from batch_pipeline.flow.results import dead_letters, lines
from batch_pipeline.flow.results.judge import Chunk, LineJudge
from batch_pipeline.flow.schemas import ANSWERS_SCHEMA, RESULTS_SCHEMA, parquet_writer
from batch_pipeline.jobs.spec import RetrySpec
from batch_pipeline.ledger import (
    accounts,
    nights,
    shards,
    snapshots,
    submissions,
    takeovers,
    transitions,
)
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import ShardState
from batch_pipeline.ledger.submissions import State, Submission

log = logging.getLogger(__name__)

# What the API may say of results that it does not have; all else passes, or is about the account.
ABSENT = (400, 404, 410)


def collect(
    pipeline: Pipeline,
    night: Night,
    submission: Submission,
    retry: RetrySpec,
    *,
    gone: str | None = None,
) -> None:
    """Collect an ended submission: its files, its counts, what it cost.

    Raises ResultsIncompleteError or ApiFailure where the lines cannot be had whole: nothing has
    changed then. `gone` says why what cannot be had now never will be: it is set aside.
    """
    with pipeline.ledger.read() as connection:
        shard = shards.get_shard(connection, submission.shard_id)
        snapshot = snapshots.get_snapshot(connection, shard.snapshot_id)
    manifest = manifests.read(pipeline.files, shard.manifest)
    with ExitStack() as stack:
        staged = {
            name: stack.enter_context(pipeline.files.staged())
            for name in ("raw", "answers", "results", "letters")
        }
        price = price_at(
            Declaration.from_json(snapshot.declaration),
            datetime.fromtimestamp(submission.intent_at, UTC),
            submission.stated_prices,
        )
        judge = LineJudge(pipeline, submission, snapshot, manifest, retry, price, gone=gone)
        with lines.of_submission(pipeline, night, submission, staged["raw"]) as blocks:
            there = blocks if gone is None else _what_there_is(blocks)
            _write(judge.chunks(there), staged["answers"], staged["results"])
        judge.check_complete()
        simulated = pipeline.account.simulated
        letters = dead_letters.write(
            pipeline.files, snapshot, judge.letters, staged["letters"], simulated=simulated
        )
        for path in staged.values():
            if path.exists():
                pipeline.files.make_durable(path)
        with pipeline.ledger.write() as connection:
            if submissions.get(connection, submission.id).state is not State.ENDED:
                # Somebody else has collected it meanwhile.
                return
            shard = shards.get_shard(connection, submission.shard_id)
            # A shard that another submission has answered was bought twice: booked, not shown.
            duplicate = shard.state is not ShardState.HELD
            if staged["raw"].exists():
                name = f"{submission.batch_id}.jsonl.zst"
                raw = f"{paths.raw(night.job, night.partition)}/{name}"
                pipeline.files.publish(staged["raw"], raw)
            shown = not duplicate and nights.get_night(connection, night.id).published
            _publish(pipeline, night, submission, staged, shown=shown, letters=letters)
            if duplicate:
                log.warning("batch %s was bought twice; it is booked only", submission.batch_id)
            counts = judge.counts(duplicate=duplicate)
            if submission.progress is not None:
                lost = Decimal(submission.progress["lost_usd_bound"])
                counts = replace(counts, lost_usd=lost)
            transitions.collect(connection, submission, counts, judge.cost)
            takeovers.settle(connection, night.id)
            if judge.stopped_by is not None:
                accounts.pause_account(connection, night.account, judge.stopped_by)


def _write(chunks: Iterator[Chunk], answers: Path, results: Path) -> None:
    """Write both files, each by a thread of its own, while the next chunk is judged."""
    with (
        parquet_writer(answers, ANSWERS_SCHEMA) as to_answers,
        parquet_writer(results, RESULTS_SCHEMA) as to_results,
        ThreadPoolExecutor(2) as pool,
    ):
        pending: list[Future[None]] = []
        for chunk in chunks:
            _finish(pending)
            pending = [
                pool.submit(to_answers.write_table, chunk.answers),
                pool.submit(to_results.write_table, chunk.results),
            ]
        _finish(pending)


def _finish(pending: Iterable[Future[None]]) -> None:
    for future in pending:
        future.result()


def _publish(
    pipeline: Pipeline,
    night: Night,
    submission: Submission,
    staged: dict[str, Path],
    *,
    shown: bool,
    letters: int,
) -> None:
    """Name the files; only the internal one if it is not `shown`.

    The folder may show another account's night; a duplicate's answers count for the bill alone.
    """
    job, partition = night.job, night.partition
    name = submission.batch_id or submission.token
    answers = f"{paths.answers(job, partition, night.account)}/{submission.token}.parquet"
    pipeline.files.publish(staged["answers"], answers)
    if not shown:
        return
    pipeline.files.publish(staged["results"], f"{paths.results(job, partition)}/{name}.parquet")
    if letters:
        target = f"{paths.dead_letter(job, partition)}/{name}.parquet"
        pipeline.files.publish(staged["letters"], target)


def _what_there_is(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks of lines, none where the API has none any more."""
    try:
        yield from blocks
    except ApiFailure as failure:
        if failure.status not in ABSENT:
            raise
