"""A night in real time under Dagster: its run works through it, may be stopped, and goes on."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.flow import paths
from batch_pipeline.orchestration.names import asset_key
from batch_pipeline.orchestration.steps import submit_steps
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.orchestration.nightly import Nightly
from batch_pipeline_tests.support import Faults

MakeNightly = Callable[..., Nightly]


def test_its_run_works_through_it_and_observes_itself(
    nightly: MakeNightly,
    nights: list[str],
    sim: Simulator,
    environment: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(submit_steps, "OBSERVE_SECONDS", 0.0)
    sim.set_latency(0.1)
    job = nightly(mode="realtime", realtime={"concurrency": 2})
    assert job.launch(nights[0]).success
    assert (sim.books.batches_created, sim.books.billed_requests) == (0, 40)
    stored = job.instance.fetch_observations(asset_key("review", "submitted_batches"), limit=50)
    seen = [record.asset_observation for record in stored.records]
    assert len([found for found in seen if found]) > 1

    tick = job.tick()
    assert [request.job_name for request in tick.run_requests] == ["review_collect"]
    job.follow(tick.run_requests)
    assert job.materialized("collected_results", nights[0])
    rows = pd.read_parquet(environment / paths.results("review", nights[0]))
    assert set(rows["mode"]) == {"realtime"}
    assert len(rows) == 40


def test_a_run_that_is_terminated_waits_for_its_calls_and_the_next_goes_on(
    nightly: MakeNightly, nights: list[str], sim: Simulator, faults: Faults
) -> None:
    sim.set_latency(0.05)
    seen = 0

    def terminate(request: Request) -> Response | None:
        nonlocal seen
        seen += request.url.path == "/v1/messages"
        if seen == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return None

    faults.on_request = terminate
    job = nightly(mode="realtime", realtime={"concurrency": 4})
    result = job.launch(nights[0])
    assert not result.success
    assert "DagsterExecutionInterruptedError" in str(result.all_events)
    answered = sim.books.billed_requests
    assert 20 <= answered < 40

    faults.on_request = lambda _: None
    assert job.launch(nights[0]).success
    assert sim.books.billed_requests == 40
    assert sim.books.billed_more_than_once == []


def test_after_a_termination_nothing_is_sent_until_somebody_launches_it_again(
    nightly: MakeNightly, nights: list[str], sim: Simulator, faults: Faults
) -> None:
    sim.set_latency(0.05)
    job = nightly(mode="realtime", realtime={"concurrency": 4})
    seen = 0

    def terminate(request: Request) -> Response | None:
        nonlocal seen
        seen += request.url.path == "/v1/messages"
        if seen == 20:
            [run] = job.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
            job.instance.report_run_canceling(run)
            os.kill(os.getpid(), signal.SIGINT)
        return None

    faults.on_request = terminate
    # It is raised or recorded, depending on where the run was.
    with contextlib.suppress(DagsterExecutionInterruptedError):
        job.launch(nights[0])
    [run] = job.instance.get_runs()
    assert run.status is dg.DagsterRunStatus.CANCELED
    faults.on_request = lambda _: None
    answered = sim.books.billed_requests

    tick = job.tick()
    assert not [r for r in tick.run_requests if r.job_name == "review_submit"]
    job.follow(tick.run_requests)
    tick = job.tick()
    assert not tick.run_requests
    assert "its run was terminated; launch it again" in tick.skip_message
    assert "its run was terminated; launch it again" in str(job.observations[-1].metadata)
    assert sim.books.billed_requests == answered < 40

    assert job.launch(nights[0]).success
    assert sim.books.billed_requests == 40
