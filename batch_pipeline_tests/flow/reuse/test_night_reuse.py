"""Nights that reuse answers of earlier nights, from their input to their results."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.support import accepted_twice, by_id, documents, job, results, write_rows

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
