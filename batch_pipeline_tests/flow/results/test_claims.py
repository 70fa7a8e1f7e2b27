"""Several processes collect a night side by side: each batch is downloaded by one of them."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow import steps
from batch_pipeline.flow.concurrency import is_gone
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results import claims as collecting
from batch_pipeline.flow.results import collection
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.processes import leases
from batch_pipeline.ledger.submissions.submissions import Submission
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import PARTITION, documents, job, results, write_rows

BATCHES = 3


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    """A job with one document in each batch."""
    source = write_rows(tmp_path / "in.jsonl", documents(BATCHES))
    return job(source, limits={"max_requests_per_batch": 1})


@pytest.fixture
def as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """All batches of the night together are as many answers as two threads are worth."""
    monkeypatch.setattr(collecting, "SEVERAL_FROM_REQUESTS", BATCHES)


def ended(pipeline: Pipeline, spec: JobSpec) -> Night:
    """A night whose batches have all ended and are not collected."""
    night = run(pipeline, spec, PARTITION, wait=False).night
    steps.poll_account(pipeline, night.owner)
    return night


def test_two_collectors_share_the_batches(
    make_pipeline: MakePipeline, sim: Simulator, spec: JobSpec
) -> None:
    one, other = make_pipeline(), make_pipeline()
    night = ended(one, spec)
    mine, theirs = collecting.claimed(one, night), collecting.claimed(other, night)
    held = [next(mine), next(theirs)]
    assert len({submission.id for submission in held}) == 2
    # What each comes to next is what nobody holds.
    third = next(mine)
    assert third.id != held[1].id
    mine.close()
    assert steps.collect_ended(one, spec, night) == BATCHES - 1
    theirs.close()
    assert steps.collect_ended(one, spec, night) == 1
    assert len(results(one, spec)) == BATCHES


@pytest.mark.usefixtures("as_large")
def test_large_batches_are_collected_two_at_a_time(
    make_pipeline: MakePipeline,
    sim: Simulator,
    spec: JobSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = make_pipeline(workers=8)
    night = ended(pipeline, spec)
    both_there, first_two = threading.Barrier(2, timeout=30), iter(range(2))

    def together(*arguments: Any, **options: Any) -> None:
        if next(first_two, None) is not None:
            both_there.wait()
        collect(*arguments, **options)

    collect = collection.collect
    monkeypatch.setattr(collection, "collect", together)
    told: list[str] = []
    assert steps.collect_ended(pipeline, spec, night, lambda: told.append("one")) == BATCHES
    assert len(told) == len(results(pipeline, spec)) == BATCHES
    assert steps.finish(pipeline, night).complete


@pytest.mark.usefixtures("as_large")
def test_a_failure_in_one_of_two_threads_is_raised(
    make_pipeline: MakePipeline,
    sim: Simulator,
    spec: JobSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = make_pipeline(workers=2)
    night = ended(pipeline, spec)
    with monkeypatch.context() as patch:
        patch.setattr(collection, "collect", _raising(OSError("no room left")))
        with pytest.raises(OSError, match="no room left"):
            steps.collect_ended(pipeline, spec, night)
    assert steps.collect_ended(pipeline, spec, night) == BATCHES


@pytest.mark.parametrize(
    ("requests", "workers", "expected"),
    [
        ([], 2, 1),
        ([9_999], 2, 1),
        ([100_000], 2, 1),
        ([4_999, 5_000], 2, 1),
        ([5_000, 5_000], 2, 2),
        ([5_000, 5_000], 1, 1),
        ([10_000] * 9, 8, 2),
    ],
)
def test_how_many_are_collected_at_a_time(requests: list[int], workers: int, expected: int) -> None:
    found = [cast("Submission", SimpleNamespace(requests=count)) for count in requests]
    assert collecting.collectors_at_once(found, workers) == expected


def test_a_claim_is_given_up_where_collecting_fails(
    make_pipeline: MakePipeline,
    sim: Simulator,
    spec: JobSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Without a pause after the failure, each is due at once again.
    one, other = make_pipeline(poll_seconds=1e-6), make_pipeline(poll_seconds=1e-6)
    night = ended(one, spec)
    with monkeypatch.context() as patch:
        patch.setattr(collection, "collect", _raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            steps.collect_ended(one, spec, night)
        failure = ApiFailure(500, "api_error", None, "in trouble")
        patch.setattr(collection, "collect", _raising(failure))
        assert steps.collect_ended(one, spec, night) == 0
    assert steps.collect_ended(other, spec, night) == BATCHES


def test_a_claim_of_a_process_that_died_is_taken_over(
    make_pipeline: MakePipeline, sim: Simulator, spec: JobSpec
) -> None:
    pipeline = make_pipeline()
    night = ended(pipeline, spec)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    machine = pipeline.holder.partition(":")[0]
    dead = f"{machine}:{process.pid}:0"
    assert not is_gone(f"{socket.gethostname()}.another-container:{process.pid}:0")
    with pipeline.ledger.write() as connection:
        for owner in (dead, "another-machine:1:0"):
            assert leases.claim_ended(
                connection, night.id, owner, 60.0, after=0, is_gone=lambda _: False
            )
    assert is_gone(dead)
    assert not is_gone(pipeline.holder)
    # All but what another machine holds, of which nobody here can know.
    assert steps.collect_ended(pipeline, spec, night) == BATCHES - 1


def _raising(error: BaseException) -> object:
    def collect(*_args: object, **_options: object) -> None:
        raise error

    return collect
