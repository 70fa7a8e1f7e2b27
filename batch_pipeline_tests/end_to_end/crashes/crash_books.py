"""What must hold after any sequence of deaths, checked against the simulator's own books.

The expected content of each request is written out here, so that neither ids nor costs are taken
from the pipeline's word.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from batch_pipeline.flow import paths
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning.variants import ESCALATED
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.pricing.tokens import TOKENS
from batch_pipeline.simulator import Simulator
from batch_pipeline.simulator.books.books import Content
from batch_pipeline.simulator.books.content_digest import content_hash
from batch_pipeline_tests.end_to_end.crashes import crash_documents, crash_thrift
from batch_pipeline_tests.end_to_end.crashes.crash_processes import Work
from batch_pipeline_tests.support import (
    MODEL,
    by_id,
    results,
    submissions_of,
    takeovers_of,
    typed_rows,
)

Document = Mapping[str, Any]
Documents = Sequence[Document]
Row = Mapping[str, Any]
Rows = Mapping[str, Row]
WaysOf = Callable[[Document], list[dict[str, Any]]]

BILLED = ("succeeded", "truncated", "refused", "invalid_output")
NOT_ASKED = Content(accepted=0, billed=0, cost_usd=Decimal(0))


@dataclass
class Figures:
    """What was done to nights, and what was found; `calls_repeated` are the API's own gap.

    Of those, `repeated_beside` had an answer that somebody took: a process that was frozen in the
    call, and whose work another had taken over meanwhile.
    """

    nights: int = 0
    readings: int = 0
    kills: int = 0
    freezes: int = 0
    cuts: int = 0
    restarts: int = 0
    requests: int = 0
    batches: int = 0
    faults: int = 0
    foreign_batches: int = 0
    taken_over: int = 0
    bought_twice_in_batches: int = 0
    calls_repeated: int = 0
    repeated_beside: int = 0
    filtered: int = 0
    reused: int = 0
    near_duplicates: int = 0
    escalated: int = 0
    changed_documents: int = 0

    def add(self, other: Figures) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def check(sim: Simulator, work: Work, documents: Mapping[str, Documents]) -> Figures:
    """Assert that complete nights are whole and were paid once; returns what they consisted of."""
    pipeline, spec = work.pipeline(), work.spec()
    for night, of_night in documents.items():
        typed = {
            name: row["input_text"]
            for name, row in by_id(typed_rows(pipeline, spec, night)).items()
        }
        assert typed == {str(document["id"]): document["text"] for document in of_night}
    ways_of: WaysOf = crash_thrift.asked_as if work.caching is not None else plainly_asked
    if work.documents is not None:
        ways_of = crash_documents.asking(work.originals, work.home, work.documents)
    return check_nights(
        sim,
        pipeline,
        spec,
        documents,
        work.queue,
        thrifty=work.caching is not None,
        ways_of=ways_of,
    )


def check_nights(
    sim: Simulator,
    pipeline: Pipeline,
    spec: JobSpec,
    documents: Mapping[str, Documents],
    queue: int,
    *,
    thrifty: bool = False,
    ways_of: WaysOf | None = None,
) -> Figures:
    """Assert that complete nights are whole and were paid once, each document in one of them."""
    books = sim.books
    cancelled = _cancelled(pipeline, spec, documents)
    asked = Asked(
        books.contents, content_hash, thrifty=thrifty, cancelled=cancelled, ways_of=ways_of
    )
    asked.look_at({night: by_id(results(pipeline, spec, night)) for night in documents}, documents)
    assert books.highest_queue <= queue
    assert books.foreign_touched == {}
    reports = [_check_report(pipeline, spec, night, documents[night]) for night in documents]
    asked.check_bills(reports)
    submissions = submissions_of(pipeline)
    tokens = {name: sum(each.tokens[name] for each in submissions) for name in TOKENS}
    _check_tokens(books.billed_tokens, tokens, exactly=not asked.repeated)
    taken_over = takeovers_of(pipeline)
    pipeline.ledger.close()
    assert not any(submission.duplicate for submission in submissions)
    assert not any(takeover.left_usd for takeover in taken_over), "money is reserved for nothing"
    return Figures(
        nights=len(documents),
        requests=books.accepted_requests,
        batches=books.batches_created,
        faults=sum(books.faults.values()),
        foreign_batches=books.foreign_batches_created,
        taken_over=len(taken_over),
        bought_twice_in_batches=asked.twice,
        calls_repeated=asked.repeated,
        repeated_beside=len(books.bought_again),
        **asked.saved,
    )


class Asked:
    """What rows say of the requests that they asked for, beside what the books say of these.

    `key` makes the key of a request in the books of its parameters, and `ways_of` all parameters
    that a document may be asked with; none: it can no longer be sent. Unless they are `priced` the
    books do not tell what anything cost.
    """

    def __init__(
        self,
        contents: dict[str, Content],
        key: Callable[[dict[str, Any]], str],
        *,
        thrifty: bool,
        priced: bool = True,
        ways_of: WaysOf | None = None,
        cancelled: Mapping[tuple[str, bool], int] | None = None,
    ) -> None:
        self._contents, self._key = contents, key
        self._ways_of = ways_of or (crash_thrift.asked_as if thrifty else plainly_asked)
        self._thrifty, self._priced, self._cancelled = thrifty, priced, cancelled or {}
        self.twice = self.repeated = 0
        # Models of which a call was billed twice: the report has less of them than the books.
        self._repeated_models: set[str] = set()
        self._usd: dict[str, Decimal] = defaultdict(Decimal)
        self.saved = dict.fromkeys(
            ("filtered", "reused", "near_duplicates", "escalated", "changed_documents"), 0
        )

    def look_at(self, rows: Mapping[str, Rows], documents: Mapping[str, Documents]) -> None:
        """Assert that all documents have their rows, and each request was bought for one of them.

        `rows` and `documents` are by night, in their order.
        """
        bought: dict[str, tuple[list[dict[str, Any]], list[Row]]] = {}
        for night, expected in documents.items():
            assert set(rows[night]) == {str(document["id"]) for document in expected}
            for document in expected:
                row = rows[night][str(document["id"])]
                if document["text"] is None:
                    assert row["status"] == "invalid_input"
                elif not (ways := self._ways_of(document)):
                    found = row["status"], row["error_type"], row["cost_usd"] or 0
                    assert found == ("invalid_input", "document_changed", 0)
                    self.saved["changed_documents"] += 1
                elif not self._is_free(row, document, rows):
                    bought.setdefault(self._key(ways[0]), (ways, []))[1].append(row)
        for ways, of_rows in bought.values():
            self._check_bought(ways, of_rows)
        assert not self._contents, "a request was sent that no document asked for"
        assert not self.twice
        assert self.saved["escalated"] <= crash_thrift.MAX_SHARE * len(bought)

    def _is_free(self, row: Row, document: Document, rows: Mapping[str, Rows]) -> bool:
        """Whether a row has no answer of its own; asserts that it says why."""
        reason = crash_thrift.why_filtered(document) if self._thrifty else None
        assert row["error_type"] == reason if row["status"] == "filtered" else reason is None
        if reason is not None:
            assert row["cost_usd"] is None or not row["cost_usd"]
            self.saved["filtered"] += 1
            return True
        if row["mode"] != "reused":
            assert row["answered_by"] is None
            return False
        assert not any(row[name] for name in ("cost_usd", *TOKENS))
        kind, _, name = row["answered_by"].partition(":")
        if kind == "id":
            assert name == crash_thrift.leader_of(document)
            [source] = [of_night[name] for of_night in rows.values() if row in of_night.values()]
            self.saved["near_duplicates"] += 1
        else:
            source = rows[name][str(document["id"])]
            assert source["mode"] != "reused"
            self.saved["reused"] += 1
        assert source["status"] == row["status"] == "succeeded"
        assert source["parsed"] == row["parsed"]
        return True

    def _check_bought(self, ways: list[dict[str, Any]], rows: list[Row]) -> None:
        """Assert that the rows of one document, of several nights, paid for what was bought."""
        found = [(way["model"], self._contents.pop(self._key(way), NOT_ASKED)) for way in ways]
        last = rows[-1]
        if all(row["mode"] == "batch" and row["batch_id"] is None for row in rows):
            # A batch was refused for it: the API never took it in.
            assert not any(content.accepted for _, content in found)
            assert (last["status"], last["cost_usd"]) == ("errored", 0)
            return
        self.saved["escalated"] += self._thrifty and bool(found[-1][1].accepted)
        called = 0
        for model, content in found:
            in_batches = content.billed - content.billed_realtime
            # One way was answered as its row says. Of several each is answered at most once.
            once = int(last["status"] in BILLED) if len(ways) == 1 else min(1, content.billed)
            if content.billed_realtime:
                self.twice += in_batches
                repeated = content.billed_realtime - once
                called += content.billed_realtime
                self.repeated += repeated
                self._repeated_models |= {model} if repeated else set()
            else:
                self.twice += in_batches - once
            self._usd[model] += content.cost_usd
        modes = {row["mode"] for row in rows}
        assert called == 0 or "realtime" in modes or len(ways) > 1, "its batch had answered it"
        attempts = sum(row["attempt"] for row in rows)
        if modes == {"batch"} and not called:
            # What a take-over cancelled was taken in, and was no attempt. It goes in real time,
            # unless another process has sent it as a batch before it was moved there: a job with a
            # budget has its requests planned for batches first.
            accepted = [
                content.accepted - self._cancelled.get((str(last["id"]), number > 0), 0)
                for number, (_, content) in enumerate(found)
            ]
            # The row of a first answer that stands does not count what was asked in vain.
            in_vain = accepted[-1] if len(ways) > 1 and last["model"] == ways[0]["model"] else 0
            assert sum(accepted) - in_vain == attempts, (rows, found)
        paid = sum((row["cost_usd"] for row in rows), Decimal(0))
        usd = sum((content.cost_usd for _, content in found), Decimal(0))
        if self._priced and self._repeated_models.isdisjoint(way["model"] for way in ways):
            assert paid == usd, (rows, found)
        assert paid <= usd or not self._priced

    def check_bills(self, reports: Sequence[Mapping[str, Any]]) -> None:
        """Assert that the reports have all that was billed, each model what is its own."""
        told: dict[str, Decimal] = defaultdict(Decimal)
        for usage in (usage for report in reports for usage in report["models"]):
            told[usage["model_id"]] += usage["cost_usd"]
        for model, usd in self._usd.items():
            assert told[model] <= usd
            assert model in self._repeated_models or told[model] == usd, (model, told, self._usd)
        assert sum(told.values()) == sum(report["actual_usd"] for report in reports)


def _cancelled(
    pipeline: Pipeline, spec: JobSpec, nights: Iterable[str]
) -> Counter[tuple[str, bool]]:
    """How many requests came back cancelled from batches, by id and whether they were escalated."""
    found: Counter[tuple[str, bool]] = Counter()
    columns = ["id", "status", "mode", "variant"]
    for night in nights:
        folder = paths.answers(spec.name, night, "simulator")
        for row in (
            pipeline.files.dataset(pipeline.files.list(folder, ".parquet"))
            .to_table(columns=columns)
            .to_pylist()
        ):
            if (row["status"], row["mode"]) == ("canceled", "batch"):
                found[row["id"], row["variant"] == ESCALATED] += 1
    return found


def _check_report(
    pipeline: Pipeline, spec: JobSpec, night: str, documents: Documents
) -> dict[str, Any]:
    """Assert that a night's report is that of its rows; returns it."""
    report = _report(pipeline, spec, night)
    assert report["items"] == len(documents) == sum(report["statuses"].values())
    billed = sum((row["cost_usd"] or 0 for row in results(pipeline, spec, night)), Decimal(0))
    assert billed == report["actual_usd"]
    assert report["unattributed_cost_usd"] == 0
    ceiling = spec.budget.max_usd_per_partition
    assert ceiling is None or billed <= ceiling
    return report


def _check_tokens(billed: Mapping[str, int], told: Mapping[str, int], *, exactly: bool) -> None:
    """Assert that the ledger has the tokens of the books: no more where calls were repeated."""
    written = told["cache_write_5m_tokens"] + told["cache_write_1h_tokens"]
    pairs = [
        (billed["input_tokens"], told["input_tokens"]),
        (billed["output_tokens"], told["output_tokens"]),
        (billed["cache_creation_input_tokens"], written),
        (billed["cache_read_input_tokens"], told["cache_read_tokens"]),
    ]
    for in_books, in_ledger in pairs:
        assert in_ledger == in_books if exactly else in_ledger <= in_books


def _report(pipeline: Pipeline, spec: JobSpec, partition: str) -> dict[str, Any]:
    data = pipeline.files.read(paths.report(spec.name, partition, ".json"))
    assert data is not None
    report: dict[str, Any] = json.loads(data, parse_float=Decimal)
    assert report["complete"]
    return report


def plainly_asked(document: Document) -> list[dict[str, Any]]:
    """The parameters of the one request of a document of a plain job."""
    content = f"Sum up: {document['text']}"
    messages = [{"role": "user", "content": content}]
    return [{"model": MODEL, "max_tokens": 4_000, "messages": messages}]
