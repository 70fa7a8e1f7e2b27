"""Runs over a range of partitions, as a backfill makes them where a job says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration import runs
from batch_pipeline.orchestration.dagster_partitions import backfill_policy
from batch_pipeline.orchestration.definitions.build import build_batch_job
from batch_pipeline.orchestration.names import (
    FOLLOW_UP_TAG,
    KIND_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
    Kind,
    asset_key,
    dagster_job,
)
from batch_pipeline.orchestration.sensor import follow_ups, lost_runs
from batch_pipeline.orchestration.sensor.run_requests import WantedRun
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.orchestration.conftest import MakeSpec
from batch_pipeline_tests.orchestration.nightly import Nightly, failure_of
from batch_pipeline_tests.support import write_rows

SUBMITTING = ("input_dataset", "pilot_sample", "submitted_batches")
SEVERAL: dict[str, Any] = {"backfill": {"partitions_per_run": 5}}
# In Zurich the clocks are put back from 3 to 2 o'clock.
HOUR_USD = 0.08
HOURS = ["2025-10-26-01:00", "2025-10-26-02:00", "2025-10-26-02:00+0100"]


def launch_range(job: Nightly, first: str, last: str) -> dg.ExecuteInProcessResult:
    """A run over a range, with the tags that a backfill gives it."""
    made = job.definitions.resolve_job_def(dagster_job(job.name, Kind.SUBMIT))
    return made.execute_in_process(
        instance=job.instance,
        tags={RANGE_START_TAG: first, RANGE_END_TAG: last, "dagster/backfill": "b"},
        raise_on_error=False,
    )


def checks_of(job: Nightly, result: dg.ExecuteInProcessResult) -> dict[str | None, bool]:
    """What the pilot's check said, by partition; of None for the whole run."""
    found = result.get_asset_check_evaluations()
    return {each.partition: each.passed for each in found}


@pytest.fixture
def hourly(
    environment: Path, instance: dg.DagsterInstance, make_spec: MakeSpec, tmp_path: Path
) -> tuple[Nightly, JobSpec]:
    """A job of one partition an hour, over the end of summer time; each has its own folder."""
    for hour, folder in zip(HOURS, ["01+0200", "02+0200", "02+0100"], strict=True):
        (tmp_path / "lake" / folder).mkdir(parents=True)
        rows = [{"id": f"{hour} {n}", "text": f"Document {n} of {hour}."} for n in range(5)]
        write_rows(tmp_path / "lake" / folder / "documents.jsonl", rows)
    spec = make_spec(
        input={"path": str(tmp_path / "lake" / "{partition_start:%H%z}" / "*.jsonl")},
        partitions={"every": "hour", "start": HOURS[0], "timezone": "Europe/Zurich"},
        pilot={"size": 0},
        # Enough for the documents of an hour, and not for those of two.
        budget={"max_usd_per_partition": HOUR_USD},
        **SEVERAL,
    )
    return Nightly(spec.name, build_batch_job(spec), instance), spec


def test_one_run_over_the_end_of_summer_time(
    sim: Simulator, hourly: tuple[Nightly, JobSpec], environment: Path
) -> None:
    job, spec = hourly
    sim.hold()
    assert launch_range(job, HOURS[0], HOURS[-1]).success
    for asset in SUBMITTING:
        stamped = job.instance.get_materialized_partitions(asset_key(spec.name, asset))
        assert stamped == set(HOURS)
    assert {job.metadata("input_dataset", hour)["requests"] for hour in HOURS} == {5}
    paths = [job.metadata("input_dataset", hour)["path"] for hour in HOURS]
    assert [Path(path).parent.name[:5] for path in paths] == ["01+02", "02+02", "02+01"]
    sim.release()
    job.run_to_the_end(*HOURS)
    for hour in HOURS:
        assert job.metadata("collected_results", hour)["dagster/partition_row_count"] == 5
    # What ended together is collected in one run too.
    [collected] = job.instance.get_runs(dg.RunsFilter(tags={KIND_TAG: Kind.COLLECT.value}))
    assert runs.kinds_of([collected], spec) == {(hour, Kind.COLLECT) for hour in HOURS}


def test_an_hour_that_clocks_pass_over_is_refused(
    hourly: tuple[Nightly, JobSpec], environment: Path
) -> None:
    """The launchpad takes it, though no list of Dagster's has it."""
    job, _ = hourly
    result = job.launch("2026-03-29-02:00")
    assert not result.success
    assert "the clocks of Europe/Zurich are put forward over that hour" in failure_of(result)


def test_a_night_that_is_no_partition_any_more_leaves_the_others_alone(
    sim: Simulator, nightly: Callable[..., Nightly], nights: list[str]
) -> None:
    job = nightly()
    sim.hold()
    for night in nights[:2]:
        assert job.launch(night).success
    sim.release()
    changed = nightly(partitions={"start": nights[1]})
    tick = changed.tick()
    while not tick.run_requests:
        tick = changed.tick()
    assert {request.partition_key for request in tick.run_requests} == {nights[1]}
    changed.follow(tick.run_requests)
    message = str(changed.tick().skip_message)
    assert f"partition '{nights[0]}' does not exist" in message
    assert "Declare it again until its night is complete" in message


def test_a_stopped_night_leaves_the_others_of_its_run_alone(
    nightly: Callable[..., Nightly], nights: list[str], tmp_path: Path
) -> None:
    """The gate of the second night is closed, since its documents are long."""
    pilot = {"size": 4, "max_truncated_rate": 1.0, "max_projected_usd": 0.05}
    job = nightly(pilot=pilot, **SEVERAL)
    rows = [{"id": str(n), "text": f"{n} {'word ' * 6_000}"} for n in range(40)]
    write_rows(tmp_path / "input" / nights[1] / "documents.jsonl", rows)
    result = launch_range(job, nights[0], nights[-1])
    assert not result.success
    assert "1 of 3 partitions were stopped, the others went on" in failure_of(result)
    assert f"{nights[1]}: " in failure_of(result)
    assert [job.materialized("submitted_batches", night) for night in nights] == [True, False, True]
    assert job.materialized("input_dataset", nights[1])
    assert not job.materialized("pilot_sample", nights[1])
    checks = checks_of(job, result)
    assert checks == {nights[0]: True, nights[1]: False, nights[2]: True, None: False}
    # What is under way alone is collected.
    wanted = {request.partition_key for request in job.tick().run_requests}
    assert wanted <= {nights[0], nights[-1]}


def test_the_sensor_sees_the_partitions_of_a_range(
    nightly: Callable[..., Nightly], nights: list[str], make_spec: MakeSpec
) -> None:
    job, spec = nightly(**SEVERAL), make_spec(**SEVERAL)
    made = job.definitions.resolve_job_def(dagster_job(job.name, Kind.SUBMIT))
    tags = {**made.tags, RANGE_START_TAG: nights[0], RANGE_END_TAG: nights[1]}
    tags[FOLLOW_UP_TAG] = "1.2 3.4"
    run = job.instance.create_run_for_job(made, tags=tags)
    expected = {(night, Kind.SUBMIT) for night in nights[:2]}
    assert runs.unfinished(job.instance, spec) == expected
    job.instance.report_run_canceled(run)
    terminated = [runs.was_terminated(job.instance, spec, night) for night in nights]
    assert terminated == [True, True, False]
    wanted = WantedRun(nights[1], Kind.SUBMIT, "3.4", ())
    [earlier] = follow_ups.earlier(job.instance, spec, wanted)
    assert (earlier.marker, earlier.failed) == ("3.4", True)


def test_a_lost_range_is_repeated_where_it_had_not_come_to(
    nightly: Callable[..., Nightly],
    nights: list[str],
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, spec = nightly(**SEVERAL), make_spec(**SEVERAL)
    made = job.definitions.resolve_job_def(dagster_job(job.name, Kind.SUBMIT))
    tags = {**made.tags, RANGE_START_TAG: nights[0], RANGE_END_TAG: nights[2]}
    run = job.instance.create_run_for_job(made, tags=tags)
    assert job.launch(nights[1], tags={FOLLOW_UP_TAG: "x"}).success
    job.instance.report_run_failed(run, "its worker died")
    monkeypatch.setattr(lost_runs, "lost_rest", lambda _: 0.0)
    found = lost_runs.repeat_requests(job.instance, spec)
    assert [request.partition_key for request in found] == [nights[0], nights[2]]
    assert len({request.run_key for request in found}) == 2


def test_a_job_without_backfill_declares_no_policy(make_spec: MakeSpec) -> None:
    assert backfill_policy(make_spec()) is None
    policy = backfill_policy(make_spec(**SEVERAL))
    assert policy is not None
    assert policy.max_partitions_per_run == 5
