"""A queue limit that is lowered after a night was planned: what is too large is cut anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import GateClosedError
from batch_pipeline.flow.run import run
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    accepted_twice,
    documents,
    job,
    submissions_of,
    write_rows,
)


@pytest.mark.parametrize("lowered", [{"account": 6}, {"job": 6}])
def test_what_waits_is_cut_anew_and_bought_once(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path, lowered: dict[str, int]
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(40))
    sim.hold()
    large: dict[str, Any] = {"max_requests_per_batch": 20, "max_queued_requests": 20}
    state = run(make_pipeline(), job(source, limits=large), PARTITION, wait=False)
    assert (state.in_flight, state.waiting) == (20, 20)
    sim.release()
    small = {**large, "max_queued_requests": lowered.get("job")}
    pipeline = make_pipeline(max_queued_requests=lowered.get("account", 1_000))
    state = run(pipeline, job(source, limits=small), PARTITION)
    assert (state.complete, state.succeeded) == (True, 40)
    assert sorted(s.requests for s in submissions_of(pipeline)) == [2, 6, 6, 6, 20]
    assert sim.books.accepted_requests == 40
    assert not accepted_twice(sim)


def test_a_pilot_that_waits_is_drawn_anew(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(60))
    pilot = {"size": 10, "via": "batch", "max_error_rate": 1, "max_truncated_rate": 1}
    with pytest.raises(GateClosedError):
        run(
            make_pipeline(), job(source, pilot=pilot, budget={"max_usd_per_month": 1e-6}), PARTITION
        )
    pipeline = make_pipeline(max_queued_requests=5)
    limits = {"max_requests_per_batch": 30}
    state = run(pipeline, job(source, pilot=pilot, limits=limits), PARTITION)
    assert (state.complete, state.succeeded) == (True, 60)
    assert max(s.requests for s in submissions_of(pipeline)) == 5
    assert sim.books.accepted_requests == 60
    assert not accepted_twice(sim)
