"""A real-time shard that this process works on: which requests are left, what was answered.

Belongs here: the shard's manifest, rows and journal, from claim to end. When a call leaves, and
what its failure means, is decided in `engine`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Self

import orjson

from batch_pipeline.api.protocol import Answer, Streamed, read_json
from batch_pipeline.api.rate_limit import TOKENS_PER_BYTE
from batch_pipeline.flow import paths
from batch_pipeline.flow.answers import outcomes
from batch_pipeline.flow.answers.outcomes import Action, AskedFor, Outcome, Status
from batch_pipeline.flow.batches.lease import Lease, renewed_lease
from batch_pipeline.flow.dataset import snapshot
from batch_pipeline.flow.dataset.documents.opening import DocumentOpener
from batch_pipeline.flow.dataset.requests.declaration import (
    Declaration,
    custom_id,
    parse_custom_id,
)
from batch_pipeline.flow.dataset.requests.sizes import prompt_sizes
from batch_pipeline.flow.gates.billing import Biller
from batch_pipeline.flow.gates.first_attempts import FirstAttempts
from batch_pipeline.flow.gates.prices import price_at
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import further_turns, manifests, variants
from batch_pipeline.flow.planning.variants import Ways
from batch_pipeline.flow.realtime.journal import Journal, read_lines
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import snapshots as inputs
from batch_pipeline.ledger.admission.admission import Intent
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions.submissions import Submission
from batch_pipeline.reporting.distribution import nearest_rank


@dataclass(slots=True, eq=False)
class Call:
    """A request without an answer, the model that it asks, and the tries that it had.

    `size` is what the rate limiter reckons its tokens from. Of a request with documents `params`
    are made while it is sent. `held` are the bytes that a call has in memory.

    `failed`: tries that ended in an error. `busy`: tries that the API refused because of its load.
    `lost`: tries without any answer of the API; each may have been processed and billed.
    `paged_at`: when a gateway first answered one with a page of its own, by the steady clock.
    """

    shard: OpenShard
    number: int
    model_id: str
    params: bytes | Streamed
    size: float
    held: int
    failed: int = 0
    busy: int = 0
    lost: int = 0
    paged_at: float | None = None

    @property
    def way(self) -> tuple[str, str]:
        """The account that makes it, and the model that it asks: what one rate limit is for."""
        return self.shard.submission.account, self.model_id


@dataclass(frozen=True, slots=True)
class _Ended:
    """A call that has ended; `written` is `result` as the journal's JSON.

    `attempted` is False where the API was busy at every try.
    """

    call: Call
    result: dict[str, Any]
    written: bytes
    latency_ms: int
    attempted: bool = True


class OpenShard:
    """A claimed shard; inside the `with` block its journal is open and its lease is renewed."""

    lease: Lease

    def __init__(self, pipeline: Pipeline, spec: JobSpec, night: Night, intent: Intent) -> None:
        self.submission = intent.submission
        self.shard = intent.shard
        self.probe = intent.probe
        self._pipeline = pipeline
        self._folder = paths.raw_realtime(night.job, night.partition)
        with pipeline.ledger.read() as connection:
            self._snapshot = inputs.get_snapshot(connection, intent.shard.snapshot_id)
        self.declaration = Declaration.from_json(self._snapshot.declaration)
        self._next = Ways(spec.retry, self.declaration)
        manifest = manifests.read(pipeline.files, intent.shard.manifest)
        self._asked = variants.declarations_of(manifest, self.declaration)
        self._requests = further_turns.Requests(manifest)
        self._further = further_turns.of_requests(manifest)
        self._opener = DocumentOpener(pipeline.files, night.job)
        self._manifest = manifest.drop_columns(["turns"]).to_pydict()
        self._prompt_sizes: list[int] = prompt_sizes(manifest).to_pylist()
        self._billers = {
            name: _biller(asked, self.declaration, intent.submission)
            for name, asked in self._asked.items()
        }
        self._answered = bytearray(intent.shard.requests)
        self._ended: list[_Ended] = []
        self._lock = threading.Lock()
        self._done = 0
        self._errors = 0
        self._latencies: list[int] = []
        self._cost = Decimal(0)
        self._lost_usd = Decimal(0)
        self.first = FirstAttempts()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        token, files = self.submission.token, self._pipeline.files
        for line in read_lines(files, self._folder, token):
            data = read_json(line)
            known = parse_custom_id(data["custom_id"])
            if known is not None and not self._answered[known[1]]:
                self._count(known[1], data["result"], data.get("latency_ms", 0))
                self.count_lost(known[1], data.get("lost", 0))
        self._calls = self._calls_left()
        self.lease = self._stack.enter_context(renewed_lease(self._pipeline, self.submission))
        name = f"{token}-{self.submission.fence}"
        self._journal = self._stack.enter_context(Journal(files, self._folder, name))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def left(self) -> int:
        """Requests without an answer."""
        return self.shard.requests - self._done

    def take(self, most: int, most_bytes: int) -> list[Call]:
        """The next calls: up to `most`, or about `most_bytes`; an empty list at the end."""
        found: list[Call] = []
        size = 0
        for call in self._calls:
            found.append(call)
            size += call.held
            if len(found) >= most or size >= most_bytes:
                break
        return found

    def succeeded(self, call: Call, answer: Answer, seconds: float) -> None:
        """Note an answer; it counts once `write_answers` has written it."""
        # The bytes of the API unchanged, in one line: JSON has line ends between its tokens only.
        written = b'{"type":"succeeded","message":%b}' % answer.raw.replace(b"\n", b" ")
        result = {"type": "succeeded", "message": answer.message}
        self._ended.append(_Ended(call, result, written, round(seconds * 1_000)))

    def failed(
        self, call: Call, result: dict[str, Any], seconds: float, *, attempted: bool = True
    ) -> None:
        """Note the error of a call that is not tried again, like an answer."""
        written, took = orjson.dumps(result), round(seconds * 1_000)
        self._ended.append(_Ended(call, result, written, took, attempted))

    def write_answers(self) -> int:
        """Append what was noted to the journal, in the form of batch results, and count it.

        Returns the number of answers.
        """
        ended, self._ended = self._ended, []
        self._journal.append([self._line(one) for one in ended])
        for one in ended:
            self._count(one.call.number, one.result, one.latency_ms)
        return len(ended)

    def _line(self, ended: _Ended) -> bytes:
        name = custom_id(self.submission.token, ended.call.number).encode()
        more = b',"lost":%d' % ended.call.lost if ended.call.lost else b""
        # Beside the result and not in it: a mark in a result may come from the API.
        more += b"" if ended.attempted else b',"attempted":false'
        return b'{"custom_id":"%b","result":%b,"latency_ms":%d%b}' % (
            name, ended.written, ended.latency_ms, more,
        )  # fmt: skip

    def checkpoint(self) -> None:
        """Make the journal durable."""
        self._journal.checkpoint()

    def progress(
        self, per_second: float, refused: int, waits_until: float | None
    ) -> dict[str, Any]:
        """Progress for the ledger; the arguments are those of the whole engine."""
        with self._lock:
            return {
                "answered": self._done,
                "errors": self._errors,
                "cost_usd": str(self._cost),
                "per_second": round(per_second, 2),
                "refused": refused,
                "latency_ms": _latency(self._latencies),
                "lost_usd_bound": str(self._lost_usd),
                "waits_until": waits_until,
            }

    def _calls_left(self) -> Iterator[Call]:
        left = [number for number, answered in enumerate(self._answered) if not answered]
        ordinals, names = self._manifest["ordinal"], self._manifest["variant"]
        marks = self.submission.caching, self.submission.marked_models
        builders = variants.builders_of(self._asked, *marks)
        marked = variants.marks_of(self._asked, builders)
        wanted = [ordinals[number] for number in left]
        rows = snapshot.read_inputs(self._pipeline.files, self._snapshot, wanted)
        visual = self._manifest["visual_tokens"]
        for number, row in zip(left, rows, strict=True):
            builder, more = builders[names[number]], self._further.get(number)
            model_id = self._asked[names[number]].model_id
            if visual[number]:
                pieces = partial(builder.rebuild_pieces, row.text, None, more, self._opener)
                params = Streamed(
                    self._manifest["request_bytes"][number] + marked[names[number]], pieces
                )
                size = max(self._prompt_sizes[number], visual[number] / TOKENS_PER_BYTE)
                yield Call(self, number, model_id, params, size, len(row.text))
            else:
                whole = builder.rebuild(row.text, row.places, more)
                yield Call(self, number, model_id, whole, len(whole), len(whole))

    def _count(self, number: int, result: dict[str, Any], latency_ms: int) -> None:
        outcome = self._outcome(number, result)
        message = result.get("message")
        biller = self._billers[self._manifest["variant"][number]]
        cost = biller.cost(message) if isinstance(message, dict) else Decimal(0)
        tried = self._manifest["attempt"][number] - (self._manifest["attempts_before"][number] or 0)
        tried = variants.first_attempt(self._manifest["variant"][number], tried)
        with self._lock:
            self._answered[number] = 1
            self._done += 1
            self._latencies.append(latency_ms)
            good = outcome.status is Status.SUCCEEDED or outcome.action is Action.CONTINUE
            self._errors += not good
            self._cost += cost
            self.first.count(self._manifest["id"][number], tried, outcome)

    def count_lost(self, number: int, lost: int) -> None:
        """Add the upper bound of the price of tries whose answers were lost."""
        if not lost:
            return
        variant = self._manifest["variant"][number]
        size, most = self._prompt_sizes[number], self._asked[variant].max_tokens
        with self._lock:
            self._lost_usd += lost * self._billers[variant].upper_bound(size, most)

    def _outcome(self, number: int, result: dict[str, Any]) -> Outcome:
        asked_for = AskedFor.by(self._asked[self._requests.variants[number]].params)
        outcome = outcomes.of_result(result, asked_for)
        if outcome.action is Action.KEEP:
            return outcome
        pause = further_turns.pause_of(result.get("message"))
        return self._next.after(self._requests[number], outcome, further_turns.pause_bytes(*pause))


def _biller(asked: Declaration, declared: Declaration, submission: Submission) -> Biller:
    """Prices the answers of requests that were asked so."""
    stated = submission.stated_prices if asked.model_id == declared.model_id else None
    price = price_at(asked, datetime.fromtimestamp(submission.intent_at, UTC), stated)
    return Biller(asked, replace(submission, stated_prices=stated), price)


def _latency(milliseconds: list[int]) -> dict[str, float] | None:
    """Mean and quantiles of the calls' durations, in milliseconds."""
    if not milliseconds:
        return None
    ordered = sorted(milliseconds)
    return {
        "calls": len(ordered),
        "mean": round(sum(ordered) / len(ordered), 1),
        "p50": ordered[nearest_rank(len(ordered), 0.5)],
        "p95": ordered[nearest_rank(len(ordered), 0.95)],
    }
