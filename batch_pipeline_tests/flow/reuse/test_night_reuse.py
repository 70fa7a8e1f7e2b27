"""Nights that reuse answers of earlier nights, from their input to their results."""

from __future__ import annotations

import shutil
from collections import Counter
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from batch_pipeline.flow import night_input, steps
from batch_pipeline.flow.control.prune import prune
from batch_pipeline.flow.costs.estimate import estimate
from batch_pipeline.flow.deadline.forecast import ASSUMED_TURNAROUND_SECONDS
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.recovery.recover import recover
from batch_pipeline.flow.reuse import copies, window
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status.night_state import of_progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.admission.admission import Waiting
from batch_pipeline.ledger.admission.night_state import Kind
from batch_pipeline.ledger.database import ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.orchestration.sensor.unfinished_nights import read_night
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    RealApi,
    accepted_twice,
    by_id,
    documents,
    job,
    results,
    together,
    write_rows,
)

FIRST = date(2026, 1, 1)


def day(number: int) -> str:
    return (FIRST + timedelta(days=number - 1)).isoformat()


def nightly(folder: Path, nights: int = 30, **changes: Any) -> JobSpec:
    declared = {"partitions": {"start": FIRST}, "reuse": {"nights": nights}, **changes}
    return job(folder / "{partition}.jsonl", **declared)


def test_what_earlier_nights_answered_is_not_bought(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    spec = nightly(tmp_path)
    twin = {**documents(1)[0], "id": "same text as the first"}
    write_rows(tmp_path / f"{day(1)}.jsonl", documents(30))
    write_rows(tmp_path / f"{day(2)}.jsonl", [*documents(40), twin])
    write_rows(tmp_path / f"{day(3)}.jsonl", documents(45))
    first = run(pipeline, spec, day(1))
    expected = estimate(pipeline, spec, day(2))
    assert (expected.reused, expected.work.requests, expected.already_bought) == (30, 10, 0)
    assert "reuse" in {each.cause for each in expected.avoided}
    second = run(pipeline, spec, day(2))
    third = run(pipeline, spec, day(3))
    assert (first.complete, second.complete, third.complete) == (True, True, True)
    assert sim.books.accepted_requests == 45
    assert not accepted_twice(sim)
    assert third.statuses == {"succeeded": 45}

    bought = by_id(results(pipeline, spec, day(1)))
    rows = by_id(results(pipeline, spec, day(3)))
    # An answer is of the night that bought it, however often it was reused.
    assert Counter(row["answered_by"] for row in rows.values()) == {
        f"partition:{day(1)}": 30, f"partition:{day(2)}": 10, None: 5
    }  # fmt: skip
    for item, original in bought.items():
        row = rows[item]
        assert (row["mode"], row["cost_usd"], row["output_tokens"]) == ("reused", 0, 0)
        same = ("content", "parsed", "stop_reason", "model", "batch_id", "custom_id", "fingerprint")
        assert [row[name] for name in same] == [original[name] for name in same]
    assert by_id(results(pipeline, spec, day(2)))[twin["id"]]["mode"] == "reused"
    billed = sum(row["cost_usd"] for row in rows.values())
    assert billed == third.total_cost_usd > 0
    assert third.snapshot is not None
    assert third.snapshot.avoided["reuse"]["documents"] == 40


def test_reuse_does_not_renew_the_age_of_an_answer(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    spec = nightly(tmp_path, nights=1)
    for number in (1, 2, 3, 4):
        write_rows(tmp_path / f"{day(number)}.jsonl", documents(5))
        run(pipeline, spec, day(number))
    # Night 2 shows the answers of night 1, night 3 buys them anew, and night 4 shows those.
    assert sim.books.accepted_requests == 10
    found = [results(pipeline, spec, day(number))[0]["answered_by"] for number in (1, 2, 3, 4)]
    assert found == [None, f"partition:{day(1)}", None, f"partition:{day(3)}"]


def test_earlier_nights_are_those_of_the_windows_before(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    """In Troll the clocks are put back by two hours, and keys are not in the order of time."""
    hours = {"every": "hour", "start": FIRST, "timezone": "Antarctica/Troll"}
    spec = nightly(tmp_path, nights=2, partitions=hours)
    keys = ["2026-10-25-01:00", "2026-10-25-02:00", "2026-10-25-01:00+0000"]
    for key in [*keys, "2026-10-25-02:00+0000", "2026-10-24"]:
        account = steps.open_night(pipeline, spec, key).owner
    with pipeline.ledger.read() as connection:
        found = window.earlier_nights(connection, spec, keys[2], account)
        after = window.earlier_nights(connection, spec, "2026-10-25-02:00+0000", account)
    assert [night.partition for night in found] == [keys[1], keys[0]]
    assert [night.partition for night in after] == [keys[2], keys[1]]


def test_a_backfill_buys_a_document_once(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    spec = nightly(tmp_path)
    for number in (1, 2):
        write_rows(tmp_path / f"{day(number)}.jsonl", documents(20))
    together(*(partial(run, make_pipeline(), spec, day(number)) for number in (2, 1)))
    assert not accepted_twice(sim)
    assert sim.books.accepted_requests == 20
    for number in (1, 2):
        assert len(by_id(results(make_pipeline(), spec, day(number)))) == 20


def _begun(pipeline: Pipeline, spec: JobSpec, number: int) -> Night:
    """A night whose input is taken, and of which nothing is sent."""
    night = steps.open_night(pipeline, spec, day(number))
    return night_input.take_input(pipeline, spec, night).night


def test_a_night_waits_for_earlier_ones_that_go_on_by_themselves(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    spec = nightly(tmp_path)
    for number in (1, 2):
        write_rows(tmp_path / f"{day(number)}.jsonl", documents(20))
    first, second = _begun(pipeline, spec, 1), _begun(pipeline, spec, 2)
    waiting = steps.run_pilot(pipeline, spec, second)
    assert isinstance(waiting, Waiting)
    assert waiting.state is not None
    assert waiting.state.kind is Kind.EARLIER_ANSWERS_FIRST
    assert f"run review --partition {day(1)}" in waiting.state.remedy
    assert steps.submit(pipeline, spec, second).batches == 0
    shown = of_progress(steps.progress(pipeline, second), spec.alerts)
    assert shown.kind is Kind.EARLIER_ANSWERS_FIRST
    # No run is asked for that could only wait.
    with pipeline.ledger.read() as connection:
        found, _ = read_night(connection, pipeline, spec, second, lambda *_: True)
    assert found.blocked is not None
    assert found.blocked.kind is Kind.EARLIER_ANSWERS_FIRST
    run(pipeline, spec, first.partition)
    assert run(pipeline, spec, second.partition).complete
    assert sim.books.accepted_requests == 20


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"held_at": 1.0}, None),
        ({"refused": "the API refuses it"}, None),
        ({"short_of_budget": {"ceiling": "budget.max_usd_per_month", "reason": "used up"}}, None),
        ({"completed_at": 1.0}, None),
        ({"snapshot_id": None, "created_at": 1.0}, None),
        ({}, 2 * ASSUMED_TURNAROUND_SECONDS - 60),
    ],
    ids=["held", "refused", "budget", "complete", "without_an_input", "deadline"],
)
def test_what_is_not_waited_for(
    sim: Simulator,
    pipeline: Pipeline,
    tmp_path: Path,
    changes: dict[str, Any],
    left: float | None,
) -> None:
    spec = nightly(tmp_path)
    for number in (1, 2):
        write_rows(tmp_path / f"{day(number)}.jsonl", documents(3))
    first, second = _begun(pipeline, spec, 1), _begun(pipeline, spec, 2)
    with pipeline.ledger.write() as connection:
        assert window.waits_for(connection, spec, second) == first.partition
        if changes:
            nights.update_night(connection, first.id, **changes)
        if left is not None:
            at = ledger.now(connection) + left
            nights.update_night(connection, second.id, deadline_at=at)
        second = nights.get_night(connection, second.id)
        assert window.waits_for(connection, spec, second) is None


def test_what_is_open_after_a_change_is_looked_for_again(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    spec = nightly(tmp_path)
    write_rows(tmp_path / f"{day(1)}.jsonl", documents(20))
    write_rows(tmp_path / f"{day(2)}.jsonl", documents(12, start=10))
    run(pipeline, spec, day(1))
    run(pipeline, spec, day(2))
    write_rows(tmp_path / f"{day(2)}.jsonl", documents(20, start=5))
    state = run(pipeline, spec, day(2))
    # 5 to 9 are reused now, 10 to 19 were before, 20 and 21 were bought, 22 to 24 are.
    assert sim.books.accepted_requests == 25
    assert not accepted_twice(sim)
    assert state.complete
    assert state.snapshot is not None
    assert state.snapshot.avoided["reuse"]["documents"] == 15
    modes = Counter(row["mode"] for row in results(pipeline, spec, day(2)))
    assert modes == {"reused": 15, "batch": 5}


def test_a_crash_while_answers_are_taken_over_changes_nothing(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = nightly(tmp_path)
    write_rows(tmp_path / f"{day(1)}.jsonl", documents(10))
    write_rows(tmp_path / f"{day(2)}.jsonl", documents(12))
    run(make_pipeline(), spec, day(1))
    for place in ("publish", "record"):
        with monkeypatch.context() as patched:
            patched.setattr(copies, place, Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                run(make_pipeline(), spec, day(2))
    pipeline = make_pipeline()
    state = run(pipeline, spec, day(2))
    assert (state.complete, state.statuses) == (True, {"succeeded": 12})
    assert len(by_id(results(pipeline, spec, day(2)))) == 12
    assert sim.books.accepted_requests == 12


@pytest.mark.parametrize("how", ["removed", "pruned", "ledger_lost"])
def test_reused_answers_stay_whatever_becomes_of_their_night(
    sim: Simulator, make_pipeline: MakePipeline, home: Path, tmp_path: Path, how: str
) -> None:
    spec = nightly(tmp_path)
    write_rows(tmp_path / f"{day(1)}.jsonl", documents(10))
    write_rows(tmp_path / f"{day(2)}.jsonl", documents(10))
    pipeline = make_pipeline()
    run(pipeline, spec, day(1))
    run(pipeline, spec, day(2))
    before = results(pipeline, spec, day(2))
    if how == "pruned":
        assert prune(pipeline, spec, day(2)).freed
    elif how == "removed":
        for folder in home.glob(f"review/**/partition={day(1)}"):
            shutil.rmtree(folder)
    if how == "ledger_lost":
        pipeline.close()
        for file in home.glob("ledger.sqlite*"):
            file.unlink()
        pipeline = make_pipeline()
        assert recover(pipeline, wait=False).complete
    write_rows(tmp_path / f"{day(2)}.jsonl", documents(11))
    state = run(pipeline, spec, day(2))
    assert state.complete
    after = by_id(results(pipeline, spec, day(2)))
    assert [after[row["id"]] for row in before] == before
    assert sim.books.accepted_requests == 11
    # Only what is there can be reused: nothing stops a later night.
    write_rows(tmp_path / f"{day(3)}.jsonl", documents(11))
    assert run(pipeline, spec, day(3)).complete
    assert sim.books.accepted_requests == (21 if how == "removed" else 11)


def test_simulated_answers_are_not_reused_for_a_real_account(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    spec = nightly(tmp_path)
    for number in (1, 2):
        write_rows(tmp_path / f"{day(number)}.jsonl", documents(5))
    run(make_pipeline(), spec, day(1))
    real = make_pipeline(api=RealApi())
    assert run(real, spec, day(2)).complete
    assert sim.books.accepted_requests == 10
    assert {row["answered_by"] for row in results(real, spec, day(2))} == {None}
