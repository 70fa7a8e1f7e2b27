"""Processes that die at any moment, and processes that work on one night at the same time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from batch_pipeline.errors import LedgerError
from batch_pipeline.flow.run import run
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.flow.nights.night_processes import Plan
from batch_pipeline_tests.support import (
    PARTITION,
    accepted_twice,
    by_id,
    documents,
    job,
    results,
    statuses,
    together,
    write_rows,
)

ROOT = Path(__file__).parents[3]
ITEMS = 24


CarryOut = Callable[[Plan], dict[str, Any]]


@pytest.fixture(scope="module")
def carry_out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CarryOut]:
    """Carries plans out in processes; what those wrote is shown where one of them failed."""
    errors = tmp_path_factory.mktemp("processes") / "stderr.txt"
    command = [sys.executable, "-m", "batch_pipeline_tests.flow.nights.night_processes"]
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
        ) as program,
    ):

        def carry_out(plan: Plan) -> dict[str, Any]:
            assert program.stdin is not None
            assert program.stdout is not None
            program.stdin.write(orjson.dumps(plan) + b"\n")
            program.stdin.flush()
            outcome: dict[str, Any] = orjson.loads(program.stdout.readline())
            assert not outcome["code"], errors.read_text()
            return outcome

        yield carry_out
        # It holds nothing; an interpreter with so much loaded takes seconds to put itself away.
        program.kill()


def test_a_redrive_whose_processes_are_killed_goes_on(
    sim: Simulator, make_pipeline: MakePipeline, carry_out: CarryOut, home: Path, tmp_path: Path
) -> None:
    """While the folder is built, half replaced, replaced and not recorded, planned, sent."""
    refused = [{"contains": f"number {n} about", "outcome": "refusal"} for n in range(10)]
    sim.set_faults(Faults.of(requests={"matching": refused}))
    source = write_rows(tmp_path / "in.jsonl", documents(ITEMS))
    first = run(make_pipeline(), job(source, pilot={"size": 0, "max_error_rate": 1}), PARTITION)
    assert first.statuses == {"succeeded": ITEMS - 10, "refused": 10}
    sim.set_faults(Faults())
    points = (
        "batch_pipeline.flow.results.results_folder._write_rows",
        "batch_pipeline.flow.publishing._publish",
        "batch_pipeline.ledger.control.redrives.record",
        "batch_pipeline.ledger.snapshots.replace_snapshot",
        "batch_pipeline.flow.planning.plan.plan_all",
        "batch_pipeline.flow.batches.submission._record_acceptance",
        "batch_pipeline.flow.results.collection._record",
    )
    outcome = carry_out(Plan(sim.url, str(source), str(home), points))

    assert outcome["killed"] == len(points)
    assert sim.books.accepted_requests == ITEMS + 10
    assert sorted(accepted_twice(sim).values()) == [2] * 10
    rows = by_id(results(make_pipeline(), job(source)))
    assert set(rows) == {d["id"] for d in documents(ITEMS)}
    assert statuses(rows.values()) == {"succeeded": ITEMS}
    assert sum(row["cost_usd"] for row in rows.values()) == sim.books.batch_cost_usd


def test_two_pipelines_of_one_process_share_a_night(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """With a pilot in real time: the second waits for the first instead of asking as well."""
    sim.set_turnaround(0.1)
    source = write_rows(tmp_path / "in.jsonl", documents(ITEMS))
    spec = job(source, limits={"max_requests_per_batch": 7}, pilot={"size": 4, "max_error_rate": 1})

    def work() -> None:
        try:
            run(make_pipeline(), spec, PARTITION)
        except (
            LedgerError
        ):  # the two took the input at the same moment; the message says: run again
            run(make_pipeline(), spec, PARTITION)

    together(work, work)
    assert not accepted_twice(sim)
    assert statuses(by_id(results(make_pipeline(), spec)).values()) == {"succeeded": ITEMS}
    assert run(make_pipeline(), spec, PARTITION).total_cost_usd == (
        sim.books.batch_cost_usd + sim.books.realtime_cost_usd
    )
