"""Nights with a deadline: real time takes over what would miss it, and nothing is bought twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.progress import Progress
from batch_pipeline.flow.run import run
from batch_pipeline.simulator import Simulator
from batch_pipeline.spec import JobSpec
from batch_pipeline.state import ledger, nights, takeovers
from batch_pipeline_tests.support import (
    PARTITION,
    by_id,
    documents,
    job,
    results,
    statuses,
    write_rows,
)

HOUR = 3_600.0


@pytest.fixture
def usual(pipeline: Pipeline, tmp_path: Path) -> None:
    """Batches of the account took no time so far."""
    earlier = job(write_rows(tmp_path / "earlier.jsonl", documents(3, start=900)), name="earlier")
    assert run(pipeline, earlier, PARTITION).complete


def auto(tmp_path: Path, count: int = 25, **declared: Any) -> JobSpec:
    usual: dict[str, Any] = {
        "mode": "auto",
        "deadline": "8h",
        "limits": {"max_requests_per_batch": 5},
        "retry": {"max_attempts": 1},
    }
    return job(write_rows(tmp_path / "in.jsonl", documents(count)), **(usual | declared))


def wanted_in(pipeline: Pipeline, state: Progress, seconds: float) -> None:
    """From now on the night's results are wanted in so many seconds."""
    with pipeline.ledger.write() as connection:
        at = ledger.now(connection) + seconds
        nights.update_night(connection, state.night.id, deadline_at=at)


def in_full(sim: Simulator, pipeline: Pipeline, spec: JobSpec, count: int) -> Counter[str]:
    """The night is answered once and to the last cent; how many rows came which way."""
    rows = by_id(results(pipeline, spec))
    assert set(rows) == {d["id"] for d in documents(count)}
    assert statuses(rows.values()) == {"succeeded": count}
    assert {row["attempt"] for row in rows.values()} == {1}
    assert sim.books.billed_more_than_once == []
    return Counter(str(row["mode"]) for row in rows.values())


@pytest.mark.usefixtures("usual")
@pytest.mark.parametrize("done", [0.0, 0.4, 1.0])
def test_slow_batches_are_taken_over(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, done: float
) -> None:
    sim.hold()
    sim.set_done_at_cancel(done)
    spec = auto(tmp_path)
    state = run(pipeline, spec, PARTITION, wait=False)
    assert (state.in_flight, state.waiting) == (25, 0)
    assert state.night.deadline_at == pytest.approx(state.at + 8 * HOUR, abs=60)
    assert run(pipeline, spec, PARTITION, wait=False).in_flight == 25

    wanted_in(pipeline, state, 60)
    state = run(pipeline, spec, PARTITION)
    assert state.complete
    assert state.batches == 5
    kept = round(5 * done) * 5
    assert in_full(sim, pipeline, spec, 25) == Counter(
        {"batch": kept, "realtime": 25 - kept} if done < 1 else {"batch": 25}
    )
    with pipeline.ledger.read() as connection:
        taken = takeovers.of_night(connection, state.night.id)
        assert takeovers.left_usd(connection, state.night.id) == 0
    assert len(taken) == 5
