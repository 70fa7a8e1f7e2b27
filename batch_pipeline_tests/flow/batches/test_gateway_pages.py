"""Creates that a gateway answers in place of the API: looked for, tried again, and then no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batch_pipeline import errors
from batch_pipeline.flow.run import run
from batch_pipeline.ledger.submissions.refusals import MOST_PAGES
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    CREATE,
    PARTITION,
    accepted_twice,
    documents,
    job,
    results,
    statuses,
    submissions_of,
    write_rows,
)
from batch_pipeline_tests.support import Faults as Hooks

WINDOW = 0.05
COUNT = 8
# With these statuses it proves nothing, as a page does.
API_BODY = '{"type": "error", "error": {"type": "invalid_request_error", "message": "a bad row"}}'


def paged(**page: Any) -> Faults:
    return Faults.of(create={"chances": [{"probability": 1, "fault": {"kind": "page", **page}}]})


def creates(faults: Hooks) -> int:
    return faults.calls.count(CREATE)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ({"status": 403}, ["HTTP 403 (text/html", "<html><head><title>Blocked"]),
        ({"status": 200, "body": "{}", "content_type": "application/json"}, ["HTTP 200", "{}"]),
        ({"status": 409, "body": API_BODY}, ["HTTP 409 invalid_request_error: a bad row"]),
        ({"status": 403, "accepted": True}, []),
    ],
)
def test_pages_after_the_last_bytes_are_looked_for_and_stop_the_night_after_three(
    sim: Simulator, faults: Hooks, make_pipeline: MakePipeline, tmp_path: Path,
    page: dict[str, Any], said: list[str],
) -> None:  # fmt: skip
    spec = job(write_rows(tmp_path / "in.jsonl", documents(COUNT)))
    pipeline = make_pipeline(reconcile_seconds=WINDOW)
    sim.set_faults(paged(**page))
    if page.get("accepted"):
        # The batch was made behind the page, and is found: nothing is sent again.
        assert run(pipeline, spec, PARTITION).complete
        assert creates(faults) == 1
    else:
        with pytest.raises(errors.ApiError) as stopped:
            run(pipeline, spec, PARTITION)
        assert all(part in str(stopped.value) for part in said)
        assert creates(faults) == MOST_PAGES
        sim.set_faults(Faults())
        assert run(pipeline, spec, PARTITION).complete
    assert statuses(results(pipeline, spec)) == {"succeeded": COUNT}
    assert not accepted_twice(sim)


def test_faults_of_a_gateway_do_not_stop_a_night(
    sim: Simulator, faults: Hooks, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(COUNT)))
    pipeline = make_pipeline(reconcile_seconds=WINDOW)
    sim.set_faults(Faults.of(create={"script": [{"kind": "page", "status": 502, "times": 4}]}))
    assert run(pipeline, spec, PARTITION).complete
    assert creates(faults) == 5
    assert not accepted_twice(sim)


@pytest.mark.parametrize("status", [413, 403])
def test_pages_before_the_last_bytes(
    sim: Simulator, faults: Hooks, make_pipeline: MakePipeline, tmp_path: Path, status: int
) -> None:
    rows = [{"id": f"{n}", "text": f"{n} " * 2_000_000} for n in range(4)]
    spec = job(write_rows(tmp_path / "in.jsonl", rows))
    # No look at the list is needed: the reconciliation would take longer than the test.
    pipeline = make_pipeline(reconcile_seconds=3_600)
    sim.set_faults(
        Faults.of(create={"script": [{"kind": "page", "status": status, "early": True}]})
    )
    assert run(pipeline, spec, PARTITION).complete
    assert not accepted_twice(sim)
    # A size that is refused is halved, another page is tried again.
    assert creates(faults) == (3 if status == 413 else 2)
    assert {s.batch_id is None for s in submissions_of(pipeline)} == {True, False}
