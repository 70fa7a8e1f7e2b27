"""What must hold after any sequence of deaths, checked against the simulator's own books.

The expected content of each request is written out here, so that neither ids nor costs are taken
from the pipeline's word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from batch_pipeline.flow import paths
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.simulator import Simulator
from batch_pipeline.simulator.books.books import content_hash
from batch_pipeline_tests.end_to_end.crash_processes import Work
from batch_pipeline_tests.support import (
    MODEL,
    PARTITION,
    by_id,
    results,
    submissions_of,
    takeovers_of,
)

Documents = list[dict[str, str | None]]

BILLED = ("succeeded", "truncated", "refused", "invalid_output")


@dataclass
class Figures:
    """What was done to nights, and what was found; `calls_repeated` are the API's own gap.

    Of those, `repeated_beside` had an answer that somebody took: a process that was frozen in the
    call, and whose work another had taken over meanwhile.
    """

    nights: int = 0
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

    def add(self, other: Figures) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def check(sim: Simulator, work: Work, documents: Documents) -> Figures:
    """Assert that a complete night is whole and was paid once; returns what it consisted of."""
    return check_nights(sim, work.pipeline(), work.spec(), {PARTITION: documents}, work.queue)


def check_nights(
    sim: Simulator,
    pipeline: Pipeline,
    spec: JobSpec,
    documents: Mapping[str, Documents],
    queue: int,
) -> Figures:
    """Assert that complete nights are whole and were paid once, each document in one of them."""
    books, contents = sim.books, sim.books.contents
    twice = repeated = 0
    repeated_usd = batch_usd = realtime_usd = Decimal(0)
    for partition, expected in documents.items():
        rows = by_id(results(pipeline, spec, partition))
        assert set(rows) == {str(document["id"]) for document in expected}
        for document in expected:
            row = rows[str(document["id"])]
            if document["text"] is None:
                assert row["status"] == "invalid_input"
                continue
            if row["mode"] == "batch" and row["batch_id"] is None:
                # A batch was refused for it: the API never took it in.
                assert content_of(str(document["text"])) not in contents
                assert (row["status"], row["cost_usd"]) == ("errored", 0)
                continue
            content = contents.pop(content_of(str(document["text"])))
            once = int(row["status"] in BILLED)
            if row["mode"] == "realtime":
                twice += content.billed - content.billed_realtime
                extra = content.billed_realtime - once
                repeated += extra
                repeated_usd += content.cost_usd * extra / max(content.billed, 1)
            else:
                twice += content.billed - once
                assert not content.billed_realtime, "its batch had answered it"
                assert content.accepted == row["attempt"], (row, content)
        report = _report(pipeline, spec, partition)
        assert report["items"] == len(expected) == sum(report["statuses"].values())
        billed = sum((row["cost_usd"] for row in rows.values()), Decimal(0))
        assert billed == report["actual_usd"]
        assert report["unattributed_cost_usd"] == 0
        batch_usd += report["batch_cost_usd"]
        realtime_usd += report["realtime_cost_usd"]
    assert not twice
    assert not contents, "a request was sent that no document asked for"
    assert books.highest_queue <= queue
    assert books.foreign_touched == {}
    assert batch_usd == books.batch_cost_usd
    assert realtime_usd == books.realtime_cost_usd - repeated_usd
    submissions = submissions_of(pipeline)
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
        bought_twice_in_batches=twice,
        calls_repeated=repeated,
        repeated_beside=len(books.bought_again),
    )


def _report(pipeline: Pipeline, spec: JobSpec, partition: str) -> dict[str, Any]:
    data = pipeline.files.read(paths.report(spec.name, partition, ".json"))
    assert data is not None
    report: dict[str, Any] = json.loads(data, parse_float=Decimal)
    assert report["complete"]
    return report


def content_of(text: str) -> str:
    """The key of a document's request in the books."""
    return content_hash(
        {
            "model": MODEL,
            "max_tokens": 4_000,
            "messages": [{"role": "user", "content": f"Sum up: {text}"}],
        }
    )
