"""A job's own prices: what is billed, bounded and reported by them, from the first request on."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import UsageError
from batch_pipeline.flow.costs.cost_report import build_report
from batch_pipeline.flow.costs.estimate import estimate
from batch_pipeline.flow.costs.estimate_json import as_json
from batch_pipeline.flow.run import run
from batch_pipeline.reporting.report.report_json import as_json as report_json
from batch_pipeline.simulator import Simulator
from batch_pipeline.simulator.models import MODELS, Model
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    documents,
    job,
    results,
    submissions_of,
    write_rows,
)


def stated(batch_input: float, batch_output: float) -> dict[str, Any]:
    """Batches at these prices, real time at three times as much; cached tokens at any."""
    cached = {"cache_write_5m": 9, "cache_write_1h": 9, "cache_read": 9}
    return {
        "batch": {"input": batch_input, "output": batch_output, **cached},
        "realtime": {
            "input": round(3 * batch_input, 6),
            "output": round(3 * batch_output, 6),
            **cached,
        },
    }


def billed(usage: dict[str, int], price: dict[str, Any]) -> Decimal:
    tokens = usage["input_tokens"] * Decimal(str(price["input"]))
    return (tokens + usage["output_tokens"] * Decimal(str(price["output"]))) / 1_000_000


def test_a_night_is_billed_at_the_prices_that_the_job_states(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(40))
    first = stated(0.2, 0.7)
    pipeline, spec = make_pipeline(), job(source, pilot={"size": 4}, prices=first)
    state = run(pipeline, spec, PARTITION)
    sample, rest = submissions_of(pipeline)
    for submission, way in ((sample, "realtime"), (rest, "batch")):
        assert submission.cost_usd == billed(submission.tokens, first[way])
        assert submission.cost_usd <= submission.usd_bound
    assert sum(row["cost_usd"] for row in results(pipeline, spec)) == state.total_cost_usd
    report = report_json(build_report(pipeline, spec, state.night))
    assert (report["price_model"], report["price_library"]) == (spec.model_id, "stated by the job")
    assert (
        report["counterfactual_usd"] == 3 * report["batch_cost_usd"] + report["realtime_cost_usd"]
    )

    # Other prices are for what is sent from now on.
    write_rows(source, documents(50))
    later = job(source, pilot={"size": 4}, prices=stated(2, 7))
    again = run(make_pipeline(), later, PARTITION)
    more = again.total_cost_usd - state.total_cost_usd
    assert more == billed(submissions_of(pipeline)[-1].tokens, stated(2, 7)["batch"])
    report = report_json(build_report(pipeline, later, again.night))
    assert (
        report["counterfactual_usd"] == 3 * report["batch_cost_usd"] + report["realtime_cost_usd"]
    )


def test_stated_prices_stand_in_where_none_are_published(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpriced = Model("claude-of-tomorrow", 5, 25, 0.5, 200_000, 64_000)
    monkeypatch.setitem(MODELS, unpriced.id, unpriced)
    source = write_rows(tmp_path / "in.jsonl", documents(3))
    with pytest.raises(UsageError, match="has no price"):
        run(make_pipeline(), job(source, model_id=unpriced.id), PARTITION)
    assert sim.books.accepted_requests == 0
    spec = job(source, model_id=unpriced.id, prices=stated(7, 30))
    found = as_json(estimate(make_pipeline(), spec, PARTITION))
    assert found["price_library"] == "stated by the job"
    assert found["realtime"]["expected_usd"] == pytest.approx(3 * found["batch"]["expected_usd"])
