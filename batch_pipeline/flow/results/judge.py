"""Result lines of one submission, judged one by one: rows of answers and results, and the counts.

Belongs here: what any line means, however odd. Where the rows go stands in `collection`.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from batch_pipeline.errors import ApiError
from batch_pipeline.flow import outcomes
from batch_pipeline.flow.dataset.requests import Declaration, custom_id, parse_custom_id
from batch_pipeline.flow.gates.first_attempts import FirstAttempts
from batch_pipeline.flow.outcomes import Action, Outcome, Status
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import followers
from batch_pipeline.flow.planning.more_room import MoreRoom
from batch_pipeline.flow.results.dead_letter import DeadLetter
from batch_pipeline.flow.results.regular_lines import Regular, RegularLines
from batch_pipeline.flow.schemas import (
    ANSWERS_SCHEMA,
    NOT_DEAD,
    RESULTS_SCHEMA,
    SUMMED,
    TOKENS,
    AnswerReader,
    usage_of,
    zero,
)
from batch_pipeline.jobs.spec import RetrySpec
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.ledger.submissions import Submission
from batch_pipeline.ledger.tables import PICODOLLARS
from batch_pipeline.pricing.prices import ModelPrice, TokenUsage

log = logging.getLogger(__name__)

CHUNK_ROWS = 2_000
# A message may quote the whole answer that it complains of.
MESSAGE_CHARACTERS = 1_000


class ResultsIncompleteError(ApiError):
    """A download does not hold every request once; it is repeated with the next round."""

    code = "results_incomplete"


@dataclass(frozen=True)
class Chunk:
    answers: pa.Table
    results: pa.Table


class LineJudge:
    """Goes through the lines of one submission: each request once, none forgotten."""

    def __init__(
        self,
        pipeline: Pipeline,
        submission: Submission,
        snapshot: Snapshot,
        manifest: pa.Table,
        retry: RetrySpec,
        price: ModelPrice,
        *,
        gone: str | None = None,
    ) -> None:
        self._submission = submission
        self._declaration = Declaration.from_json(snapshot.declaration)
        self._table = manifest
        self._max_attempts = retry.max_attempts
        self._room = MoreRoom.of(retry, self._declaration)
        self._simulated = pipeline.account.simulated
        self._reader = AnswerReader(self._declaration.output_schema)
        self._tools = "tool_choice" in self._declaration.params
        self._followers = followers.of_manifest(pipeline, snapshot, manifest)
        self._at = datetime.now(UTC)
        self._price = price
        # Why requests without a line are set aside; None: they are to be had still.
        self._gone = gone
        self._given_up = 0
        self._seen = np.zeros(manifest.num_rows, np.bool_)
        self._regular = RegularLines(
            submission,
            manifest,
            price,
            self._reader,
            self._followers,
            tools=self._tools,
            simulated=self._simulated,
            at=self._at,
        )
        self._statuses: Counter[str] = Counter()
        self._open = 0
        self._first = FirstAttempts()
        self._usage = TokenUsage()
        self._measured = Counter(answers=0, bytes=0, tokens=0)
        self.cost = Decimal(0)
        # What the API said of the account as a whole, if anything.
        self.stopped_by: str | None = None
        self.letters: list[DeadLetter] = []

    @cached_property
    def _manifest(self) -> dict[str, list[Any]]:
        """The manifest for access by line: made only where a line is not regular."""
        columns: dict[str, list[Any]] = self._table.to_pydict()
        return columns

    def chunks(self, blocks: Iterable[bytes]) -> Iterator[Chunk]:
        """The rows of blocks of whole lines."""
        for block in blocks:
            regular = self._regular.read(block, self._seen)
            if regular is None:
                lines = block.split(b"\n")
            else:
                self._count(regular)
                lines = regular.odd
                yield Chunk(regular.answers, regular.results)
            yield from self._one_by_one(filter(None, lines))
        if self._gone is not None:
            yield self._given_up_rows(self._gone)

    def _one_by_one(self, lines: Iterable[bytes]) -> Iterator[Chunk]:
        answers: list[dict[str, Any]] = []
        results: list[dict[str, Any]] = []
        for line in lines:
            self._judge(line, answers, results)
            if len(answers) >= CHUNK_ROWS:
                yield _as_chunk(answers, results)
                answers, results = [], []
        if answers:
            yield _as_chunk(answers, results)

    def _count(self, regular: Regular) -> None:
        """Take the regular lines of a block into what is counted."""
        self._seen[regular.numbers] = True
        if regular.results.num_rows:
            self._statuses[str(Status.SUCCEEDED)] += regular.results.num_rows
        self._first.done += regular.first_attempts
        self._usage += regular.usage
        self._measured.update(
            answers=regular.billed,
            bytes=regular.billed_bytes,
            tokens=regular.usage.prompt_tokens,
        )
        self.cost += regular.cost

    def check_complete(self) -> None:
        missing = int((~self._seen).sum())
        if missing:
            raise ResultsIncompleteError(
                f"The results of {self._submission.batch_id or self._submission.token} lack "
                f"{missing:,} of {len(self._seen):,} requests; they are fetched again."
            )

    def summary(self, *, duplicate: bool) -> dict[str, Any]:
        """Items by status, requests that go out again, billed tokens (and on how many bytes they
        were measured), what the breaker counts."""
        known = {
            "statuses": {} if duplicate else dict(self._statuses),
            "open": 0 if duplicate else self._open,
            "usage": {name: getattr(self._usage, name) for name in TOKENS},
            "measured": dict(self._measured),
            "duplicate": duplicate,
            "first": (FirstAttempts() if duplicate else self._first).as_json(),
        }
        if self._given_up:
            # What they cost is not known: at most what the bound leaves.
            bound = int((self._submission.usd_bound - self.cost) * PICODOLLARS)
            known["gone"] = {"requests": self._given_up, "picodollars": max(bound, 0)}
        return known

    def _judge(
        self, line: bytes, answers: list[dict[str, Any]], results: list[dict[str, Any]]
    ) -> None:
        try:
            data = _parse(line)
            known = parse_custom_id(data["custom_id"])
            result = data["result"]
        except (ValueError, KeyError, TypeError) as error:
            if self._gone is not None:
                return
            raise ResultsIncompleteError(
                f"The results of {self._submission.batch_id or self._submission.token} hold a "
                "line that cannot be read; they are fetched again."
            ) from error
        if known is None or known[0] != self._submission.token or known[1] >= len(self._seen):
            log.warning("a result line of another's request was left alone: %r", data["custom_id"])
            return
        if not self._seen[known[1]]:
            self._settle(known[1], result, answers, results)

    def _given_up_rows(self, why: str) -> Chunk:
        """The rows of what has no line, and never will: it is set aside."""
        answers: list[dict[str, Any]] = []
        results: list[dict[str, Any]] = []
        for number in np.flatnonzero(~self._seen).tolist():
            self._settle(number, outcomes.gone(why), answers, results)
            self._given_up += 1
        return _as_chunk(answers, results)

    def _settle(
        self,
        number: int,
        result: dict[str, Any],
        answers: list[dict[str, Any]],
        results: list[dict[str, Any]],
    ) -> None:
        self._seen[number] = True
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
            size = self._manifest["request_bytes"][number]
            self._measured.update(answers=1, bytes=size, tokens=usage.prompt_tokens)
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
        for ordinal, item_id in self._followers.by_request.get(number, ()):
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


def _as_chunk(answers: list[dict[str, Any]], results: list[dict[str, Any]]) -> Chunk:
    return Chunk(
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
