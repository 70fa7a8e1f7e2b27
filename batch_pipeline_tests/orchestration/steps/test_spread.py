"""A night whose work is spread over several steps of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow import night_input
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights as nights_of
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.orchestration.definitions import spread
from batch_pipeline.orchestration.definitions.build import build_batch_job
from batch_pipeline.orchestration.names import (
    RANGE_END_TAG,
    RANGE_START_TAG,
    Kind,
    Part,
    asset_key,
    dagster_job,
    op_name,
)
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.orchestration.definitions.test_build import SNAPSHOT, snapshot
from batch_pipeline_tests.orchestration.nightly import Nightly
from batch_pipeline_tests.support import accepted_twice

MakeNightly = Callable[..., Nightly]
MakeSpec = Callable[..., JobSpec]
# Small enough that the 40 documents of a night are more batches than workers.
SPREAD = {"spread": 2, "limits": {"max_requests_per_batch": 5}, "pilot": {"size": 0}}


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file of the input is worth a worker."""
    monkeypatch.setattr("batch_pipeline.flow.dataset.reading.splits.PIECE_BYTES", 512)


def step(work: str, part: Part, number: int | None = None) -> str:
    key = f"{op_name('review', work)}.{op_name('review', work, part)}"
    return key if number is None else f"{key}[{number}]"


def steps_of(result: dg.ExecuteInProcessResult) -> Iterator[str]:
    for event in result.all_events:
        if event.is_step_success:
            assert event.step_key is not None
            yield event.step_key


def test_the_definitions_are_those_of_any_job(make_spec: MakeSpec) -> None:
    spec = make_spec(
        input={"path": "/data/{partition}.jsonl", "upstream": ["raw/documents"]},
        partitions={"start": "2026-01-01", "timezone": "Europe/Zurich"},
        schedule="30 1 * * *",
        owners=["team:contracts"],
        **SPREAD,
    )
    alone = build_batch_job(spec.model_copy(update={"spread": 1}))
    spread = build_batch_job(spec)
    assert snapshot(spread) == snapshot(alone) == SNAPSHOT
    for key in spread.resolve_asset_graph().materializable_asset_keys:
        nodes = [each.resolve_asset_graph().get(key) for each in (alone, spread)]
        for name in ("description", "group_name", "owners", "tags", "kinds", "metadata"):
            first, second = (getattr(node, name) for node in nodes)
            assert first == second, (key, name)


def test_a_night_is_shared_by_steps_of_a_run(
    nightly: MakeNightly, nights: list[str], sim: Simulator
) -> None:
    job = nightly(**SPREAD)
    result = job.launch(nights[0])
    assert result.success
    done = list(steps_of(result))
    for work in ("input_dataset", "submitted_batches"):
        assert step(work, Part.BEGIN) in done
        assert step(work, Part.SHARE, 2) in done
        assert step(work, Part.END) in done
    assert job.metadata("input_dataset", nights[0])["dagster/partition_row_count"] == 40
    collected = job.launch(nights[0], kind=Kind.COLLECT)
    assert collected.success
    assert step("collect", Part.SHARE, 2) in steps_of(collected)
    assert job.materialized("cost_report", nights[0])
    checks = collected.get_asset_check_evaluations()
    assert {check.check_name for check in checks} >= {"every_item_one_row", "within_budget"}
    assert [each.passed for each in checks if each.check_name == "every_item_one_row"] == [True]
    assert not accepted_twice(sim)


def test_what_is_small_is_not_shared(nightly: MakeNightly, nights: list[str]) -> None:
    job = nightly(spread=4)
    assert job.launch(nights[0], assets=[asset_key("review", "input_dataset")]).success
    assert job.launch(nights[0], assets=[asset_key("review", "pilot_sample")]).success
    # As the sensor narrows its runs.
    result = job.launch(nights[0], assets=[asset_key("review", "submitted_batches")])
    done = set(steps_of(result))
    assert done >= {step("submitted_batches", part) for part in (Part.BEGIN, Part.END)}
    assert step("submitted_batches", Part.SHARE, 1) not in done
    assert job.materialized("submitted_batches", nights[0])


def test_a_run_over_a_range_works_night_by_night(nightly: MakeNightly, nights: list[str]) -> None:
    job = nightly(backfill={"partitions_per_run": 3}, **SPREAD)
    definition = job.definitions.resolve_job_def(dagster_job("review", Kind.SUBMIT))
    result = definition.execute_in_process(
        instance=job.instance,
        tags={RANGE_START_TAG: nights[0], RANGE_END_TAG: nights[2]},
        raise_on_error=False,
    )
    assert result.success
    for name in ("input_dataset", "pilot_sample", "submitted_batches"):
        assert all(job.materialized(name, night) for night in nights)


def test_a_share_that_ends_before_its_time_is_run_again(
    nightly: MakeNightly, nights: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    read = night_input.read_share

    def ends_once(pipeline: Pipeline, spec: JobSpec, night: Night) -> int:
        tried.append(night.partition)
        if len(tried) == 1:
            raise RuntimeError("no memory is left")
        return read(pipeline, spec, night)

    monkeypatch.setattr(night_input, "read_share", ends_once)
    monkeypatch.setattr(spread, "AGAIN", dg.RetryPolicy(max_retries=1))
    job = nightly(**SPREAD)
    assert job.launch(nights[0]).success
    assert len(tried) == 3
    assert job.materialized("input_dataset", nights[0])


def test_what_is_wrong_with_the_input_ends_the_run_at_once(
    nightly: MakeNightly, nights: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> int:
        raise InputDataError("two documents have the id 7")

    monkeypatch.setattr(night_input, "read_share", wrong)
    result = nightly(**SPREAD).launch(nights[0])
    failures = [event for event in result.all_events if event.is_step_failure]
    assert {str(event.step_key) for event in failures} == {
        step("input_dataset", Part.SHARE, number) for number in (1, 2)
    }
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_what_one_share_finds_wrong_stays_known_until_the_input_is_taken(
    nightly: MakeNightly, nights: list[str], environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = night_input.read_share
    shares = iter(range(9))

    def first_is_wrong(pipeline: Pipeline, spec: JobSpec, night: Night) -> int:
        if not next(shares):
            raise InputDataError("line 7 is no JSON")
        return read(pipeline, spec, night)

    monkeypatch.setattr(night_input, "read_share", first_is_wrong)
    job = nightly(**SPREAD)
    ended = [event for event in job.launch(nights[0]).all_events if event.is_step_success]
    assert step("input_dataset", Part.SHARE, 2) in [event.step_key for event in ended]
    [found] = failures(environment)
    assert found is not None
    assert (found["step"], found["reason"]) == ("input_dataset", "line 7 is no JSON")
    # The shares have read everything: the run that follows starts none.
    assert job.launch(nights[0]).success
    assert failures(environment) == [None]


def failures(home: Path) -> list[dict[str, Any] | None]:
    with Ledger(f"sqlite:///{home}/ledger.sqlite") as ledger, ledger.read() as connection:
        return [night.failure for night in nights_of.list_nights(connection)]
