"""Runs whose worker died, and what a tick does about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterEvent, DagsterEventType

from batch_pipeline.orchestration.names import (
    APPROVE_TAG,
    FAILED_TAG,
    OUTAGE_TAG,
    PARTITION_TAG,
    REPEATS_TAG,
    USER_TAG,
    Kind,
    asset_key,
    dagster_job,
)
from batch_pipeline.orchestration.sensor import lost_runs
from batch_pipeline.orchestration.sensor.lost_runs import (
    FAILURE_REASON_TAG,
    MOST_REPEATS,
    Launched,
    dead,
    repeats,
)
from batch_pipeline.orchestration.sensor.run_requests import (
    FIRST_LOST_REST_SECONDS,
    LONGEST_REST_SECONDS,
    lost_rest,
)
from batch_pipeline_tests.orchestration.nightly import Nightly

MakeNightly = Callable[..., Nightly]
ASSETS = ("input_dataset", "pilot_sample", "submitted_batches")
REST = FIRST_LOST_REST_SECONDS


def launched(run: str, at: float, *, lost: bool, root: str = "first") -> Launched:
    """A run that ended a second after it was made."""
    return Launched("2026-11-01", run, root, at, lost, at + 1, ASSETS, {})


@pytest.mark.parametrize(
    ("runs", "at", "repeated"),
    [
        ([], 100, []),
        ([launched("first", 0, lost=True)], REST, []),
        ([launched("first", 0, lost=True)], 1 + REST, [("first", 1)]),
        ([launched("first", 0, lost=False)], 1_000, []),
        # Dagster's own retry, or a person's: whatever came last counts.
        ([launched("first", 0, lost=True), launched("again", 5, lost=False)], 1_000, []),
        ([launched("again", 5, lost=False), launched("first", 0, lost=True)], 1_000, []),
        ([launched("first", 0, lost=True), launched("again", 5, lost=True)], 6 + REST, []),
        (
            [launched("first", 0, lost=True), launched("again", 5, lost=True)],
            6 + 2 * REST,
            [("again", 2)],
        ),
        # Launched anew by a person: counted from there.
        (
            [launched("first", 0, lost=True), launched("new", 5, lost=True, root="new")],
            6 + REST,
            [("new", 1)],
        ),
    ],
)
def test_a_lost_run_is_repeated_unless_another_took_its_place(
    runs: list[Launched], at: float, repeated: list[tuple[str, int]]
) -> None:
    found = [(repeat.run.run_id, repeat.number) for repeat in repeats(runs, at)]
    assert found == repeated


def test_what_dies_again_and_again_is_left_to_a_person() -> None:
    runs = [launched(str(number), number, lost=True) for number in range(MOST_REPEATS)]
    assert [repeat.number for repeat in repeats(runs, 10_000)] == [MOST_REPEATS]
    assert repeats([*runs, launched("last", MOST_REPEATS, lost=True)], 10_000) == []


def test_the_rest_between_lost_runs_grows_to_a_limit() -> None:
    rests = [lost_rest(runs) for runs in range(1, 100)]
    assert rests[:3] == [REST, 2 * REST, 4 * REST]
    assert rests[-1] == LONGEST_REST_SECONDS


@pytest.mark.parametrize(
    ("signs", "at", "found"),
    [
        ({}, 105, []),
        ({}, 111, ["run"]),
        ({"run": 130.0}, 129, []),
        ({"run": 130.0}, 131, ["run"]),
        ({"run": 90.0}, 105, []),
        ({"another": 200.0}, 111, ["run"]),
    ],
)
def test_a_run_is_dead_without_a_sign_of_life(
    signs: dict[str, float], at: float, found: list[str]
) -> None:
    assert dead({"run": 100.0}, signs, lease_seconds=10, at=at) == found


LEASE, GAP = 10.0, 10.0 * lost_runs.GAP_LEASES
BEGUN = 1_000.0 - LEASE - lost_runs.IMPORT_SECONDS


@pytest.mark.parametrize(
    ("executor", "begun", "silent_for", "lost"),
    [
        ("in_process", [], 1.0, True),
        # A step that was begun gives signs once the flow is imported.
        ("celery", [BEGUN - 1], 1.0, True),
        ("celery", [BEGUN + 1], 1.0, False),
        ("multiprocess", [BEGUN - 100, BEGUN + 1], 1.0, False),
        # No step is at work: the next one starts at once, or waits for a worker.
        ("multiprocess", [], GAP - 1, False),
        ("multiprocess", [], GAP + 1, True),
        ("celery", [], GAP + 1, False),
        ("k8s", [], lost_runs.LONGEST_WAIT_SECONDS + 1, True),
    ],
)
def test_a_run_that_waits_for_a_worker_has_not_lost_one(
    executor: str, begun: list[float], silent_for: float, lost: bool
) -> None:
    assert lost_runs.lost_a_worker(executor, begun, silent_for, LEASE, at=1_000.0) is lost


@pytest.mark.parametrize(
    ("tags", "executor", "lost"),
    [
        ({}, "in_process", True),
        ({FAILURE_REASON_TAG: "RUN_EXCEPTION"}, "celery", True),
        ({FAILURE_REASON_TAG: "JOB_INITIALIZATION_FAILURE"}, "celery", False),
        # A step's process was killed, or the step has said why it failed.
        ({FAILURE_REASON_TAG: "STEP_FAILURE"}, "multiprocess", True),
        ({FAILURE_REASON_TAG: "STEP_FAILURE", FAILED_TAG: "any"}, "multiprocess", False),
        ({FAILURE_REASON_TAG: "STEP_FAILURE"}, "in_process", False),
        # Some night of a range had failed for a reason before the worker died.
        ({FAILURE_REASON_TAG: "RUN_EXCEPTION", FAILED_TAG: "any"}, "celery", True),
        (
            {FAILURE_REASON_TAG: "STEP_FAILURE", FAILED_TAG: "any", OUTAGE_TAG: "true"},
            "in_process",
            True,
        ),
    ],
)
def test_a_step_that_failed_for_a_reason_is_not_a_lost_worker(
    tags: dict[str, str],
    executor: str,
    lost: bool,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lost_runs, "executor_of", lambda *_: executor)
    run = dg.DagsterRun(job_name="any", status=dg.DagsterRunStatus.FAILURE, tags=tags)
    assert lost_runs.is_lost(instance, run) is lost


def test_a_night_whose_run_died_before_it_was_in_the_ledger_is_asked_for_again(
    nightly: MakeNightly, nights: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = nightly()
    run = _begun(job, nights[0])
    job.instance.report_run_failed(run)
    assert job.tick().run_requests == [], "Dagster itself may retry it in this moment"
    monkeypatch.setattr(lost_runs, "lost_rest", lambda _: 0.0)
    [request] = job.tick().run_requests
    assert (request.job_name, request.partition_key) == ("review_submit", nights[0])
    assert request.tags[REPEATS_TAG] == run.run_id
    [result] = job.follow([request])
    assert result.success
    assert job.materialized("submitted_batches", nights[0])
    job.run_to_the_end(nights[0])


def test_what_a_person_gave_along_holds_for_the_run_in_its_place(
    nightly: MakeNightly, nights: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_runs, "lost_rest", lambda _: 0.0)
    job = nightly()
    given = {APPROVE_TAG: "pilot: known", USER_TAG: "eve"}
    job.instance.report_run_failed(_begun(job, nights[0], given))
    [request] = job.tick().run_requests
    assert request.tags.items() >= given.items()


def test_a_run_that_was_executed_again_from_a_failure_is_repeated_from_there(
    nightly: MakeNightly, nights: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The input is not taken again: that is for a person to ask for."""
    monkeypatch.setattr(lost_runs, "lost_rest", lambda _: 0.0)
    job = nightly()
    begun = _begun(job, nights[0])
    again = dg.DagsterRun(
        begun.job_name,
        tags=begun.tags,
        root_run_id=begun.run_id,
        parent_run_id=begun.run_id,
        step_keys_to_execute=["review__submitted_batches"],
    )
    job.instance.report_run_failed(begun)
    job.instance.report_run_failed(job.instance.add_run(again))
    [request] = job.tick().run_requests
    assert request.asset_selection == [asset_key("review", "submitted_batches")]


def test_a_run_that_died_unnoticed_is_reported_and_asked_for_again(
    nightly: MakeNightly,
    nights: list[str],
    environment: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BATCH_PIPELINE_LEASE_SECONDS", "0.2")
    monkeypatch.setattr(lost_runs, "IMPORT_SECONDS", 0.0)
    monkeypatch.setattr(lost_runs, "lost_rest", lambda _: 0.0)
    job = nightly()
    run = _begun(job, nights[0])
    event = DagsterEvent(DagsterEventType.RUN_START.value, run.job_name)
    job.instance.report_dagster_event(event, run.run_id)
    requests: list[dg.RunRequest] = []
    while not requests:
        requests = job.tick().run_requests
    failed = job.instance.get_run_by_id(run.run_id)
    assert failed is not None
    assert failed.status is dg.DagsterRunStatus.FAILURE
    assert [request.tags[REPEATS_TAG] for request in requests] == [run.run_id]


def test_a_run_that_failed_for_a_reason_is_not_asked_for_again(
    nightly: MakeNightly, nights: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_runs, "lost_rest", lambda _: 0.0)
    job = nightly(input={"path": str(tmp_path / "nowhere" / "{partition}" / "*.jsonl")})
    failed = job.launch(nights[0])
    assert not failed.success
    run = job.instance.get_run_by_id(failed.run_id)
    assert run is not None
    assert run.tags[FAILED_TAG] == "review__input_dataset"
    tick = job.tick()
    assert not tick.run_requests
    assert "no file for this night" in tick.skip_message


def _begun(job: Nightly, night: str, tags: dict[str, str] | None = None) -> dg.DagsterRun:
    """A run of the submission that a worker has not got to yet."""
    definition = job.definitions.resolve_job_def(dagster_job(job.name, Kind.SUBMIT))
    given = {**definition.tags, PARTITION_TAG: night, **(tags or {})}
    return job.instance.create_run_for_job(definition, tags=given)
