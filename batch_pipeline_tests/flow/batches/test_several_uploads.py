"""Several uploads at once: each shard goes once, and the first trouble stops them all."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.flow.batches import submission
from batch_pipeline.flow.batches.submission import MOST_UPLOADS, SEVERAL_FROM_BYTES, uploads_at_once
from batch_pipeline.flow.concurrency import Stop, StoppedError, run_in_threads
from batch_pipeline.flow.run import run
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    Faults,
    accepted_twice,
    documents,
    error,
    is_create,
    job,
    results,
    statuses,
    submissions_of,
    write_rows,
)

BIG = SEVERAL_FROM_BYTES


@pytest.mark.parametrize(
    ("shards", "size", "workers", "expected"),
    [
        (9, BIG - 1, 4, 1),
        (9, BIG, 1, 1),
        (9, BIG, 2, 2),
        (3, BIG, 99, 3),
        (99, BIG, 99, MOST_UPLOADS),
        (0, 0, 4, 1),
    ],
)
def test_how_many_uploads_go_at_once(shards: int, size: int, workers: int, expected: int) -> None:
    assert uploads_at_once(shards, size, workers) == expected


def test_every_shard_goes_once(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "SEVERAL_FROM_BYTES", 0)
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(60)), limits={"max_requests_per_batch": 5}
    )
    pipeline = make_pipeline(workers=3)
    state = run(pipeline, spec, "all")
    assert state.complete
    assert statuses(results(pipeline, spec)) == {"succeeded": 60}
    assert len(submissions_of(pipeline)) == 12
    assert accepted_twice(sim) == {}


def test_an_api_in_trouble_makes_no_more_unknown_than_were_on_their_way(
    sim: Simulator,
    faults: Faults,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(submission, "SEVERAL_FROM_BYTES", 0)

    def fail(request: Request, response: Response) -> Response:
        return error(500, "api_error") if is_create(request) else response

    faults.on_response = fail
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(60)), limits={"max_requests_per_batch": 5}
    )
    pipeline = make_pipeline(workers=2)
    state = run(pipeline, spec, "all", wait=False)
    unknown = [s for s in submissions_of(pipeline) if s.state is State.UNKNOWN]
    assert 1 <= len(unknown) <= 2
    assert state.waiting == 60 - 5 * len(unknown)


def test_the_first_error_stops_the_other_loops_and_is_raised() -> None:
    stop, both = Stop(), threading.Barrier(2)
    numbers = iter(range(2))

    def work() -> None:
        number = next(numbers)
        both.wait()
        if number == 0:
            raise OSError("disk full")
        while True:
            stop.check()

    with pytest.raises(OSError, match="disk full"):
        run_in_threads(2, work, stop)
    with pytest.raises(StoppedError):
        stop.check()


def test_an_interrupt_waits_until_all_loops_have_ended() -> None:
    stop, both, ended = Stop(), threading.Barrier(2), []

    def work() -> None:
        if both.wait() == 0:
            time.sleep(0.1)  # until the main thread waits
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        while not stop.is_set():
            time.sleep(0.01)
        time.sleep(0.1)  # longer than one who does not wait needs to go on
        ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        run_in_threads(2, work, stop)
    assert len(ended) == 2
