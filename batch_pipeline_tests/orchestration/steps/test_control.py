"""What a person does to a night from Dagster's launchpad, and that it is recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import dagster as dg
import pytest

from batch_pipeline.ledger.admission.night_state import Kind, NightState
from batch_pipeline.ledger.control import actions
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.orchestration.checks import all_nights
from batch_pipeline.orchestration.checks.stopped_nights import StoppedNights
from batch_pipeline.orchestration.names import NO_NIGHT_IS_STOPPED, asset_key, control_job
from batch_pipeline.settings import Settings
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.orchestration.conftest import MakeSpec
from batch_pipeline_tests.orchestration.nightly import Nightly, failure_of

MakeNightly = Callable[..., Nightly]


def control(job: Nightly, action: dict[str, Any], **who: str) -> dg.ExecuteInProcessResult:
    config = {"ops": {f"{job.name}__control": {"config": {"action": action, **who}}}}
    return job.definitions.resolve_job_def(control_job(job.name)).execute_in_process(
        run_config=config, instance=job.instance, raise_on_error=False
    )


def recorded(partition: str) -> list[tuple[str, str, str]]:
    with Ledger(Settings.from_environment().ledger_url) as ledger, ledger.read() as connection:
        found = actions.of_night(connection, "review", partition)
    return [(action.kind, action.done_by, action.reason) for action in found]


def test_a_night_of_everything_is_cancelled_resumed_and_pruned(
    nightly: MakeNightly, nights: list[str], sim: Simulator
) -> None:
    job = nightly()
    night = nights[0]
    sim.hold()
    # "Materialize all" ends well, and says what follows by itself.
    assert job.launch_everything(night).success
    assert job.materialized("submitted_batches", night)
    for asset in ("collected_results", "dead_letter", "cost_report"):
        assert not job.materialized(asset, night)
    assert "Nothing is to be launched" in job.metadata("submitted_batches", night)["what_follows"]
    stored = job.instance.fetch_observations(asset_key("review", "collected_results"), limit=1)
    observation = stored.records[0].asset_observation
    assert observation is not None
    assert "review_batches" in str(observation.description)
    cancelled = control(job, {"cancel": {"partition": night, "reason": "wrong data"}}, by="Ada")
    assert cancelled.success
    sim.release()
    job.follow(job.tick().run_requests)
    assert not job.materialized("collected_results", night)
    assert control(job, {"resume": {"partition": night}}, by="Ben").success
    job.run_to_the_end(night)
    assert recorded(night) == [("cancel", "Ada", "wrong data"), ("resume", "Ben", "")]
    again = control(job, {"cancel": {"partition": night}}, by="Ada")
    assert "nothing to cancel" in failure_of(again)
    # Nothing is removed unless that is said.
    assert control(job, {"prune": {"before": nights[1]}}, by="Ada").success
    assert recorded(nights[1]) == []
    action = {"prune": {"before": nights[1], "dry_run": False, "reason": "old"}}
    assert control(job, action, by="Ada").success
    assert recorded(nights[1]) == [("prune", "Ada", "old")]


def test_a_closed_gate_is_approved_and_dead_letters_are_redriven(
    nightly: MakeNightly, nights: list[str]
) -> None:
    pilot = {"size": 4, "max_truncated_rate": 0.0}
    job = nightly(max_tokens=1, pilot=pilot, retry={"max_attempts": 1}, alerts={"error_rate": 1.0})
    night = nights[0]
    assert not job.launch(night).success
    assert job.tick().run_requests == []
    [stopped] = [check for check in job.checks if check.check_name == NO_NIGHT_IS_STOPPED]
    assert not stopped.passed
    assert night in str(stopped.metadata["verdict"].value)
    action = {"approve": {"partition": night, "gate": "pilot", "reason": "short is enough"}}
    assert control(job, action, by="Ada").success
    job.run_to_the_end(night)
    job.tick()
    assert job.checks[-1].passed
    assert recorded(night) == [("approve", "Ada", "short is enough")]
    assert job.metadata("dead_letter", night)["dagster/partition_row_count"] > 0
    wrong = control(job, {"redrive": {"partition": night, "reasons": ["refused?"]}}, by="Ada")
    assert "no dead letter has such a reason" in failure_of(wrong)
    some = {"partition": night, "reasons": ["truncated"], "reason": "more room"}
    assert control(job, {"redrive": some}, by="Ada").success
    requests = job.tick().run_requests
    assert [request.partition_key for request in requests] == [night]
    assert recorded(night)[1:] == [("redrive", "Ada", "more room")]


@pytest.mark.parametrize(
    "config", [{"action": {"cancel": {"partition": "x"}}}, {"by": "Ada", "action": {"stop": {}}}]
)
def test_who_and_a_known_action_are_required(nightly: MakeNightly, config: dict[str, Any]) -> None:
    job = nightly()
    definition = job.definitions.resolve_job_def(control_job(job.name))
    with pytest.raises(dg.DagsterInvalidConfigError):
        definition.execute_in_process(
            run_config={"ops": {"review__control": {"config": config}}}, instance=job.instance
        )


def test_an_empty_name_is_refused(nightly: MakeNightly, nights: list[str]) -> None:
    refused = control(nightly(), {"cancel": {"partition": nights[0]}}, by=" ")
    assert "say who does this" in failure_of(refused)


WAITS = NightState(Kind.PILOT_CLOSED, "8 of 10 failed", "approve it")


@pytest.mark.parametrize(
    ("stopped", "not_seen", "expected"),
    [({}, 0, [True]), ({"a": WAITS}, 0, [False]), ({"a": WAITS}, 3, [False]), ({}, 3, [])],
)
def test_a_tick_reports_green_only_if_it_looked_at_all_nights(
    instance: dg.DagsterInstance,
    make_spec: MakeSpec,
    stopped: dict[str, NightState],
    not_seen: int,
    expected: list[bool],
) -> None:
    found, no_pipeline = StoppedNights(stopped, not_seen), cast("Any", None)
    reported = all_nights.look(instance, no_pipeline, make_spec(), found, {})
    assert [event.passed for event in reported.events] == expected
    again = all_nights.look(instance, no_pipeline, make_spec(), found, reported.kept)
    assert again.events == []
