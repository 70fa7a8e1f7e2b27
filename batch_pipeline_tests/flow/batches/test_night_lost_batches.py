"""A batch that the API does not show is not given up: it was accepted, and may be billed."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline.flow import steps
from batch_pipeline.flow.run import run
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.simulator import Faults, Simulator, running_simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import PARTITION, documents, job, submissions_of, write_rows

SHORT = {"reconcile_seconds": 0.01}


def test_a_night_goes_on_after_a_restart_of_its_simulator(
    make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "in.jsonl", documents(12))
    spec = job(rows, limits={"max_requests_per_batch": 4})
    state_dir = tmp_path / "simulator"
    with running_simulator(turnaround=100.0, state_dir=state_dir) as first:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", first.url)
        assert run(make_pipeline(), spec, PARTITION, wait=False).in_flight == 12
    with running_simulator(turnaround=0.0, state_dir=state_dir) as second:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", second.url)
        state = run(make_pipeline(**SHORT), spec, PARTITION)
        assert second.books.batches_created == 3
    assert state.statuses == {"succeeded": 12}


def test_a_batch_that_answers_404_after_its_end_is_asked_for_again(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(4)))
    pipeline = make_pipeline(**SHORT)
    sim.hold()
    night = run(pipeline, spec, PARTITION, wait=False).night
    sim.set_faults(Faults.of(retrieve={"not_found_after_end": {"calls": 3}}))
    sim.release()
    for _ in range(3):
        steps.poll_account(pipeline, night.owner)
        assert [s.state for s in submissions_of(pipeline)] == [State.ACCEPTED]
    assert run(pipeline, spec, PARTITION).statuses == {"succeeded": 4}
    assert sim.books.batches_created == 1


def test_a_batch_that_the_api_does_not_know_is_not_sent_again(
    sim: Simulator, make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(4)))
    sim.hold()
    run(make_pipeline(), spec, PARTITION, wait=False)
    with running_simulator(turnaround=0.0) as other:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", other.url)
        state = run(make_pipeline(**SHORT), spec, PARTITION, wait=False)
        assert other.books.batches_created == 0
    assert (state.in_flight, state.waiting) == (4, 0)
