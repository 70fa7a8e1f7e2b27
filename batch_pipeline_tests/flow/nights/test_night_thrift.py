"""Nights with everything that saves money switched on together: what they cost, and what is bought
again after the declaration has changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.flow.costs.cost_report import build_report
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.nights import Night
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.support import accepted_twice, documents, job, results, write_rows

STRONG, MIDDLE = "claude-opus-4-6", "claude-sonnet-4-6"
SCHEMA = {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}
FIRST, SECOND = "2026-01-01", "2026-01-02"
# Long enough for the cache of each model.
SYSTEM = "Name the topic of the document in one word, and nothing else. " * 400


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Documents of three kinds, of which one is not asked for and one has a model of its own."""
    kinds = ("merger", "letter", "draft", "note")
    return [
        {
            **row,
            "kind": kinds[number % 4],
            "text": " ".join([row["text"], *(str(number * 7919 + k * 104_729) for k in range(50))]),
        }
        for number, row in enumerate(documents(count, start), start)
    ]


def thrifty(folder: Path, **changes: Any) -> JobSpec:
    declared: dict[str, Any] = {
        "partitions": {"start": FIRST},
        "prompt": {"system": SYSTEM, "user": "{text}"},
        "output_schema": SCHEMA,
        "pilot": {"size": 4},
        "filters": {"where": "kind <> 'draft'"},
        "near_duplicates": {"threshold": 0.9},
        "reuse": {"nights": 30},
        "routes": [{"where": "kind = 'merger'", "model_id": MIDDLE, "max_tokens": 500}],
        "retry": {
            "truncated_max_tokens": 8_000,
            "escalate": {"model_id": STRONG, "where": "output_tokens % 3 = 0", "max_share": 1.0},
        },
        "limits": {"max_requests_per_batch": 24},
    }
    return job(folder / "{partition}.jsonl", **(declared | changes))


def books_are_right(
    sim: Simulator, pipeline: Pipeline, spec: JobSpec, nights: Mapping[str, Night]
) -> None:
    """The reports, the rows and the simulator's books say the same of money, by model and way."""
    by_model: Counter[tuple[str, bool]] = Counter()
    in_rows = Decimal(0)
    for partition, night in nights.items():
        report = build_report(pipeline, spec, night)
        for usage in report.models:
            by_model[usage.model_id, usage.mode == "batch"] += usage.usd  # type: ignore[assignment]
        in_rows += sum(row["cost_usd"] or 0 for row in results(pipeline, spec, partition))
    books = sim.books
    assert dict(by_model) == books.cost_by_model
    assert in_rows == books.batch_cost_usd + books.realtime_cost_usd


@pytest.mark.parametrize(
    "changes",
    [
        {"caching": "auto"},
        {"caching": "5m", "mode": "realtime", "budget": {"max_usd_per_partition": 5}},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_everything_together(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, changes: dict[str, Any]
) -> None:
    [first, *_] = rows(1)
    near = {**first, "id": "near", "text": f"{first['text']} and more"}
    inputs = {FIRST: [*rows(28), near], SECOND: rows(28, 8)}
    spec, nights = thrifty(tmp_path, **changes), {}
    for night, found in inputs.items():
        write_rows(tmp_path / f"{night}.jsonl", found)
        state = run(pipeline, spec, night)
        assert state.complete
        nights[night] = state.night
        # One row an input row.
        shown = results(pipeline, spec, night)
        assert Counter(row["id"] for row in shown) == Counter(row["id"] for row in found)
    assert Counter(row["mode"] for row in shown)["reused"] == 15
    reasons = Counter(row["error_type"] for row in results(pipeline, spec, FIRST))
    assert (reasons["where"], reasons["near_duplicate"]) == (7, 1)
    assert not [row for row in shown if row["status"] == "filtered" and row["cost_usd"]]
    books_are_right(sim, pipeline, spec, nights)
    assert not accepted_twice(sim)


def test_other_filters_and_caching_buy_nothing_again_and_a_moved_rule_what_changed_its_route(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    write_rows(tmp_path / f"{FIRST}.jsonl", rows(32))
    run(pipeline, thrifty(tmp_path, caching="auto"), FIRST)
    bought = sim.books.accepted_requests
    wider = {"filters": {"where": "kind <> 'note'"}, "caching": "off"}
    run(pipeline, thrifty(tmp_path, **wider), FIRST)
    drafts = sim.books.accepted_requests - bought
    assert 8 <= drafts <= 16
    moved = [{"where": "kind = 'merger'", "model_id": STRONG, "max_tokens": 700}]
    spec = thrifty(tmp_path, **wider, routes=moved)
    state = run(pipeline, spec, FIRST)
    assert sim.books.accepted_requests - bought - drafts == 8
    books_are_right(sim, pipeline, spec, {FIRST: state.night})
    assert not accepted_twice(sim)
