"""Nights whose near duplicates are not asked for."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.flow.control.redrive import redrive
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.support import (
    PARTITION,
    accepted_twice,
    by_id,
    dead_letters,
    job,
    results,
    write_rows,
)

pytest.importorskip("rensa")

FILTER = {"threshold": 0.9, "action": "filter"}


def text(seed: int) -> str:
    return " ".join(random.Random(seed).choices(["fee", "licence", "term", "party", "law"], k=200))


def rows_of_forms(forms: int, copies: int) -> list[dict[str, Any]]:
    """Forms that were filled in for several customers, and each of them once more as it is."""
    return [
        {"id": f"{form}-{copy}", "text": f"{text(form)} customer {copy // 2}"}
        for form in range(forms)
        for copy in range(copies)
    ]


def test_a_near_duplicate_is_filtered_and_names_its_twin(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", rows_of_forms(5, 6))
    spec = job(source, near_duplicates=FILTER)
    state = run(pipeline, spec, PARTITION)
    assert (state.complete, state.statuses) == (True, {"succeeded": 10, "filtered": 20})
    assert (state.filtered, state.dead_letter, dead_letters(pipeline, spec)) == (20, 0, [])
    assert sim.books.accepted_requests == 5
    rows = by_id(results(pipeline, spec))
    # What asks the same as a leader is answered, what asks the same as a twin is filtered with it.
    assert {row["status"] for name, row in rows.items() if name[2:] in "01"} == {"succeeded"}
    twin, same = rows["3-2"], rows["3-3"]
    assert twin["error_type"] == same["error_type"] == "near_duplicate"
    assert twin["error_message"] == same["error_message"]
    assert twin["error_message"].startswith("a near duplicate of 3-0 (similarity ")
    assert (twin["cost_usd"], twin["attempt"], twin["mode"]) == (0, 0, None)
    assert state.snapshot is not None
    assert state.snapshot.avoided["near_duplicates"]["documents"] == 10
    assert state.snapshot.units == 5
    run(pipeline, spec, PARTITION)
    assert sim.books.accepted_requests == 5


def test_what_was_bought_keeps_its_answer(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    rows = rows_of_forms(4, 4)
    source = write_rows(tmp_path / "in.jsonl", rows[:14])
    run(pipeline, job(source), PARTITION)
    bought = sim.books.accepted_requests
    source = write_rows(tmp_path / "in.jsonl", rows)
    spec = job(source, near_duplicates=FILTER)
    state = run(pipeline, spec, PARTITION)
    # Only the last document, which is new, is filtered with the one that asks the same.
    assert state.statuses == {"succeeded": 14, "filtered": 2}
    assert sim.books.accepted_requests == bought
    # Without the filter it is asked.
    assert run(pipeline, job(source), PARTITION).statuses == {"succeeded": 16}
    assert sim.books.accepted_requests == bought + 1
    assert not accepted_twice(sim)


def test_a_redrive_leaves_near_duplicates_as_they_are(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    rows = rows_of_forms(3, 4)
    bad = {"id": "bad", "text": f"{text(99)} refused once"}
    spec = job(write_rows(tmp_path / "in.jsonl", [*rows, bad]), near_duplicates=FILTER)
    fault = {"contains": "refused once", "outcome": "invalid_request_error", "attempts": 1}
    sim.set_faults(Faults.of(requests={"matching": [fault]}))
    assert run(pipeline, spec, PARTITION).statuses["errored"] == 1
    before = {name: row for name, row in by_id(results(pipeline, spec)).items() if name != "bad"}
    assert redrive(pipeline, spec, PARTITION).sent == {"errored": 1}
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": 7, "filtered": 6}
    after = by_id(results(pipeline, spec))
    same = ("status", "error_type", "error_message", "content")
    assert {n: [after[n][c] for c in same] for n in before} == {
        n: [row[c] for c in same] for n, row in before.items()
    }
