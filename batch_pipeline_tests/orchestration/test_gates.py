"""The circuit breaker, approvals and warnings under Dagster."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from batch_pipeline.ledger import nights as ledger_nights
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.orchestration.names import APPROVE_TAG, Kind, asset_key
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.orchestration.nightly import Nightly, failure_of

MakeNightly = Callable[..., Nightly]
SUBMITTED = [asset_key("review", "submitted_batches")]
INVALID = {"contains": "Document", "outcome": "invalid_request_error", "message": "no such field"}


def test_an_open_breaker_stops_a_night_until_a_person_approves(
    nightly: MakeNightly, nights: list[str], sim: Simulator
) -> None:
    job = nightly(
        limits={"max_requests_per_batch": 10, "max_queued_requests": 10},
        alerts={"after_items": 10, "error_rate": 0.5},
    )
    sim.set_faults(Faults.of(requests={"matching": [INVALID]}))
    night = nights[0]
    assert job.launch(night).success
    tick = job.tick()
    while not tick.run_requests:
        tick = job.tick()
    job.follow([request for request in tick.run_requests if request.job_name == "review_collect"])
    tick = job.tick()
    assert tick.run_requests == []
    assert "the circuit breaker is open: 10 of 14 first attempts" in tick.skip_message
    result = job.launch(night, assets=SUBMITTED)
    assert "the circuit breaker is open" in failure_of(result)
    assert ": no such field" in failure_of(result)
    assert f"{APPROVE_TAG}` = `breaker: why`" in failure_of(result)
    assert sim.books.batches_created == 1

    sim.set_faults(Faults())
    tags = {APPROVE_TAG: "breaker: the field is there now", "user": "someone"}
    assert job.launch(night, assets=SUBMITTED, tags=tags).success
    assert sim.books.batches_created == 2


def test_an_approved_pilot_lets_the_night_go(
    nightly: MakeNightly, nights: list[str], environment: Path
) -> None:
    job = nightly(
        max_tokens=1,
        pilot={"size": 4, "max_truncated_rate": 0.0},
        alerts={"error_rate": 1.0},
    )
    night = nights[0]
    closed = job.launch(night)
    assert f"{APPROVE_TAG}` = `pilot: why`" in failure_of(closed)
    for value, said in (
        ("pilot", "needs a reason"),
        ("budget: more", "written as `pilot: reason` or `breaker: reason`"),
        ("breaker: why not", "is not closed"),
    ):
        assert said in failure_of(job.launch(night, tags={APPROVE_TAG: value}))
    result = job.launch(night, tags={APPROVE_TAG: "pilot: short answers will do"})
    assert result.success
    summary = job.metadata("pilot_sample", night)["summary"]
    assert summary.startswith("gate closed (")
    assert f"overruled by dagster run {result.run_id}: short answers will do" in summary
    key = dg.AssetCheckKey(asset_key("review", "pilot_sample"), "pilot_gate")
    check, *_ = job.instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert check.evaluation is not None
    assert not check.evaluation.passed
    # The same run executed again finds its approval given.
    assert job.launch(night, tags={APPROVE_TAG: "pilot: short answers will do"}).success
    assert job.materialized("submitted_batches", night)
    ledger = Ledger(f"sqlite:///{environment}/ledger.sqlite")
    with ledger.read() as connection:
        assert len(connection.execute(tables.approval.select()).all()) == 1
    ledger.close()


def test_a_pilot_to_be_reviewed_fails_with_its_page_until_it_is_approved(
    nightly: MakeNightly, nights: list[str], environment: Path
) -> None:
    job, night = nightly(pilot={"size": 4, "review": "required"}), nights[0]
    closed = failure_of(job.launch(night))
    page = environment / "review" / "reports" / f"{night}.pilot.html"
    assert "pilot.review is required" in closed
    assert str(page) in closed
    assert page.exists()
    key = dg.AssetCheckKey(asset_key("review", "pilot_sample"), "pilot_gate")
    check, *_ = job.instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert check.evaluation is not None
    assert not check.evaluation.passed
    assert check.evaluation.metadata["pilot_page"].value == str(page)
    assert "waits for a person's review" in str(check.evaluation.metadata["verdict"].value)
    assert not job.tick().run_requests
    assert job.launch(night, tags={APPROVE_TAG: "pilot: they read well"}).success
    metadata = job.metadata("pilot_sample", night)
    assert metadata["pilot_page"] == str(page)
    assert metadata["summary"].startswith("gate open; approved by dagster run ")
    assert "4 tried, 0 failed, the night would cost $" in metadata["summary"]
    check, *_ = job.instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert check.evaluation is not None
    assert check.evaluation.passed
    assert job.materialized("submitted_batches", night)


def test_a_night_waits_under_its_ceiling_until_it_is_raised(
    nightly: MakeNightly, nights: list[str], sim: Simulator
) -> None:
    pilot = {"size": 4, "via": "realtime"}
    job, night = nightly(pilot=pilot, budget={"max_usd_per_month": 0.01}), nights[0]
    assert job.launch(night).success
    said = "budget.max_usd_per_month"
    assert said in job.metadata("pilot_sample", night)["summary"]
    assert "40 requests wait" in job.metadata("submitted_batches", night)["waiting"]
    tick = job.tick()
    assert not tick.run_requests
    assert f"{said} ($0.0100) has no room" in tick.skip_message
    assert said in str(job.observations[-1].metadata["waiting"].value)
    assert sim.books.accepted_requests == 0

    raised = nightly(pilot=pilot, budget={"max_usd_per_month": 100})
    raised.follow(raised.tick().run_requests)
    assert raised.metadata("submitted_batches", night)["waiting"] == "nothing waits"


def test_an_approval_on_a_run_that_sends_nothing_is_refused(
    nightly: MakeNightly, nights: list[str]
) -> None:
    result = nightly().launch(nights[0], kind=Kind.COLLECT, tags={APPROVE_TAG: "pilot: why"})
    assert "give it to review_submit" in failure_of(result)


def test_a_warning_is_shown_and_logged_once(
    nightly: MakeNightly,
    nights: list[str],
    environment: Path,
    sim: Simulator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = nightly()
    sim.hold()
    assert job.launch(nights[0]).success
    assert job.metadata("submitted_batches", nights[0])["warnings"] == "none"
    job.tick()
    ledger = Ledger(f"sqlite:///{environment}/ledger.sqlite")
    with ledger.write() as connection:
        [night] = ledger_nights.list_nights(connection, job="review")
        accounts.pause_account(connection, night.owner, "pay first")
    ledger.close()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            job.tick()
    assert caplog.text.count("submission is paused for account simulator: pay first") == 1
    assert len(job.observations) == 2
    assert "pay first" in str(job.observations[-1].metadata["warnings"].value)
