"""What each result line of a submission means: its rows of answers and results, and the counts.

Each request of a submission has one line. The judge reads line after line into plain tuples and
makes columns of them once a chunk, which takes a quarter of the time of a dict for each row. Money
is counted in whole picodollars (1e-12 USD), the scale of the results' `cost_usd`. Where the rows go
stands in `collection`.
"""

from __future__ import annotations

import json
import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from operator import mul
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.errors import ApiError
from batch_pipeline.flow import outcomes
from batch_pipeline.flow.dataset import decisions
from batch_pipeline.flow.dataset.requests import Declaration, custom_id, parse_custom_id
from batch_pipeline.flow.gates.first_attempts import FirstAttempts
from batch_pipeline.flow.messages import AnswerReader, tokens_of
from batch_pipeline.flow.outcomes import NOT_DEAD, Action, Outcome, Status
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning.variants import MoreRoom
from batch_pipeline.flow.results.dead_letters import DeadLetter
from batch_pipeline.flow.schemas import ANSWERS_SCHEMA, RESULTS_SCHEMA, SUMMED, USD
from batch_pipeline.jobs.spec import RetrySpec
from batch_pipeline.ledger.database.tables import PICODOLLARS
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.ledger.submissions import Submission
from batch_pipeline.ledger.sums import Counts
from batch_pipeline.pricing.prices import ModelPrice
from batch_pipeline.pricing.tokens import TOKENS

log = logging.getLogger(__name__)

# A message may quote the whole answer that it complains of.
MESSAGE_CHARACTERS = 1_000
# What is read from a line; the other columns come from the manifest or are the same in all rows.
_JUDGED = (
    "number", "final", "counted", "status", "content", "parsed", "stop_reason", "error_type",
    "error_message", "model", *TOKENS, "picodollars",
)  # fmt: skip
_OF_THE_MANIFEST = ("unit", "id", "attempt", "fingerprint")
# What a result says by itself, before it is known which attempt at which request it was: outcome,
# content, parsed, stop reason, model and tokens.
_Read = tuple[
    Outcome, str | None, str | None, str | None, str | None, tuple[int, int, int, int, int]
]
_NO_TOKENS = (0, 0, 0, 0, 0)
_OUTPUT = TOKENS.index("output_tokens")
_PICODOLLAR = pa.scalar(1 / PICODOLLARS, pa.decimal128(12, 12))


class ResultsIncompleteError(ApiError):
    """A download lacks requests, or has lines that cannot be read; the next round repeats it."""

    code = "results_incomplete"


@dataclass(frozen=True)
class Chunk:
    """Rows of `ANSWERS_SCHEMA` and `RESULTS_SCHEMA` that some lines come to."""

    answers: pa.Table
    results: pa.Table


class LineJudge:
    """Judges the lines of one submission: the first line of each request counts.

    `manifest` has a row for each request of the submission, in the order of their numbers. `gone`
    says why requests without a line are set aside; None: they may still come.
    """

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
        declaration = Declaration.from_json(snapshot.declaration)
        tiers = price.batch if submission.engine == "batch" else price.realtime
        self._submission = submission
        self._max_attempts = retry.max_attempts
        self._room = MoreRoom.of(retry, declaration)
        self._reader = AnswerReader(declaration.output_schema)
        self._tools = "tool_choice" in declaration.params
        self._tier_starts, self._prices = tiers.starts, tiers.picodollars()
        self._gone = gone
        self._manifest = manifest.combine_chunks()
        before = pc.fill_null(manifest.column("attempts_before"), 0)
        self._tried = pc.subtract(manifest.column("attempt"), before).to_pylist()
        self._sizes = manifest.column("request_bytes").to_pylist()
        self._variants = manifest.column("variant").to_pylist()
        self._ids = manifest.column("id").to_pylist()
        self._followers = decisions.followers(pipeline.files, snapshot, manifest.column("ordinal"))
        constants = {
            "mode": submission.engine,
            "batch_id": submission.batch_id,
            "simulated": pipeline.account.simulated,
            "collected_at": datetime.now(UTC),
        }
        self._constants = {
            name: pa.scalar(value, RESULTS_SCHEMA.field(name).type)
            for name, value in constants.items()
        }

        self._seen = bytearray(manifest.num_rows)
        self._given_up = 0
        self._open = 0
        self._statuses: Counter[str] = Counter()
        self._first = FirstAttempts()
        self._usage = dict.fromkeys(TOKENS, 0)
        self._measured_answers = self._measured_bytes = 0
        self._picodollars = 0
        # An error that concerns the whole account: credentials, billing or a spend limit.
        self.stopped_by: str | None = None
        self.letters: list[DeadLetter] = []

    @property
    def cost(self) -> Decimal:
        """USD billed for the lines judged so far."""
        return self._picodollars / PICODOLLARS

    def chunks(self, blocks: Iterable[bytes]) -> Iterator[Chunk]:
        """The rows of blocks of whole lines; with `gone`, of requests without a line as well."""
        for block in blocks:
            answers = [
                answer
                for line in block.split(b"\n")
                if line and (answer := self._judge(line)) is not None
            ]
            if answers:
                yield self._chunk(answers)
        if self._gone is not None:
            missing = [number for number, seen in enumerate(self._seen) if not seen]
            self._given_up = len(missing)
            lost = self._read(outcomes.gone(self._gone))
            if missing:
                yield self._chunk([self._settle(number, lost) for number in missing])

    def check_complete(self) -> None:
        """Raises ResultsIncompleteError where a request has no line."""
        missing = self._seen.count(0)
        if missing:
            raise ResultsIncompleteError(
                f"The results of {self._submission.batch_id or self._submission.token} lack "
                f"{missing:,} of {len(self._seen):,} requests; they are fetched again."
            )

    def counts(self, *, duplicate: bool) -> Counts:
        """What the ledger keeps of the submission.

        A `duplicate` (a shard that was bought twice) settles no item and is no evidence for the
        breaker; its tokens are counted.
        """
        first = FirstAttempts() if duplicate else self._first.most_frequent()
        # What requests without a result have cost is not known: at most what the bound leaves.
        gone_usd = max(self._submission.usd_bound - self.cost, Decimal(0))
        return Counts(
            items={} if duplicate else dict(self._statuses),
            open=0 if duplicate else self._open,
            tokens=self._usage,
            measured_answers=self._measured_answers,
            measured_bytes=self._measured_bytes,
            measured_tokens=sum(self._usage.values()) - self._usage["output_tokens"],
            first_attempts=first.done,
            first_need_fix=first.needs_fix,
            first_errors=first.errors,
            examples=first.examples,
            gone_requests=self._given_up,
            gone_usd=gone_usd if self._given_up else Decimal(0),
            duplicate=duplicate,
        )

    def _judge(self, line: bytes) -> tuple[Any, ...] | None:
        """The answer that a line gives, in the order of `_JUDGED`; None: it does not count."""
        try:
            data = _parse(line)
            name, result = data["custom_id"], data["result"]
            known = parse_custom_id(name)
            if known is None or known[0] != self._submission.token or known[1] >= len(self._seen):
                log.warning("a result line of another's request was left alone: %r", name)
                return None
            if self._seen[known[1]]:
                return None
            read = self._read(result)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if self._gone is not None:
                return None
            raise ResultsIncompleteError(
                f"The results of {self._submission.batch_id or self._submission.token} hold a "
                f"line that cannot be read ({error}); they are fetched again."
            ) from error
        return self._settle(known[1], read)

    def _read(self, result: dict[str, Any]) -> _Read:
        """What a result says; raises TypeError, AttributeError or ValueError for unknown shapes."""
        outcome = outcomes.of_result(result, tools_asked_for=self._tools)
        message = result.get("message") or {}
        content = parsed = None
        tokens = _NO_TOKENS
        if result.get("type") == "succeeded":
            tokens = tokens_of(message)
            outcome, content, parsed = self._reader.read(message, outcome)
        stop_reason, model = message.get("stop_reason"), message.get("model")
        # What is no text cannot stand in a column of texts.
        stop_reason = None if stop_reason is None else str(stop_reason)
        model = None if model is None else str(model)
        return outcome, content, parsed, stop_reason, model, tokens

    def _settle(self, number: int, read: _Read) -> tuple[Any, ...]:
        """Book the first result of a request; its answer in the order of `_JUDGED`."""
        self._seen[number] = True
        outcome, content, parsed, stop_reason, model, tokens = read
        tried = self._tried[number]
        if outcome.action is Action.KEEP:
            final = counted = True
        else:
            outcome = self._in_this_submission(number, outcome)
            final = outcomes.settle(outcome, tried, self._max_attempts)
            counted = outcome.action is not Action.REOPEN
        self._first.count(self._ids[number], tried, outcome)
        message = outcome.error_message and outcome.error_message[:MESSAGE_CHARACTERS]
        if not final:
            self._open += 1
        elif outcome.status not in NOT_DEAD:
            self._add_letters(number, outcome, message)
        prompt = sum(tokens) - tokens[_OUTPUT]
        if prompt:
            self._measured_answers += 1
            self._measured_bytes += self._sizes[number]
        prices = self._prices[bisect_left(self._tier_starts, prompt)]
        return (
            number, final, counted, outcome.status, content, parsed, stop_reason,
            outcome.error_type, message, model, *tokens, sum(map(mul, prices, tokens)),
        )  # fmt: skip

    def _in_this_submission(self, number: int, outcome: Outcome) -> Outcome:
        """What a result that is no success means for this request of this submission."""
        if outcome.status is Status.CANCELED and self._submission.cancel_requested_at is not None:
            return Outcome(Status.CANCELED, Action.REOPEN)
        if self._variants[number] is None and self._room.fits(self._sizes[number]):
            outcome = outcomes.with_more_room(outcome)
        if outcome.action is Action.STOP:
            self.stopped_by = f"{outcome.error_type}: {outcome.error_message}"
        return outcome

    def _add_letters(self, number: int, outcome: Outcome, message: str | None) -> None:
        """Keep the items of a request that is set aside, for the dead-letter store."""
        row = self._manifest.slice(number, 1).to_pylist()[0]
        own = (row["ordinal"], row["id"])
        for ordinal, item_id in (own, *self._followers.get(number, ())):
            self.letters.append(
                DeadLetter(
                    ordinal=ordinal,
                    id=item_id,
                    reason=outcome.status,
                    attempts=row["attempt"],
                    error_type=outcome.error_type,
                    error_message=message,
                )
            )

    def _chunk(self, answers: list[tuple[Any, ...]]) -> Chunk:
        """Columns of answers and results, from tuples in the order of `_JUDGED`; counts them."""
        judged = dict(zip(_JUDGED, zip(*answers, strict=True), strict=True))
        numbers = judged["number"]
        asked = self._manifest.take(pa.array(numbers))
        columns: dict[str, Any] = {
            **judged,
            **{name: asked.column(name).chunk(0) for name in _OF_THE_MANIFEST},
            **{name: pa.repeat(value, len(answers)) for name, value in self._constants.items()},
            "custom_id": [custom_id(self._submission.token, number) for number in numbers],
            "cost_usd": _usd(judged["picodollars"]),
        }
        self._picodollars += sum(judged["picodollars"])
        for name in TOKENS:
            self._usage[name] += sum(judged[name])
        table = pa.table([columns[name] for name in ANSWERS_SCHEMA.names], schema=ANSWERS_SCHEMA)
        results = self._results(table, asked, numbers)
        self._statuses.update(results.column("status").to_pylist())
        return Chunk(table, results)

    def _results(self, answers: pa.Table, asked: pa.Table, numbers: tuple[int, ...]) -> pa.Table:
        """The results of requests that are settled: rows of the items that bear the costs, then
        rows of the items that asked the same, which cost nothing."""
        columns = {name: answers.column(name) for name in RESULTS_SCHEMA.names}
        for name in SUMMED:
            total = pc.add(columns[name], asked.column(f"prior_{name}"))
            columns[name] = total.cast(RESULTS_SCHEMA.field(name).type)
        final = answers.column("final")
        bearers = pa.table(columns, schema=RESULTS_SCHEMA).filter(final)
        if not self._followers:
            return bearers
        others = [
            (row, item_id)
            for row, (number, is_final) in enumerate(zip(numbers, final.to_pylist(), strict=True))
            for _, item_id in (self._followers.get(number, ()) if is_final else ())
        ]
        same = answers.take(pa.array([row for row, _ in others], pa.int64()))
        columns = {name: same.column(name) for name in RESULTS_SCHEMA.names}
        columns["id"] = [item_id for _, item_id in others]
        columns |= dict.fromkeys(SUMMED, [0] * len(others))
        return pa.concat_tables([bearers, pa.table(columns, schema=RESULTS_SCHEMA)])


def _usd(picodollars: Sequence[int]) -> pa.Array:
    """Whole picodollars as amounts in USD, exact: the scale of `USD` is 12."""
    whole = pa.array(picodollars, pa.int64()).cast(pa.decimal128(19))
    return pc.multiply(whole, _PICODOLLAR).cast(USD)


def _parse(line: bytes) -> Any:
    """A result line; halves of surrogate pairs, which UTF-8 cannot hold, become U+FFFD."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        text = json.dumps(json.loads(line), ensure_ascii=False)
        return orjson.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
