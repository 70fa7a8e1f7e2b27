"""Nights whose near duplicates share an answer, if the pilot shows that they may."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from batch_pipeline.flow.dataset import layers, snapshot
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.recovery.recover import recover
from batch_pipeline.flow.reuse import copies
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    accepted_twice,
    by_id,
    job,
    results,
    write_rows,
)

pytest.importorskip("rensa")

FORMS = 100
WORDS = ["".join(random.Random(n).choices("abcdefghij", k=6)) for n in range(2_000)]


@pytest.fixture(autouse=True)
def _several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots of these small nights have several parts, as those of large ones have."""
    for name in ("GROUP_ROWS", "PART_ROWS"):
        monkeypatch.setattr(snapshot, name, 30)
    monkeypatch.setattr(layers, "MOST_TOGETHER", 2)


def _answer(kind: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"kind": {"type": "string", **kind}},
        "required": ["kind"],
        "additionalProperties": False,
    }


# Answers that are the same for all documents, and such as differ.
SAME, OTHER = _answer({"enum": ["contract"]}), _answer({})


def forms(tmp_path: Path, schema: dict[str, Any], **changes: Any) -> JobSpec:
    """A job over 100 forms, each of which was filled in by two customers."""
    rows = [
        {"id": f"{form}-{copy}", "text": f"{_text(form)} customer {form}-{copy}"}
        for form in range(FORMS)
        for copy in (0, 1)
    ]
    declared: dict[str, Any] = {
        "output_schema": schema,
        "near_duplicates": {"threshold": 0.8, "action": "reuse", "min_agreement": 0.5},
        "pilot": {"size": 4, "max_error_rate": 1.0},
        **changes,
    }
    return job(write_rows(tmp_path / "in.jsonl", rows), **declared)


def _text(seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=150))


def test_twins_have_their_leaders_answers_once_the_pilot_has_shown_that_they_agree(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    spec = forms(tmp_path, SAME)
    state = run(pipeline, spec, PARTITION)
    assert (state.complete, state.statuses) == (True, {"succeeded": 2 * FORMS})
    verdict = state.night.pilot
    assert verdict is not None
    near = verdict["near_duplicates"]
    assert (near["pairs"], near["equal"], near["accepted"]) == (8, 8, True)
    assert near["lower_bound"] == pytest.approx(0.05 ** (1 / 8), abs=1e-4)
    # The pilot is at most a tenth of the night, pairs included; its twins keep their own answers.
    assert verdict["sample"] + 2 * near["pairs"] <= 2 * FORMS // 10
    rows = by_id(results(pipeline, spec))
    reused = {name: row for name, row in rows.items() if row["mode"] == "reused"}
    assert len(reused) == FORMS - near["pairs"]
    assert sim.books.billed_requests == FORMS + near["pairs"]
    for name, row in reused.items():
        leader = rows[name.replace("-1", "-0")]
        assert row["answered_by"] == f"id:{leader['id']}"
        assert (row["cost_usd"], row["parsed"]) == (0, leader["parsed"])
        assert row["fingerprint"] != leader["fingerprint"]
    assert state.snapshot is not None
    assert state.snapshot.avoided["near_duplicates"]["documents"] == len(reused)
    assert sum(row["cost_usd"] for row in rows.values()) == state.total_cost_usd
    # The projection leaves out what is not bought.
    assert verdict["projected_usd"] == pytest.approx(float(state.total_cost_usd), rel=0.5)


def test_twins_are_bought_where_answers_differ(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    state = run(pipeline, forms(tmp_path, OTHER), PARTITION)
    assert (state.complete, state.statuses) == (True, {"succeeded": 2 * FORMS})
    assert state.night.pilot is not None
    near = state.night.pilot["near_duplicates"]
    assert not near["accepted"]
    assert near["reason"].endswith("each is bought")
    rows = results(pipeline, forms(tmp_path, OTHER))
    assert Counter(row["answered_by"] for row in rows) == {None: 2 * FORMS}
    assert not accepted_twice(sim)


def test_too_few_pairs_show_nothing(sim: Simulator, pipeline: Pipeline, tmp_path: Path) -> None:
    near = {"threshold": 0.8, "action": "reuse", "min_agreement": 0.95}
    state = run(pipeline, forms(tmp_path, SAME, near_duplicates=near), PARTITION)
    assert state.complete
    assert state.night.pilot is not None
    found = state.night.pilot["near_duplicates"]
    assert (found["pairs"], found["accepted"]) == (0, False)
    assert "59 are needed" in found["reason"]
    assert state.snapshot is not None
    assert "near_duplicates" not in state.snapshot.avoided


def test_a_failed_leaders_twins_are_bought(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    failing = [f"customer {form}-0" for form in range(30, 60)]
    sim.set_faults(
        Faults.of(
            requests={
                "matching": [
                    {"contains": text, "outcome": "invalid_request_error"} for text in failing
                ]
            }
        )
    )
    spec = forms(tmp_path, SAME, alerts={"error_rate": 1.0})
    state = run(pipeline, spec, PARTITION)
    rows = by_id(results(pipeline, spec))
    assert state.complete
    assert state.night.pilot is not None
    assert state.night.pilot["near_duplicates"]["accepted"]
    # The fault is one of batches: what the pilot asked in real time is answered.
    failed = {name.split("-")[0] for name, row in rows.items() if row["status"] == "errored"}
    assert 20 < len(failed) == state.statuses["errored"]
    assert {
        (row["status"], row["mode"], row["answered_by"])
        for row in rows.values()
        if row["id"] in {f"{form}-1" for form in failed}
    } == {("succeeded", "batch", None)}
    assert not accepted_twice(sim)


def test_a_crash_while_twins_are_answered_changes_nothing(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = forms(tmp_path, SAME)
    for place in ("publish", "record"):
        with monkeypatch.context() as patched:
            patched.setattr(copies, place, Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                run(make_pipeline(), spec, PARTITION)
    state = run(make_pipeline(), spec, PARTITION)
    assert (state.complete, state.statuses) == (True, {"succeeded": 2 * FORMS})
    assert len(by_id(results(make_pipeline(), spec))) == 2 * FORMS
    assert not accepted_twice(sim)


def test_a_lost_ledger_leaves_twins_their_answers(
    sim: Simulator, make_pipeline: MakePipeline, home: Path, tmp_path: Path
) -> None:
    spec = forms(tmp_path, SAME)
    pipeline = make_pipeline()
    run(pipeline, spec, PARTITION)
    before = results(pipeline, spec)
    pipeline.close()
    for file in home.glob("ledger.sqlite*"):
        file.unlink()
    pipeline = make_pipeline()
    assert recover(pipeline, wait=False).complete
    bought = sim.books.accepted_requests
    state = run(pipeline, spec, PARTITION)
    assert state.complete
    assert results(pipeline, spec) == before
    assert sim.books.accepted_requests == bought
