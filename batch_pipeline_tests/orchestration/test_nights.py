"""Nights from their input to their report, against a simulator over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pandas as pd

from batch_pipeline.flow import paths, run
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger import nights as ledger_nights
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.orchestration.names import Kind, asset_key
from batch_pipeline.settings import Settings
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.orchestration.conftest import MakeSpec
from batch_pipeline_tests.orchestration.nightly import Nightly, failure_of
from batch_pipeline_tests.support import Faults, error

MakeNightly = Callable[..., Nightly]


def requested(requests: list[dg.RunRequest]) -> list[tuple[str | None, str | None, set[str]]]:
    """Job, partition and names of the assets of each request."""
    return [
        (
            request.job_name,
            request.partition_key,
            {key.path[-1] for key in request.asset_selection or ()},
        )
        for request in requests
    ]


def test_nights_go_from_the_input_to_the_report_while_no_run_waits_and_the_ledger_is_one_file(
    nightly: MakeNightly, nights: list[str], environment: Path
) -> None:
    job, two = nightly(), nights[:2]

    def assert_one_file() -> None:
        assert [file.name for file in environment.glob("ledger.sqlite*")] == ["ledger.sqlite"]

    for night in two:
        result = job.launch(night)
        assert result.success
        assert_one_file()
        assert job.materialized("submitted_batches", night)
        assert not job.materialized("collected_results", night)
    requests = job.tick().run_requests
    assert_one_file()
    job.follow(requests)
    assert_one_file()
    job.run_to_the_end(*two)
    assert_one_file()
    for night in two:
        rows = pd.read_parquet(environment / paths.results("review", night))
        assert sorted(rows["id"]) == sorted(f"{night} {number}" for number in range(40))
        assert set(rows["simulated"]) == {True}
        report = json.loads((environment / paths.report("review", night, ".json")).read_bytes())
        assert report["complete"]
        results = job.metadata("collected_results", night)
        assert results["dagster/partition_row_count"] == 40
        assert results["path"] == str(environment / paths.results("review", night))
        cost = job.metadata("cost_report", night)
        assert cost["cost_usd"] > 0
        assert cost["simulated"] is True
        assert job.materialized("dead_letter", night)
    tick = job.tick()
    assert (tick.run_requests, tick.skip_message) == ([], "no night is under way")


def test_a_tick_observes_what_changed_and_nothing_else_and_a_poll_that_fails_is_a_reason(
    nightly: MakeNightly, nights: list[str], sim: Simulator, faults: Faults
) -> None:
    job = nightly()
    sim.hold()
    assert job.launch(nights[0]).success
    tick = job.tick()
    assert tick.run_requests == []
    [seen] = job.observations
    assert seen.asset_key == asset_key("review", "submitted_batches")
    assert seen.partition == nights[0]
    assert "0 of 2 batches ended" in str(seen.description)
    assert seen.metadata["requests_in_flight"].value == 36
    assert f"{nights[0]}: 10% complete: 4 of 40 items" in tick.skip_message
    assert job.tick().skip_message == tick.skip_message
    assert len(job.observations) == 1

    cursor = job.cursor
    assert cursor is not None
    faults.on_request = lambda _: error(400, "invalid_request_error", "no polls today")
    tick = job.tick()
    assert "the API cannot be polled now: HTTP 400" in tick.skip_message
    assert "no polls today" in tick.skip_message
    assert f"{nights[0]}: 10% complete" in tick.skip_message
    assert (job.cursor, tick.run_requests) == (cursor, [])

    faults.on_request = lambda _: None
    sim.release()
    job.run_to_the_end(nights[0])
    assert len(job.observations) > 1
    stored = job.instance.fetch_observations(asset_key("review", "submitted_batches"), limit=50)
    newest = stored.records[0].asset_observation
    assert newest is not None
    assert str(newest.description).startswith("finished: 100% complete: 40 of 40 items")


def test_results_of_a_night_that_nobody_began_are_skipped(
    nightly: MakeNightly, nights: list[str]
) -> None:
    assert nightly().launch(nights[0], kind=Kind.COLLECT).success


def test_a_night_run_again_buys_nothing_and_one_of_its_results_alone_can_be_materialized(
    nightly: MakeNightly, nights: list[str], sim: Simulator
) -> None:
    job = nightly()
    assert job.launch(nights[0]).success
    job.run_to_the_end(nights[0])
    report = asset_key("review", "cost_report")
    result = job.launch(nights[0], kind=Kind.COLLECT, assets=[report])
    assert [event.asset_key for event in result.get_asset_materialization_events()] == [report]
    bought = sim.books.batches_created
    again = job.launch(nights[0])
    assert again.success
    assert sim.books.batches_created == bought
    assert job.metadata("submitted_batches", nights[0])["waiting"] == "nothing waits"
    assert job.tick().run_requests == []


def test_a_night_that_the_command_line_completed_is_shown_once_it_is_launched(
    nightly: MakeNightly, make_spec: MakeSpec, nights: list[str], sim: Simulator
) -> None:
    run.run(Pipeline(Settings.from_environment()), make_spec(), nights[0])
    bought = sim.books.batches_created
    job = nightly()
    # Nobody has asked Dagster for it so far.
    assert job.tick().run_requests == []
    assert job.launch(nights[0]).success
    job.run_to_the_end(nights[0])
    assert job.metadata("cost_report", nights[0])
    assert sim.books.batches_created == bought
    assert job.tick().run_requests == []


def test_a_closed_gate_stops_the_night_and_shows_as_a_failed_check(
    nightly: MakeNightly, nights: list[str]
) -> None:
    job = nightly(max_tokens=1, pilot={"size": 4, "max_truncated_rate": 0.0})
    result = job.launch(nights[0])
    assert not result.success
    assert "the pilot's gate is closed" in failure_of(result)
    tried = "raise max_tokens (4 requests were tried, nothing else was sent)"
    assert f"{tried}. 36 requests are held back" in failure_of(result)
    assert job.materialized("input_dataset", nights[0])
    assert not job.materialized("pilot_sample", nights[0])
    assert not job.materialized("submitted_batches", nights[0])
    key = dg.AssetCheckKey(asset_key("review", "pilot_sample"), "pilot_gate")
    check, *_ = job.instance.event_log_storage.get_asset_check_execution_history(key, limit=5)
    evaluation = check.evaluation
    assert evaluation is not None
    assert not evaluation.passed
    assert evaluation.metadata["partition"].value == nights[0]
    tick = job.tick()
    assert tick.run_requests == []
    assert "the pilot's gate is closed" in tick.skip_message
    # A run of the submission alone has no check that would stop it.
    alone = job.launch(nights[0], assets=[asset_key("review", "submitted_batches")])
    assert "the pilot's gate is closed" in failure_of(alone)


def test_the_check_alone_says_that_it_needs_a_night(nightly: MakeNightly) -> None:
    job = nightly()
    gate = dg.AssetCheckKey(asset_key("review", "pilot_sample"), "pilot_gate")
    check = dg.define_asset_job("alone", dg.AssetSelection.checks(gate))
    alone = dg.Definitions.merge(job.definitions, dg.Definitions(jobs=[check]))
    result = alone.resolve_job_def("alone").execute_in_process(
        instance=job.instance, raise_on_error=False
    )
    assert "Materialize pilot_sample of a partition instead" in failure_of(result)


def test_a_pilot_by_batch_goes_on_by_itself(
    nightly: MakeNightly, nights: list[str], sim: Simulator
) -> None:
    job = nightly(pilot={"size": 4, "via": "batch", "max_truncated_rate": 1.0})
    sim.hold()
    assert job.launch(nights[0]).success
    pilot = job.metadata("pilot_sample", nights[0])
    assert pilot["summary"] == (
        "no verdict yet: 4 requests wait: the pilot's batch is being processed"
    )
    assert "36 requests wait" in job.metadata("submitted_batches", nights[0])["summary"]
    assert job.tick().run_requests == []
    sim.release()
    tick = job.tick()
    while not tick.run_requests:
        tick = job.tick()
    assert requested(tick.run_requests) == [
        ("review_submit", nights[0], {"pilot_sample", "submitted_batches"})
    ]
    job.follow(tick.run_requests)
    assert job.metadata("pilot_sample", nights[0])["summary"].startswith("gate open; ")


def test_what_waits_for_room_goes_when_there_is_room(
    nightly: MakeNightly, nights: list[str], sim: Simulator
) -> None:
    job = nightly(limits={"max_requests_per_batch": 20, "max_queued_requests": 20})
    sim.hold()
    assert job.launch(nights[0]).success
    assert (
        "16 requests wait: the job's share"
        in job.metadata("submitted_batches", nights[0])["waiting"]
    )
    tick = job.tick()
    assert tick.run_requests == []
    assert "the job's share of the queue (20 requests) is in use" in tick.skip_message
    sim.release()
    tick = job.tick()
    while not tick.run_requests:
        tick = job.tick()
    assert sorted(requested(tick.run_requests)) == [
        ("review_collect", nights[0], {"collected_results", "dead_letter", "cost_report"}),
        ("review_submit", nights[0], {"submitted_batches"}),
    ]
    # Asked for and not yet run: the same tick once more asks under the same keys.
    keys = {request.run_key for request in tick.run_requests}
    assert {request.run_key for request in job.tick().run_requests} == keys
    job.follow([request for request in tick.run_requests if request.job_name == "review_submit"])
    assert job.metadata("submitted_batches", nights[0])["waiting"] == "nothing waits"


def says_that_its_submission_was_not_asked_for(job: Nightly) -> bool:
    tick = job.tick()
    assert tick.run_requests == []
    return "its submission has not been asked for" in tick.skip_message


def test_an_input_and_a_pilot_alone_send_nothing_more(
    nightly: MakeNightly, nights: list[str]
) -> None:
    job = nightly()
    alone = [asset_key("review", name) for name in ("input_dataset", "pilot_sample")]
    assert job.launch(nights[0], assets=alone).success
    assert says_that_its_submission_was_not_asked_for(job)


def test_an_input_alone_sends_nothing_and_a_submission_asked_for_without_a_pilot_gets_one(
    nightly: MakeNightly, nights: list[str]
) -> None:
    job = nightly()
    assert job.launch(nights[0], assets=[asset_key("review", "input_dataset")]).success
    assert says_that_its_submission_was_not_asked_for(job)
    assert job.launch(nights[0], assets=[asset_key("review", "submitted_batches")]).success
    assert (
        "the pilot has not been judged yet"
        in job.metadata("submitted_batches", nights[0])["waiting"]
    )
    job.follow(job.tick().run_requests)
    assert job.metadata("pilot_sample", nights[0])["summary"].startswith("gate open; ")


def test_submitting_without_an_input_says_what_to_do(
    nightly: MakeNightly, nights: list[str]
) -> None:
    result = nightly().launch(nights[0], assets=[asset_key("review", "submitted_batches")])
    assert "materialize input_dataset first" in failure_of(result)


def test_an_unreadable_input_fails_the_run_with_its_place(
    nightly: MakeNightly, nights: list[str], tmp_path: Path
) -> None:
    (tmp_path / "input" / nights[0] / "documents.jsonl").write_text("{}\nnot json", "utf-8")
    result = nightly().launch(nights[0])
    assert "documents.jsonl" in failure_of(result)


WHOLE = "the API refused a batch as a whole: HTTP 400: no"


def test_a_run_that_the_sensor_asked_for_does_not_lift_a_refusal(
    nightly: MakeNightly, nights: list[str], environment: Path, sim: Simulator
) -> None:
    job = nightly(limits={"max_requests_per_batch": 20, "max_queued_requests": 20})
    sim.hold()
    assert job.launch(nights[0]).success
    ledger = Ledger(f"sqlite:///{environment}/ledger.sqlite")
    with ledger.write() as connection:
        [night] = ledger_nights.list_nights(connection, job="review")
        ledger_nights.update_night(connection, night.id, refused=WHOLE)
    submitted = [asset_key("review", "submitted_batches")]
    tags = {"batch_pipeline/follow_up": "true"}
    assert job.launch(nights[0], assets=submitted, tags=tags).success
    assert WHOLE in job.metadata("submitted_batches", nights[0])["waiting"]
    assert WHOLE in job.tick().skip_message
    assert job.launch(nights[0], assets=submitted).success
    assert "refused" not in job.metadata("submitted_batches", nights[0])["waiting"]
    ledger.close()


def test_a_run_that_names_no_night_says_so(nightly: MakeNightly) -> None:
    failed = nightly().launch(None)
    assert not failed.success
    assert "Which night is meant? Materialize its assets of a partition" in failure_of(failed)
