"""Ceilings in whole nights, against the simulator's own books: never above, and on when raised."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.errors import GateClosedError
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status import warnings
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.document_files import blank_pdf
from batch_pipeline_tests.support import (
    PARTITION,
    Dropped,
    Faults,
    accepted_twice,
    documents,
    is_create,
    job,
    submissions_of,
    together,
    write_rows,
)


def a_job(tmp_path: Path, count: int, **changes: Any) -> JobSpec:
    """Documents of 900 bytes with an answer of a token: each costs about $0.0001 as a batch."""
    rows = [row | {"text": f"{row['text']}: {'words ' * 150}"} for row in documents(count)]
    source = write_rows(tmp_path / "in.jsonl", rows)
    declared: dict[str, Any] = {
        "max_tokens": 1,
        "limits": {"max_requests_per_batch": 10},
        "pilot": {"size": 0, "max_error_rate": 1, "max_truncated_rate": 1},
        "alerts": {"error_rate": 1.0},
    }
    return job(source, **(declared | changes))


def spent(sim: Simulator) -> Decimal:
    return sim.books.batch_cost_usd + sim.books.realtime_cost_usd


def test_a_night_stops_under_its_ceiling_and_goes_on_when_it_is_raised(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    budget = {"max_usd_per_partition": 0.002}
    with pytest.raises(GateClosedError, match=r"budget\.max_usd_per_partition") as caught:
        run(make_pipeline(), a_job(tmp_path, 40, budget=budget), PARTITION)
    assert "more than is left" in str(caught.value)
    assert "Raise budget.max_usd_per_partition" in str(caught.value)
    assert Decimal(0) < spent(sim) <= Decimal("0.002")
    answered = sim.books.accepted_requests
    assert 0 < answered < 40

    with pytest.raises(GateClosedError):  # the same again buys nothing
        run(make_pipeline(), a_job(tmp_path, 40, budget=budget), PARTITION, wait=False)
    assert sim.books.accepted_requests == answered

    state = run(make_pipeline(), a_job(tmp_path, 40), PARTITION)
    assert (state.complete, state.settled) == (True, 40)
    assert not accepted_twice(sim)


def test_pages_of_small_files_are_reserved_as_what_they_cost(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """600 blank pages are 75 kB, and 960,000 tokens: $2.40 as a batch of this model."""
    pages = blank_pdf(600)
    for number in range(3):
        (tmp_path / f"{number}.pdf").write_bytes(pages + b"%%%d\n" % number)
    spec = a_job(
        tmp_path,
        0,
        input={"path": str(tmp_path / "*.pdf")},
        prompt={"user": "Sum up: {document}"},
        model_id="claude-opus-4-8",
        budget={"max_usd_per_partition": 3},
    )
    with pytest.raises(GateClosedError, match=r"budget\.max_usd_per_partition"):
        run(make_pipeline(), spec, PARTITION)
    assert sim.books.accepted_requests == 1
    assert Decimal("2.4") <= spent(sim) <= 3


def test_what_is_billed_makes_room_for_the_rest(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    """All requests together are reserved at more than the ceiling, and cost less."""
    spec = a_job(tmp_path, 40, max_tokens=2_000, budget={"max_usd_per_partition": 0.04})
    state = run(pipeline, spec, PARTITION)
    assert state.complete
    reserved = [submission.usd_bound for submission in submissions_of(pipeline)]
    assert sum(reserved) > Decimal("0.04") >= spent(sim)
    assert len(reserved) > 5


def test_bounds_follow_the_measured_tokens(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    pilot = {"size": 20, "max_error_rate": 1, "max_truncated_rate": 1}
    spec = a_job(
        tmp_path,
        200,
        pilot=pilot,
        limits={"max_requests_per_batch": 100},
        budget={"max_usd_per_partition": 1},
    )
    assert run(pipeline, spec, PARTITION).complete
    sample, *rest = submissions_of(pipeline)
    assert sample.engine == "realtime"
    # Bytes as tokens at the real-time price, then about a quarter of them and the buffer.
    assert sample.usd_bound / sample.requests > 5 * max(s.usd_bound / s.requests for s in rest)
    assert all(s.cost_usd and s.cost_usd <= s.usd_bound for s in submissions_of(pipeline))


@pytest.mark.parametrize("via", ["realtime", "batch"])
def test_a_ceiling_that_cannot_take_the_pilot_is_said_before_anything_is_sent(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path, via: str
) -> None:
    pilot = {"size": 10, "via": via, "max_error_rate": 1, "max_truncated_rate": 1}
    spec = a_job(tmp_path, 100, pilot=pilot, budget={"max_usd_per_month": 0.0001})
    with pytest.raises(GateClosedError, match=r"budget\.max_usd_per_month .*100 requests"):
        run(make_pipeline(), spec, PARTITION)
    assert sim.books.accepted_requests == 0


def test_an_unknown_submission_keeps_its_reservation(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    """The answer to the first create is lost: accepted, billed, and not bought a second time."""
    lost = 0

    def lose(request: Request, response: Response) -> Response:
        nonlocal lost
        if is_create(request) and lost < 2:
            lost += 1
            return Dropped()
        return response

    faults.on_response = lose
    spec = a_job(tmp_path, 40, budget={"max_usd_per_partition": 0.003})
    with pytest.raises(GateClosedError):
        run(make_pipeline(reconcile_seconds=30), spec, PARTITION)
    assert lost == 2
    assert Decimal(0) < spent(sim) <= Decimal("0.003")
    assert not accepted_twice(sim)


def test_a_ceiling_that_is_passed_all_the_same_is_reported(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    """After the pilot has measured, the rest is billed for twenty times the tokens."""

    def inflate(_batch_id: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for line in b"".join(chunks).splitlines(keepends=True):
            yield re.sub(
                rb'"input_tokens": ?(\d+)', lambda m: b'"input_tokens":%d0' % int(m[1]), line
            )

    faults.on_results = inflate
    pilot = {"size": 10, "max_error_rate": 1, "max_truncated_rate": 1}
    spec = a_job(tmp_path, 100, pilot=pilot, budget={"max_usd_per_partition": 0.02})
    pipeline = make_pipeline()
    state = run(pipeline, spec, PARTITION)
    found = {warning.code: warning.message for warning in warnings.of(state, spec.alerts)}
    assert "budget.max_usd_per_partition ($0.0200) is passed by $" in found["over_budget"]
    assert state.total_cost_usd > Decimal("0.02")


def test_a_call_whose_answer_was_lost_counts_at_its_most(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    """It was billed, and asked again: both are counted against the ceiling."""
    lost = 0

    def lose(request: Request, response: Response) -> Response:
        nonlocal lost
        if request.url.path == "/v1/messages" and lost < 2:
            lost += 1
            return Dropped()
        return response

    faults.on_response = lose
    pilot = {"size": 10, "max_error_rate": 1, "max_truncated_rate": 1}
    pipeline = make_pipeline()
    run(pipeline, a_job(tmp_path, 100, pilot=pilot), PARTITION)
    sample = submissions_of(pipeline)[0]
    assert lost == 2
    assert sample.unproven_usd is not None
    assert sample.cost_usd is not None
    assert sample.cost_usd < sim.books.realtime_cost_usd < sample.cost_usd + sample.unproven_usd


def test_two_jobs_under_one_ceiling_of_the_account(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """Both at once, each in a thread with a ledger connection of its own."""
    specs = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        specs.append(a_job(folder, 40, name=name, prompt={"user": name + ": {text}"}))
    ended: list[str] = []

    def submit(spec: JobSpec) -> None:
        try:
            run(make_pipeline(max_usd_per_month="0.004"), spec, PARTITION)
        except GateClosedError as error:
            ended.append(str(error))

    together(*[partial(submit, spec) for spec in specs])
    assert len(ended) == 2
    assert all("BATCH_PIPELINE_MAX_USD_PER_MONTH" in said for said in ended)
    assert Decimal(0) < spent(sim) <= Decimal("0.004")
    assert 0 < sim.books.accepted_requests < 80
