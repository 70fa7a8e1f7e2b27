"""Result lines → answers, results and dead letters of one submission, counts reconciled.

The same for both engines: a batch's lines are downloaded, those of real-time calls come from their
journal. Files are written aside and get their names in the transaction that marks the submission
collected, so that a crash, or a second collector, changes nothing twice.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from batch_pipeline.errors import ApiError
from batch_pipeline.flow import (
    dead_letter,
    joins,
    manifests,
    outcomes,
    paths,
    snapshots,
    tally,
)
from batch_pipeline.flow.answers import (
    ANSWERS_SCHEMA,
    NOT_DEAD,
    RESULTS_SCHEMA,
    SUMMED,
    TOKENS,
    AnswerReader,
    usage_of,
    zero,
)
from batch_pipeline.flow.dead_letter import DeadLetter
from batch_pipeline.flow.first_attempts import FirstAttempts
from batch_pipeline.flow.journal import read_lines
from batch_pipeline.flow.more_room import MoreRoom
from batch_pipeline.flow.outcomes import Action, Outcome, Status
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.requests import Declaration, custom_id, parse_custom_id
from batch_pipeline.money.prices import ModelPrice, TokenUsage, find_price
from batch_pipeline.spec import RetrySpec
from batch_pipeline.state import nights, submissions
from batch_pipeline.state.nights import Night, ShardState, Snapshot
from batch_pipeline.state.submissions import State, Submission

log = logging.getLogger(__name__)

CHUNK_ROWS = 2_000
# A message may quote the whole answer that it complains of.
MESSAGE_CHARACTERS = 1_000


class ResultsIncompleteError(ApiError):
    """A download does not hold every request once; it is repeated with the next round."""

    code = "results_incomplete"


def collect(pipeline: Pipeline, night: Night, submission: Submission, retry: RetrySpec) -> None:
    """Collect an ended submission: its files, its counts, what it cost.

    Raises ResultsIncompleteError or ApiFailure where the lines cannot be had whole: nothing has
    changed then.
    """
    with pipeline.ledger.read() as connection:
        shard = nights.get_shard(connection, submission.shard_id)
        snapshot = nights.get_snapshot(connection, shard.snapshot_id)
    manifest = manifests.read(pipeline.files, shard.manifest)
    with ExitStack() as stack:
        staged = {
            name: stack.enter_context(pipeline.files.staged())
            for name in ("raw", "answers", "results", "letters")
        }
        lines = _lines(pipeline, night, submission, staged["raw"])
        judge = _Judge(pipeline, submission, snapshot, manifest, retry)
        with (
            pq.ParquetWriter(staged["answers"], ANSWERS_SCHEMA, compression="zstd") as answers,
            pq.ParquetWriter(staged["results"], RESULTS_SCHEMA, compression="zstd") as results,
        ):
            for chunk in judge.chunks(lines):
                answers.write_table(chunk.answers)
                results.write_table(chunk.results)
        judge.check_complete()
        simulated = pipeline.account.simulated
        letters = dead_letter.write(
            pipeline.files, snapshot, judge.letters, staged["letters"], simulated=simulated
        )
        for path in staged.values():
            if path.exists():
                pipeline.files.make_durable(path)
        with pipeline.ledger.write() as connection:
            if submissions.get(connection, submission.id).state is not State.ENDED:
                # Somebody else has collected it meanwhile.
                return
            shard = nights.get_shard(connection, submission.shard_id)
            # A shard that another submission has answered was bought twice: booked, not shown.
            duplicate = shard.state is not ShardState.HELD
            if submission.engine == "batch":
                name = f"{submission.batch_id}.jsonl.zst"
                raw = f"{paths.raw(night.job, night.partition)}/{name}"
                pipeline.files.publish(staged["raw"], raw)
            shown = not duplicate and nights.get_night(connection, night.id).published
            _publish(pipeline, night, submission, staged, shown=shown, letters=letters)
            if duplicate:
                log.warning("batch %s was bought twice; it is booked only", submission.batch_id)
            summary = judge.summary(duplicate=duplicate)
            submissions.collect(connection, submission, summary, judge.cost)
            tally.keep(connection, night.id)
            if judge.stopped_by is not None:
                nights.pause_account(connection, night.account, judge.stopped_by)


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


@dataclass(frozen=True)
class _Chunk:
    answers: pa.Table
    results: pa.Table


class _Judge:
    """Goes through the lines of one submission: each request once, none forgotten."""

    def __init__(
        self,
        pipeline: Pipeline,
        submission: Submission,
        snapshot: Snapshot,
        manifest: pa.Table,
        retry: RetrySpec,
    ) -> None:
        self._submission = submission
        self._declaration = Declaration.from_json(snapshot.declaration)
        self._manifest = manifest.to_pydict()
        self._max_attempts = retry.max_attempts
        self._room = MoreRoom.of(retry, self._declaration)
        self._simulated = pipeline.account.simulated
        self._reader = AnswerReader(self._declaration.output_schema)
        self._tools = "tool_choice" in self._declaration.params
        self._followers = _followers(pipeline, snapshot, manifest)
        self._at = datetime.now(UTC)
        self._price = price_at(self._declaration, datetime.fromtimestamp(submission.intent_at, UTC))
        self._seen = bytearray(manifest.num_rows)
        self._statuses: Counter[str] = Counter()
        self._open = 0
        self._first = FirstAttempts()
        self._usage = TokenUsage()
        self._billed = self._billed_bytes = 0
        self.cost = Decimal(0)
        # What the API said of the account as a whole, if anything.
        self.stopped_by: str | None = None
        self.letters: list[DeadLetter] = []

    def chunks(self, lines: Iterable[bytes]) -> Iterator[_Chunk]:
        answers: list[dict[str, Any]] = []
        results: list[dict[str, Any]] = []
        for line in lines:
            self._judge(line, answers, results)
            if len(answers) >= CHUNK_ROWS:
                yield _chunk(answers, results)
                answers, results = [], []
        yield _chunk(answers, results)

    def check_complete(self) -> None:
        missing = self._seen.count(0)
        if missing:
            raise ResultsIncompleteError(
                f"The results of {self._submission.batch_id or self._submission.token} lack "
                f"{missing:,} of {len(self._seen):,} requests; they are fetched again."
            )

    def summary(self, *, duplicate: bool) -> dict[str, Any]:
        """Items by status, requests that go out again, billed tokens and the bytes that they were
        measured on, what the breaker counts."""
        return {
            "statuses": {} if duplicate else dict(self._statuses),
            "open": 0 if duplicate else self._open,
            "usage": {name: getattr(self._usage, name) for name in TOKENS},
            "measured": {"answers": self._billed, "bytes": self._billed_bytes},
            "duplicate": duplicate,
            "first": (FirstAttempts() if duplicate else self._first).as_json(),
        }

    def _judge(
        self, line: bytes, answers: list[dict[str, Any]], results: list[dict[str, Any]]
    ) -> None:
        try:
            data = _parse(line)
            known = parse_custom_id(data["custom_id"])
            result = data["result"]
        except (ValueError, KeyError, TypeError) as error:
            raise ResultsIncompleteError(
                f"The results of {self._submission.batch_id or self._submission.token} hold a "
                "line that cannot be read; they are fetched again."
            ) from error
        if known is None or known[0] != self._submission.token or known[1] >= len(self._seen):
            log.warning("a result line of another's request was left alone: %r", data["custom_id"])
            return
        number = known[1]
        if self._seen[number]:
            return
        self._seen[number] = 1
        answer = self._answer(number, result)
        answers.append(answer)
        if answer["final"]:
            results.extend(self._rows(number, answer))
        else:
            self._open += 1

    def _answer(self, number: int, result: dict[str, Any]) -> dict[str, Any]:
        """The row of `ANSWERS_SCHEMA` for one result."""
        attempt = self._manifest["attempt"][number]
        outcome = outcomes.of_result(result, tools_asked_for=self._tools)
        message = result.get("message") or {}
        content = parsed = None
        usage = TokenUsage()
        if result.get("type") == "succeeded":
            usage = usage_of(message)
            outcome, content, parsed = self._reader.read(message, outcome)
        cancelled_by_us = (
            outcome.status is Status.CANCELED and self._submission.cancel_requested_at is not None
        )
        if cancelled_by_us:
            outcome = Outcome(Status.CANCELED, Action.REOPEN)
        may_get_more = self._manifest["max_tokens"][number] is None
        if may_get_more and self._room.fits(self._manifest["request_bytes"][number]):
            outcome = outcomes.with_more_room(outcome)
        if outcome.action is Action.STOP:
            self.stopped_by = f"{outcome.error_type}: {outcome.error_message}"
        tried = attempt - (self._manifest["attempts_before"][number] or 0)
        self._first.count(self._manifest["id"][number], tried, outcome)
        cost = self._price.cost(usage, mode=self._submission.engine)
        self._usage += usage
        if usage.prompt_tokens:
            self._billed += 1
            self._billed_bytes += self._manifest["request_bytes"][number]
        self.cost += cost
        return {
            "unit": self._manifest["unit"][number],
            "final": outcomes.settle(outcome, tried, self._max_attempts),
            "counted": outcome.action is not Action.REOPEN,
            "id": self._manifest["id"][number],
            "status": str(outcome.status),
            "content": content,
            "parsed": parsed,
            "stop_reason": message.get("stop_reason"),
            "error_type": outcome.error_type,
            "error_message": outcome.error_message and outcome.error_message[:MESSAGE_CHARACTERS],
            "model": message.get("model"),
            **{name: getattr(usage, name) for name in TOKENS},
            "cost_usd": cost,
            "attempt": attempt,
            "mode": self._submission.engine,
            "batch_id": self._submission.batch_id,
            "custom_id": custom_id(self._submission.token, number),
            "fingerprint": self._manifest["fingerprint"][number],
            "simulated": self._simulated,
            "collected_at": self._at,
        }

    def _rows(self, number: int, answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The results rows of a settled unit: the bearing item, then those that asked the same."""
        row = {name: answer[name] for name in RESULTS_SCHEMA.names}
        for name in SUMMED:
            row[name] += self._manifest[f"prior_{name}"][number]
        yield row
        items = [(self._manifest["ordinal"][number], row["id"])]
        for ordinal, item_id in self._followers.get(answer["unit"], ()):
            items.append((ordinal, item_id))
            yield row | zero() | {"id": item_id}
        self._statuses[row["status"]] += len(items)
        if row["status"] not in NOT_DEAD:
            self.letters.extend(
                DeadLetter(
                    ordinal=ordinal,
                    id=item_id,
                    reason=row["status"],
                    attempts=row["attempt"],
                    error_type=row["error_type"],
                    error_message=row["error_message"],
                )
                for ordinal, item_id in items
            )


def _chunk(answers: list[dict[str, Any]], results: list[dict[str, Any]]) -> _Chunk:
    return _Chunk(
        pa.Table.from_pylist(answers, schema=ANSWERS_SCHEMA),
        pa.Table.from_pylist(results, schema=RESULTS_SCHEMA),
    )


def _parse(line: bytes) -> Any:
    """A result line; halves of surrogate pairs, which UTF-8 cannot hold, become U+FFFD."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        text = json.dumps(json.loads(line), ensure_ascii=False)
        return orjson.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def price_at(declaration: Declaration, at: datetime) -> ModelPrice:
    """The prices of a declaration's model at a time."""
    geo = declaration.params.get("inference_geo")
    return find_price(declaration.model_id, at, inference_geo=geo)


def _followers(
    pipeline: Pipeline, snapshot: Snapshot, manifest: pa.Table
) -> dict[str, list[tuple[int, str]]]:
    """Items that the manifest's requests answer besides the one each was built from, by unit."""
    found: dict[str, list[tuple[int, str]]] = {}
    if not snapshot.duplicates:
        return found
    sources = {
        "duplicates": (snapshots.duplicates_paths(snapshot), snapshots.DUPLICATES_SCHEMA),
    }
    with joins.tables(pipeline.files, sources) as connection:
        connection.register("manifest", manifest.select(["unit"]))
        query = "SELECT d.unit, d.ordinal, d.id FROM duplicates d SEMI JOIN manifest USING (unit)"
        for batch in joins.batches(connection, query):
            for row in batch.to_pylist():
                found.setdefault(row["unit"], []).append((row["ordinal"], row["id"]))
    return found


def _lines(pipeline: Pipeline, night: Night, submission: Submission, raw: Path) -> Iterator[bytes]:
    """Result lines as they come, split on `\\n` bytes alone; a batch's are kept as they are."""
    if submission.batch_id is None:
        folder = paths.raw_realtime(night.job, night.partition)
        yield from read_lines(pipeline.files, folder, submission.token)
        return
    rest = b""
    with (
        pipeline.api.stream_results(submission.batch_id) as chunks,
        raw.open("wb") as file,
        zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False) as compressed,
    ):
        for chunk in chunks:
            compressed.write(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            yield from filter(None, lines)
    if rest:
        yield rest
