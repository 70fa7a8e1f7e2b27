"""What each result line of a submission means: its rows of answers and results, and the counts.

Each request of a submission has one line. The judge reads line after line into plain tuples and
makes columns of them once a chunk, which takes a quarter of the time of a dict for each row. Money
is counted in whole picodollars (1e-12 USD), the scale of the results' `cost_usd`. Where the rows go
stands in `collection`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from operator import mul
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.flow.answers import outcomes
from batch_pipeline.flow.answers.outcomes import NOT_DEAD, Action, Outcome, Status, Undecided
from batch_pipeline.flow.dataset.choosing import decisions
from batch_pipeline.flow.dataset.requests.declaration import Declaration, parse_custom_id
from batch_pipeline.flow.dataset.requests.sizes import prompt_sizes
from batch_pipeline.flow.gates.first_attempts import FirstAttempts
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results.dead_letters import DeadLetter
from batch_pipeline.flow.results.judging.asked import Asked, asked_of
from batch_pipeline.flow.results.judging.escalating import Escalating
from batch_pipeline.flow.results.judging.odd_lines import OddLines, ResultsIncompleteError, read_odd
from batch_pipeline.flow.results.judging.result_reader import (
    MESSAGE_CHARACTERS,
    NO_TOKENS,
    Read,
    ResultReader,
    turn_bytes,
)
from batch_pipeline.flow.results.judging.result_tables import JUDGED, Chunk, Judged, ResultTables
from batch_pipeline.flow.results.judging.unsure import Unsure
from batch_pipeline.jobs.spec import RetrySpec
from batch_pipeline.ledger.database.amounts import PICODOLLARS
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.ledger.submissions.submissions import Submission
from batch_pipeline.ledger.sums import MODEL_COUNTS, Counts
from batch_pipeline.pricing.prices import ModelPrice
from batch_pipeline.pricing.tokens import CACHE_TOKENS, TOKENS
from batch_pipeline.settings import is_simulated

# Statuses of requests that need not have been worked on.
_NOT_WORKED_ON = (Status.ERRORED, Status.EXPIRED, Status.CANCELED, Status.INVALID_INPUT)
_INPUT, _OUTPUT = TOKENS.index("input_tokens"), TOKENS.index("output_tokens")
_CACHED = [TOKENS.index(name) for name in CACHE_TOKENS]
# Rows that are put together at once of requests whose results came without a message.
_ROWS_AT_ONCE = 5_000


class LineJudge:
    """Judges the lines of one submission: of several lines for one request the first that succeeded
    counts, else the first.

    `manifest` has a row for each request of the submission, in the order of their numbers. `gone`
    says why requests without a line are set aside; None: they may still come. `settled` are the
    numbers of requests whose answers are published: their lines are passed over. `earlier` are the
    latest answers of the night before these, and those of them that failed for a reason that
    passes: where there are too few of these to tell a storm, both count.
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
        unsure: Unsure | None = None,
        gone: str | None = None,
        settled: Iterable[int] = (),
        earlier: tuple[int, int] = (0, 0),
    ) -> None:
        declaration = Declaration.from_json(snapshot.declaration)
        self._submission = submission
        self._max_attempts = retry.max_attempts
        self._escalating = Escalating(retry, declaration, manifest, unsure)
        self._reader = ResultReader(declaration, manifest)
        asked = asked_of(manifest, declaration, submission, price)
        self._fees = asked[None].biller.fees
        # What answers whose bill is not that of their tokens would have cost the other way.
        self._other_way: dict[int, int] = {}
        self._gone = gone
        self._manifest = manifest.combine_chunks()
        before = pc.fill_null(manifest.column("attempts_before"), 0)
        self._tried = pc.subtract(manifest.column("attempt"), before).to_pylist()
        self._sizes = prompt_sizes(manifest).to_pylist()
        self._asked = [asked[name] for name in manifest.column("variant").to_pylist()]
        self._own = asked[None]
        self._ids = manifest.column("id").to_pylist()
        self._followers = decisions.followers(pipeline.files, snapshot, manifest.column("ordinal"))
        simulated = is_simulated(submission.account)
        self._tables = ResultTables(submission, self._manifest, self._followers, simulated)

        self._seen = bytearray(manifest.num_rows)
        for number in settled:
            self._seen[number] = True
        self._settled = len(self._seen) - self.missing
        # Results without a message, by request: a line that succeeded may still follow.
        self._pending: dict[int, Read] = {}
        # Of these, calls with tries whose answers were lost: they may have been billed.
        self._lost: set[int] = set()
        self._earlier = earlier
        self._passing = self._again = 0
        # Whether nearly all answers failed for reasons that pass; None: too few to tell.
        self.storm: bool | None = None
        self._odd = OddLines()
        self._given_up = 0
        self._open = self._undecided = 0
        self._models: dict[str, dict[str, int]] = {}
        self._statuses: Counter[str] = Counter()
        self._first = FirstAttempts()
        self._usage = dict.fromkeys(TOKENS, 0)
        self._measured_answers = self._measured_bytes = 0
        self._picodollars = 0
        # What the prompt cache saved, in picodollars; negative: it cost that.
        self._cache_saved = 0
        self._estimated = Decimal(0)
        # An error that concerns the whole account: credentials, billing or a spend limit.
        self.stopped_by: str | None = None
        # The API has worked on a request.
        self.answered = False
        self.letters: list[DeadLetter] = []

    @property
    def cost(self) -> Decimal:
        """USD billed for the lines judged so far."""
        return self._picodollars / PICODOLLARS

    @property
    def missing(self) -> int:
        """Requests without a result."""
        return self._seen.count(0)

    @property
    def judged(self) -> int:
        """Requests whose results were judged by now, beside those that are published."""
        return len(self._seen) - self.missing - self._settled

    def chunks(self, blocks: Iterable[bytes]) -> Iterator[Chunk]:
        """The rows of blocks of whole lines; with `gone`, of requests without a line as well."""
        place = 1
        for block in blocks:
            lines = block.split(b"\n")
            answers = [
                answer
                for number, line in enumerate(lines, place)
                if line and (answer := self._judge(line, number)) is not None
            ]
            place += len(lines) - 1
            if answers:
                yield self._chunk(answers)
        self._odd.tell(self._name, whole=not self.missing - len(self._pending))
        if self._gone is not None:
            lost = self._reader.read(self._own, outcomes.gone(self._gone))
            missing = [number for number, seen in enumerate(self._seen) if not seen]
            missing = [number for number in missing if number not in self._pending]
            self._given_up = len(missing)
            self._pending |= dict.fromkeys(missing, lost)
        self._look_for_storm()
        while self._pending:
            numbers = list(itertools.islice(self._pending, _ROWS_AT_ONCE))
            yield self._chunk([self._settle(n, self._pending.pop(n)) for n in numbers])

    def check_complete(self) -> None:
        """Raises ResultsIncompleteError where a request has no line."""
        if self.missing:
            raise ResultsIncompleteError(
                f"The results of {self._name} lack {self.missing:,} of {len(self._seen):,} requests"
                f"{self._odd}; they are fetched again."
            )

    @property
    def _name(self) -> str:
        return self._submission.batch_id or self._submission.token

    def counts(self, *, duplicate: bool) -> Counts:
        """What the ledger keeps of the submission.

        A `duplicate` (a shard that was bought twice) settles no item and is no evidence for the
        breaker; its tokens are counted.
        """
        first = FirstAttempts() if duplicate else self._first.most_frequent()
        # What requests without a result have cost is not known: at most what the bound leaves.
        left = self._submission.usd_bound - self.cost - self._estimated
        gone_usd = max(left, Decimal(0))
        return Counts(
            items={} if duplicate else dict(self._statuses),
            open=0 if duplicate else self._open,
            undecided=0 if duplicate else self._undecided,
            unjudged=self._escalating.unjudged,
            models=self._models,
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
            estimated_usd=self._estimated,
            cache_saved_usd=self._cache_saved / PICODOLLARS,
            fees=self._fees,
            passing=0 if duplicate else self._passing,
            again=0 if duplicate else self._again,
            duplicate=duplicate,
        )

    def _judge(self, line: bytes, place: int) -> Judged | None:
        """The answer that a line gives, in the order of `JUDGED`; None: it gives none, or not yet.

        `place` is the number of the line, counted from 1.
        """
        try:
            data = orjson.loads(line)
            name, result = data["custom_id"], data["result"]
            known = parse_custom_id(name)
            if known is None and type(name) is not str:
                raise TypeError
        except (ValueError, KeyError, TypeError):
            try:
                data = read_odd(line)
            except ValueError as error:
                self._odd.add(place, error)
                return None
            result, known = data.get("result"), parse_custom_id(data["custom_id"])
        if known is None or known[0] != self._submission.token or known[1] >= len(self._seen):
            self._odd.foreign += 1
            return None
        number = known[1]
        if self._seen[number]:
            return None
        if type(result) is dict and result.get("type") == "succeeded":
            self._pending.pop(number, None)
            read = self._reader.read(self._asked[number], result, number=number)
            return self._settle(number, read)
        if number not in self._pending:
            # Calls alone have this mark, which is ours: from the API it would mean nothing.
            attempted = self._submission.batch_id is not None or data.get("attempted") is not False
            self._pending[number] = self._reader.read(
                self._asked[number], result, attempted=attempted
            )
            if self._submission.batch_id is None and data.get("lost"):
                self._lost.add(number)
        return None

    def _look_for_storm(self) -> None:
        """Tell a storm: what failed in it is sent again and was no attempt, unless an answer was
        lost that may have been billed."""
        passing = [n for n, read in self._pending.items() if outcomes.is_passing(read.outcome)]
        canceled = sum(read.outcome.status is Status.CANCELED for read in self._pending.values())
        answers = self.judged + len(self._pending) - canceled
        self._passing = len(passing)
        self.storm = outcomes.is_storm(answers, self._passing) if answers else None
        if self.storm is None and answers:
            earlier, failed = self._earlier
            self.storm = outcomes.is_storm(answers + earlier, self._passing + failed)
        for number in passing if self.storm else ():
            if number not in self._lost:
                read = self._pending[number]
                outcome = replace(read.outcome, action=Action.REOPEN)
                self._pending[number] = read._replace(outcome=outcome)

    def _settle(self, number: int, read: Read) -> Judged:
        """Book the first result of a request; its answer in the order of `JUDGED`."""
        self._seen[number] = True
        outcome, content, parsed, stop_reason, model, tokens, bill, more, turn, container = read
        tried, asked = self._tried[number], self._asked[number]
        undecided: Undecided | None = None
        if outcome.action is Action.KEEP:
            final = counted = True
        else:
            outcome = self._in_this_submission(number, read)
            # Pauses are no failures: they leave the tries that a passing error has.
            tries = tried - self._reader.pauses[number]
            final = outcomes.settle(outcome, tries, self._max_attempts)
            undecided = self._escalating.undecided(number, outcome, final=final)
            final = final and undecided is None
            counted = outcome.action not in (Action.REOPEN, Action.STOP)
        self.answered = self.answered or outcome.status not in _NOT_WORKED_ON
        attempt, judged = self._escalating.as_first(number, tried, outcome)
        self._first.count(self._ids[number], attempt, judged)
        message = outcome.error_message and outcome.error_message[:MESSAGE_CHARACTERS]
        if outcome.action is not Action.CONTINUE:
            turn = container = None
        if not final:
            self._leave_open(number, outcome)
        elif outcome.status not in NOT_DEAD:
            self._add_letters(number, outcome, message)
        if tokens is None:
            tokens = NO_TOKENS
            most = asked.declaration.max_tokens
            self._estimated += asked.biller.upper_bound(self._sizes[number], most, bill)
        prompt = sum(tokens) - tokens[_OUTPUT]
        prices = asked.tier_of(prompt)
        if prompt:
            self._measured_answers += 1
            self._measured_bytes += self._sizes[number]
        saved = 0
        if prompt != tokens[_INPUT]:
            saved = sum((prices[_INPUT] - prices[n]) * tokens[n] for n in _CACHED)
            self._cache_saved += saved
        if bill is None:
            cost = sum(map(mul, prices, tokens))
        else:
            cost, self._other_way[number] = bill.picodollars, bill.other_way
        if not asked.own:
            self._count_other_model(number, asked, tokens, cost, saved)
        return (
            number, final, counted, outcome.status, content, parsed, stop_reason,
            outcome.error_type, message, model, *tokens, cost, undecided, more, turn, container,
        )  # fmt: skip

    def _leave_open(self, number: int, outcome: Outcome) -> None:
        """Count a request that is not settled by its answer."""
        if self._escalating.is_optional(number):
            self._undecided += 1
            return
        self._open += 1
        self._again += outcome.status is not Status.CANCELED and (
            outcome.action in (Action.RETRY, Action.RETRY_ONCE, Action.REOPEN)
        )

    def _count_other_model(
        self, number: int, asked: Asked, tokens: Sequence[int], picodollars: int, cache_saved: int
    ) -> None:
        """Note what an answer of another model than the declared one was billed."""
        other_way = asked.other_way(tokens)
        self._other_way.setdefault(number, other_way)
        used = self._models.setdefault(asked.declaration.model_id, dict.fromkeys(MODEL_COUNTS, 0))
        for name, count in zip(TOKENS, tokens, strict=True):
            used[name] += count
        used["picodollars"] += picodollars
        used["cache_saved"] += cache_saved
        if prompt := sum(tokens) - tokens[_OUTPUT]:
            used["measured_answers"] += 1
            used["measured_bytes"] += self._sizes[number]
            used["measured_tokens"] += prompt

    def _in_this_submission(self, number: int, read: Read) -> Outcome:
        """What a result that is no success means for this request of this submission."""
        outcome = read.outcome
        if outcome.status is Status.CANCELED and self._submission.cancel_requested_at is not None:
            return Outcome(Status.CANCELED, Action.REOPEN)
        outcome = self._escalating.after(number, outcome, turn_bytes(read))
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

    def _chunk(self, answers: list[Judged]) -> Chunk:
        """The rows of answers, which are counted."""
        columns: dict[str, Any] = dict(zip(JUDGED, zip(*answers, strict=True), strict=True))
        self._undecided += self._escalating.look_for_unsure(columns)
        self._picodollars += sum(columns["picodollars"])
        for name in TOKENS:
            self._usage[name] += sum(columns[name])
        other_way = [self._other_way.pop(number, None) for number in columns["number"]]
        chunk = self._tables.chunk(columns, other_way)
        self._statuses.update(chunk.results.column("status").to_pylist())
        return chunk
