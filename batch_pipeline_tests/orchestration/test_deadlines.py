"""Deadlines under Dagster: the sensor asks for the take-over, a run works through the calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from batch_pipeline.flow import paths
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger import nights as ledger_nights
from batch_pipeline.ledger.nights import Night
from batch_pipeline.orchestration.names import asset_key
from batch_pipeline.settings import Settings
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.orchestration.nightly import Nightly
from batch_pipeline_tests.support import make_late

MakeNightly = Callable[..., Nightly]


@pytest.fixture
def pipeline(environment: Path) -> Iterator[Pipeline]:
    """A pipeline on the home that Dagster's runs use."""
    made = Pipeline(Settings.from_environment({"BATCH_PIPELINE_HOME": str(environment)}))
    yield made
    made.ledger.close()


def night_of(pipeline: Pipeline, partition: str) -> Night:
    with pipeline.ledger.read() as connection:
        [night] = [n for n in ledger_nights.list_nights(connection) if n.partition == partition]
    return night


def test_the_sensor_asks_for_a_take_over_and_the_night_ends_in_real_time(
    nightly: MakeNightly,
    nights: list[str],
    sim: Simulator,
    environment: Path,
    pipeline: Pipeline,
) -> None:
    job = nightly(mode="auto", deadline="8h")
    assert job.launch(nights[1]).success
    job.run_to_the_end(nights[1])

    sim.hold()
    sim.set_done_at_cancel(0.5)
    assert job.launch(nights[2]).success
    assert "expected to be met" in job.metadata("submitted_batches", nights[2])["deadline"]
    tick = job.tick()
    assert tick.run_requests == []
    assert "expected to be met: batches take" in tick.skip_message

    make_late(pipeline, nights[2], seconds=60)
    [request] = job.tick().run_requests
    assert request.partition_key == nights[2]
    assert [key.path for key in request.asset_selection] == [["review", "submitted_batches"]]
    [run] = job.follow([request])
    assert run.success
    sim.release()
    job.run_to_the_end(nights[2])

    rows = pd.read_parquet(environment / paths.results("review", nights[2]))
    assert len(set(rows["id"])) == len(rows) == 40
    # Four of the pilot, and half of what the batches were cancelled with.
    assert Counter(rows["mode"]) == {"realtime": 22, "batch": 18}
    assert sim.books.billed_more_than_once == []
    assert "go in real time" in job.metadata("submitted_batches", nights[2])["deadline"]
    night = night_of(pipeline, nights[2])
    assert night.completed_at is not None
    assert night.deadline_at is not None
    assert night.completed_at < night.deadline_at


@pytest.mark.parametrize(
    ("tags", "partition", "has_one"),
    [
        ({}, 2, True),
        ({}, 1, False),
        ({"dagster/schedule_name": "review_nightly"}, 1, True),
        ({"dagster/backfill": "abc"}, 2, False),
    ],
)
def test_backfills_have_no_deadline(
    nightly: MakeNightly,
    nights: list[str],
    pipeline: Pipeline,
    tags: dict[str, str],
    partition: int,
    *,
    has_one: bool,
) -> None:
    job = nightly(mode="auto", deadline="06:00")
    input_alone = [asset_key("review", "input_dataset")]
    assert job.launch(nights[partition], assets=input_alone, tags=tags).success
    assert (night_of(pipeline, nights[partition]).deadline_at is not None) is has_one
