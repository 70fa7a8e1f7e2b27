"""Whole nights with fees: every figure agrees with the simulator's own books."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import GateClosedError
from batch_pipeline.flow.costs.cost_report import build_report
from batch_pipeline.flow.costs.estimate import estimate
from batch_pipeline.flow.gates import budget
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status import warnings
from batch_pipeline.jobs.spec import AlertsSpec, JobSpec
from batch_pipeline.ledger import nights, snapshots
from batch_pipeline.reporting.report import report_html, report_markdown
from batch_pipeline.reporting.report.report_json import as_json, to_json
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import PARTITION, documents, job, results, write_rows

SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
CODE = {"type": "code_execution_20250825", "name": "code_execution"}
OPUS = "claude-opus-5"
BILLED = {
    "inference_geo": "us",
    "iterations": [{"model": OPUS, "input_tokens": 1_000, "output_tokens": 100}],
    "server_tool_use": {"code_execution_hours": 0.1},
}


def a_job(tmp_path: Path, count: int = 60, **changes: Any) -> JobSpec:
    source = write_rows(tmp_path / "in.jsonl", documents(count))
    return job(source, **({"params": {"tools": [SEARCH]}} | changes))


@pytest.mark.parametrize(
    ("changes", "billed"),
    [
        ({"pilot": {"size": 6, "max_error_rate": 1}}, {}),
        ({"pilot": {"size": 6, "max_error_rate": 1}}, {**BILLED, "model": OPUS}),
        ({"mode": "realtime", "pilot": {"size": 0}}, {**BILLED, "model": OPUS}),
    ],
    ids=["searches by pilot and batches", "every fee by pilot and batches", "every fee by calls"],
)
def test_fees_are_in_every_figure(
    sim: Simulator,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    changes: dict[str, Any],
    billed: dict[str, Any],
) -> None:
    sim.set_faults(Faults.of(billed=billed))
    pipeline, spec = make_pipeline(), a_job(tmp_path, **changes)
    state = run(pipeline, spec, PARTITION)
    report = build_report(pipeline, spec, state.night)

    books = sim.books
    assert report.costs.batch_usd == books.batch_cost_usd
    assert report.costs.realtime_usd == books.realtime_cost_usd
    assert sum(row["cost_usd"] for row in results(pipeline, spec)) == report.costs.billed_usd
    assert report.costs.attributed_usd == report.costs.billed_usd
    assert sum(usage.usd for usage in report.models) == report.costs.billed_usd
    assert report.fees_usd["web_searches"] >= Decimal("0.60")
    # Searches cost the same both ways, all else twice as much in real time.
    of_searches = report.costs.batch_usd - report.costs.savings_usd
    assert of_searches % Decimal("0.01") == 0
    assert (of_searches > 0) == (report.costs.batch_usd > 0)
    assert set(report.fees_usd) == {
        "web_searches",
        *(["inference_geo", "iterations"] if billed else []),
        *(["other_model"] if "model" in billed else []),
    }
    shown = as_json(report)
    assert json.loads(to_json(report))["fees_usd"].keys() == report.fees_usd.keys()
    unpriced = [fee["name"] for fee in shown["unpriced"]]
    assert unpriced == (["server_tool_use.code_execution_hours"] if billed else [])
    found = warnings.of(state, AlertsSpec())
    assert {w.code for w in found} == {
        *(["unpriced"] if billed else []), *(["other_model"] if "model" in billed else []),
    }  # fmt: skip
    page, text = report_html.render(report), report_markdown.render(report)
    assert "web searches" in page
    assert "web searches" in text
    assert len(text) < report_markdown.INLINE_CHARACTERS
    if billed:
        assert "code_execution_hours" in page

    # What was measured is expected of the next night.
    write_rows(tmp_path / "in.jsonl", documents(120))
    expected = estimate(pipeline, spec, PARTITION)
    assert expected.tokens.source == "measured"
    way = expected.realtime if spec.mode == "realtime" else expected.batch
    billed_usd = float(report.costs.billed_usd)
    assert float(way.expected) == pytest.approx(billed_usd, rel=0.3)


def test_searches_are_estimated_and_reserved_at_what_the_tool_allows(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    pipeline = make_pipeline()
    plain = estimate(pipeline, a_job(tmp_path, params={}), PARTITION)
    found = estimate(pipeline, a_job(tmp_path), PARTITION)
    assert found.batch.expected - plain.batch.expected >= 60 * 5 * Decimal("0.01")
    # 60 documents with five searches each may cost three dollars.
    with pytest.raises(GateClosedError, match=r"budget\.max_usd_per_partition"):
        run(pipeline, a_job(tmp_path, budget={"max_usd_per_partition": 0.04}), PARTITION)
    assert sim.books.batch_cost_usd <= Decimal("0.04")


def test_fees_that_were_measured_are_reserved(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    sim.set_faults(Faults.of(billed={"inference_geo": "us", "iterations": BILLED["iterations"]}))
    unbounded = {"tools": [{**SEARCH, "max_uses": None}]}
    pipeline, spec = make_pipeline(), a_job(tmp_path, params=unbounded)
    night = run(pipeline, spec, PARTITION).night
    report = build_report(pipeline, spec, night)
    with pipeline.ledger.read() as connection:
        night = nights.get_night(connection, night.id)
        assert night.snapshot_id is not None

        snapshot = snapshots.get_snapshot(connection, night.snapshot_id)
        bounds = budget.bounds_of(connection, spec, night, snapshot)
    each = sum(report.fees_usd.values(), Decimal(0)) / 60
    assert bounds.fees == pytest.approx(each * Decimal("1.2"))
