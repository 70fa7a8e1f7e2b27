"""Collects one submission: from its result lines to files of answers, results and dead letters.

Both engines are collected alike: a batch's lines are downloaded, those of real-time calls come from
their journal. Files are written aside and published by the transaction that marks the submission as
collected; so neither a crash nor a second collector can publish or count an answer twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from sqlalchemy import Connection

from batch_pipeline import telemetry
from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow import paths, publishing
from batch_pipeline.flow.answers import answers as night_answers
from batch_pipeline.flow.answers.outcomes import STORM_ANSWERS
from batch_pipeline.flow.answers.schemas import ANSWERS_SCHEMA, RESULTS_SCHEMA, parquet_writer
from batch_pipeline.flow.dataset.requests.declaration import Declaration, parse_custom_id
from batch_pipeline.flow.gates.prices import price_at
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import manifests
from batch_pipeline.flow.publishing import Named, Publish
from batch_pipeline.flow.results import dead_letters, lines
from batch_pipeline.flow.results.judging.judge import LineJudge
from batch_pipeline.flow.results.judging.result_tables import Chunk
from batch_pipeline.flow.results.judging.unsure import unsure_by
from batch_pipeline.flow.results.typed.rows import TypedRows
from batch_pipeline.jobs.spec import RetrySpec
from batch_pipeline.ledger import nights, shards, snapshots
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import ShardState
from batch_pipeline.ledger.submissions import submissions, takeovers, transitions
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.ledger.sums import Counts
from batch_pipeline.safe_text import get_logger
from batch_pipeline.settings import is_simulated

log = get_logger(__name__)


@dataclass(frozen=True)
class _Staged:
    """Local files of a submission that are not published yet."""

    raw: Path
    answers: Path
    results: Path
    letters: Path
    typed: Path


@telemetry.traced("collect_batch")
def collect(
    pipeline: Pipeline,
    night: Night,
    submission: Submission,
    retry: RetrySpec,
    *,
    gone: str | None = None,
    in_part: bool = False,
) -> None:
    """Publish the files of an ended submission, and record its counts and costs.

    Raises ResultsIncompleteError or ApiFailure, and changes nothing, where lines are missing. With
    `in_part` the answers that can be read are published before that, unless some are already. With
    `gone` missing lines are taken as lost for ever, for this reason: their requests are set aside.
    """
    in_part = in_part and submission.published is None
    with pipeline.ledger.read() as connection:
        shard = shards.get_shard(connection, submission.shard_id)
        snapshot = snapshots.get_snapshot(connection, shard.snapshot_id)
        latest = submissions.latest_collected(connection, night.id, STORM_ANSWERS)
    manifest = manifests.read(pipeline.files, shard.manifest)
    price = price_at(
        Declaration.from_json(snapshot.declaration),
        datetime.fromtimestamp(submission.intent_at, UTC),
        submission.stated_prices,
    )
    settled = _published(pipeline, night, submission)
    left = replace(submission, usd_bound=submission.usd_bound - submission.published_usd)
    with ExitStack() as stack:
        judge = LineJudge(
            pipeline, left, snapshot, manifest, retry, price,
            unsure=unsure_by(retry),
            gone=gone, settled=settled, earlier=_earlier(latest),
        )  # fmt: skip
        staged = _Staged(*(stack.enter_context(pipeline.files.staged()) for _ in range(5)))
        published = (staged.raw, staged.results, staged.letters, staged.typed)
        with lines.of_submission(pipeline, night, submission, staged.raw) as blocks:
            there = blocks if gone is None else _none_if_absent(blocks)
            told = {"manifest": shard.manifest, "intent_at": repr(submission.intent_at)}
            if submission.account != night.owner:
                told["account"] = submission.account
            _write(judge.chunks(there), staged, told)
        if not (in_part and judge.judged):
            judge.check_complete()
        dead_letters.write(
            pipeline.files, snapshot, judge.letters, staged.letters,
            simulated=is_simulated(night.owner),
        )  # fmt: skip
        night = pipeline.refreshed(night)
        if night.output is not None and night.published:
            rows = TypedRows(pipeline.files, snapshot, night.output)
            rows.write(staged.results, staged.typed)
        for path in (*published, staged.answers):
            if path.exists():
                pipeline.files.make_durable(path)
        answers = _answers_file(pipeline, night, submission, staged)
        with (
            publishing.prepared(pipeline, night, published) as publish,
            pipeline.ledger.write() as connection,
        ):
            _record(connection, pipeline, night, submission, judge, staged, answers, publish)
    judge.check_complete()


def _earlier(latest: Sequence[Submission]) -> tuple[int, int]:
    """The latest answers of a night, and those of them that failed for a reason that passes."""
    answers = passing = 0
    for submission in reversed(latest):
        if answers >= STORM_ANSWERS:
            break
        answers += submission.requests
        passing += submission.passing
    return answers, passing


def _published(pipeline: Pipeline, night: Night, submission: Submission) -> list[int]:
    """The numbers of the requests whose answers are published."""
    if submission.published is None:
        return []
    [path] = night_answers.answer_paths(night, [submission])
    names = pipeline.files.read_columns(path, ["custom_id"]).column("custom_id").to_pylist()
    return [known[1] for known in map(parse_custom_id, names) if known is not None]


def _write(chunks: Iterator[Chunk], staged: _Staged, told: Mapping[str, str]) -> None:
    """Write rows as they come.

    The footer of the answers' file keeps the facts in `told`, from which a lost ledger is rebuilt.
    """
    with (
        parquet_writer(staged.answers, ANSWERS_SCHEMA) as answers,
        parquet_writer(staged.results, RESULTS_SCHEMA) as results,
    ):
        for chunk in chunks:
            answers.write_table(chunk.answers)
            results.write_table(chunk.results)
        answers.add_key_value_metadata(told)


def _none_if_absent(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks of lines; none where the API does not have the results any more."""
    try:
        yield from blocks
    except ApiFailure as failure:
        if failure.status not in lines.ABSENT:
            raise


def _record(
    connection: Connection,
    pipeline: Pipeline,
    night: Night,
    submission: Submission,
    judge: LineJudge,
    staged: _Staged,
    answers: str,
    publish: Publish,
) -> None:
    """Publish the files and mark the submission as collected, unless another collector has."""
    current = submissions.get(connection, submission.id)
    if current.state is not State.ENDED or current.published != submission.published:
        return
    shard = shards.get_shard(connection, submission.shard_id)
    # Another submission has answered the shard: this one was bought twice. Its answers count for
    # the bill alone.
    duplicate = shard.state is not ShardState.CLAIMED
    if duplicate and judge.missing:
        return
    if duplicate:
        log.warning("batch %s was bought twice; it is booked only", submission.batch_id)
    # The folder may show the night of another account.
    current_night = nights.get_night(connection, night.id)
    shown = not duplicate and current_night.published
    made = night.output if staged.typed.exists() else None
    if shown and current_night.output != made:
        # Declared otherwise while the rows were made: all of them are made again.
        nights.update_night(connection, night.id, rebuilding=True)
        staged.typed.unlink(missing_ok=True)
    named = _named(night, submission, staged, shown=shown)
    if pipeline.files.is_remote:
        submissions.name_answers(connection, submission, answers.rsplit("/", 1)[-1])
    else:
        named.append((staged.answers, answers))
    publish(connection, named)
    counts = judge.counts(duplicate=duplicate)
    if submission.progress is not None:
        counts = replace(counts, lost_usd=Decimal(submission.progress["lost_usd_bound"]))
    if judge.missing:
        transitions.publish(connection, submission, counts, judge.cost)
        return
    if submission.published is not None:
        counts += Counts.from_json(submission.published["counts"])
    cost = judge.cost + submission.published_usd
    transitions.collect(connection, submission, counts, cost)
    rest = pipeline.settings.poll_seconds
    if not duplicate:
        nights.back_off(connection, night.id, rest, again=counts.again, storm=judge.storm)
    takeovers.settle(connection, night.id)
    _judge_account(connection, submission, judge)


def _judge_account(connection: Connection, submission: Submission, judge: LineJudge) -> None:
    """Pause the account where lines of results are refused for its sake; end a pause where the
    results of what was sent since then are answers."""
    name, sent_at = submission.account, submission.intent_at
    if judge.stopped_by is None:
        if judge.answered:
            accounts.prove(connection, name, sent_at, by_results=True)
    elif sent_at >= (accounts.get_account(connection, name).lifted_at or 0.0):
        # What was sent before a pause that is over tells of that one.
        accounts.pause_account(connection, name, judge.stopped_by, by_results=True)


def _answers_file(pipeline: Pipeline, night: Night, submission: Submission, staged: _Staged) -> str:
    """The path of the file of answers; to a remote home the file is uploaded here.

    The ledger names that file with the transaction that collects. Until then nothing reads it: it
    has a name of its own, so that two collectors do not write the same.
    """
    folder = paths.answers(night.job, night.partition, night.owner)
    name = f"{submission.token}{night_answers.next_suffix(submission)}"
    if not pipeline.files.is_remote:
        return f"{folder}/{name}.parquet"
    path = f"{folder}/{name}-{uuid.uuid4().hex[:8]}.parquet"
    pipeline.files.publish(staged.answers, path)
    return path


def _named(night: Night, submission: Submission, staged: _Staged, *, shown: bool) -> list[Named]:
    """The names of a submission's raw lines, and of its results where the folder shows them."""
    job, partition = night.job, night.partition
    name = f"{submission.batch_id or submission.token}{night_answers.next_suffix(submission)}"
    named = [(staged.raw, f"{paths.raw(job, partition)}/{name}.jsonl.zst")]
    if shown:
        named.append((staged.results, f"{paths.results(job, partition)}/{name}.parquet"))
        named.append((staged.letters, f"{paths.dead_letter(job, partition)}/{name}.parquet"))
        named.append((staged.typed, f"{paths.typed(job, partition)}/{name}.parquet"))
    return [(path, target) for path, target in named if path.exists()]
