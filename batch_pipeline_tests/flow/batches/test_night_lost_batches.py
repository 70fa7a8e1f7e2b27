"""A simulator that was restarted has forgotten its batches: the night is not stuck for that."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline.flow import steps as stations
from batch_pipeline.flow.run import run
from batch_pipeline.ledger.submissions import State
from batch_pipeline.simulator import Faults, Simulator, running_simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    RealApi,
    documents,
    job,
    results,
    statuses,
    submissions_of,
    write_rows,
)

SHORT = {"reconcile_seconds": 0.01}


@pytest.mark.parametrize("had_ended", [False, True])
def test_what_a_restarted_simulator_forgot_goes_out_again(
    sim: Simulator,
    make_pipeline: MakePipeline,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    had_ended: bool,
) -> None:
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(12)), limits={"max_requests_per_batch": 4}
    )
    sim.hold()
    pipeline = make_pipeline()
    state = run(pipeline, spec, PARTITION, wait=False)
    assert state.in_flight == 12
    if had_ended:
        sim.release()
        stations.poll_account(pipeline, state.night.account)
        assert stations.progress(pipeline, state.night).to_collect == 12

    with running_simulator(turnaround=0.0) as restarted:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", restarted.url)
        # Not while the API may only be late in showing a new batch.
        patient = make_pipeline(reconcile_seconds=600)
        assert run(patient, spec, PARTITION, wait=False).batches == 3
        assert restarted.books.batches_created == 0

        again = make_pipeline(**SHORT)
        state = run(again, spec, PARTITION)
    assert state.statuses == {"succeeded": 12}
    assert (state.batches, state.batches_ended) == (3, 3)
    assert statuses(results(again, spec)) == {"succeeded": 12}
    assert caplog.text.count("lost in a restart: its 4 requests go out again") == 3
    states = [submission.state for submission in submissions_of(again)]
    assert states == [State.ABSENT] * 3 + [State.COLLECTED] * 3


def test_a_batch_that_is_listed_is_not_lost(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(4)))
    pipeline = make_pipeline(**SHORT)
    sim.hold()
    night = run(pipeline, spec, PARTITION, wait=False).night
    sim.set_faults(Faults.of(retrieve={"not_found_after_end": {"calls": 3}}))
    sim.release()
    for _ in range(3):
        stations.poll_account(pipeline, night.account)
        assert [s.state for s in submissions_of(pipeline)] == [State.ACCEPTED]
    assert run(pipeline, spec, PARTITION).statuses == {"succeeded": 4}
    assert sim.books.batches_created == 1


def test_no_batch_of_a_real_account_is_ever_given_back(
    sim: Simulator,
    make_pipeline: MakePipeline,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(4)))
    sim.hold()
    run(make_pipeline(api=RealApi()), spec, PARTITION, wait=False)
    with running_simulator(turnaround=0.0) as other:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", other.url)
        state = run(make_pipeline(api=RealApi(), **SHORT), spec, PARTITION, wait=False)
        assert other.books.batches_created == 0
    assert (state.in_flight, state.waiting) == (4, 0)
