"""What the checks of a finished night say, and when they fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from batch_pipeline.flow.results.examples import Example, Rows
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.checks import night_checks
from batch_pipeline.orchestration.checks.night_checks import Found
from batch_pipeline.orchestration.shown import answers_shown
from batch_pipeline.reporting.report.report import Report, SetAside
from batch_pipeline_tests.orchestration.conftest import MakeSpec
from batch_pipeline_tests.orchestration.nightly import Nightly
from batch_pipeline_tests.reporting.reports import REPORT
from batch_pipeline_tests.support import nightly_job

GOOD, YELLOW, RED = "good", "yellow", "red"


def colour(found: Found) -> str:
    if found.passed:
        return GOOD
    return YELLOW if found.warning else RED


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    """A nightly job."""
    return JobSpec(**nightly_job(tmp_path, "2026-01-01"))


@pytest.mark.parametrize(
    ("items", "rows", "ids", "expected"),
    [(40, 40, 40, GOOD), (0, 0, 0, GOOD), (40, 39, 39, RED), (40, 41, 40, RED), (40, 40, 39, RED)],
)
def test_every_item_has_one_row(items: int, rows: int, ids: int, expected: str) -> None:
    assert colour(night_checks.every_item(items, Rows(rows, ids))) == expected


@pytest.mark.parametrize(
    ("rate", "answered", "expected"),
    [(0.05, 100, GOOD), (0.06, 100, YELLOW), (0.307, 100, RED), (0.307, 20, YELLOW)],
)
def test_the_error_rate_has_the_limits_of_pilot_and_alerts(
    spec: JobSpec, rate: float, answered: int, expected: str
) -> None:
    state: Any = SimpleNamespace(error_rate=rate, answered=answered)
    found = night_checks.error_rate(spec, state)
    assert colour(found) == expected
    assert found.numbers["limit_percent"] == 10.0
    assert found.numbers["rate_percent"] == pytest.approx(100 * rate)


@pytest.mark.parametrize(("bad", "expected"), [(0, GOOD), (5, GOOD), (7, YELLOW), (20, RED)])
def test_the_share_of_answers_that_fit_the_schema(spec: JobSpec, bad: int, expected: str) -> None:
    statuses = {"succeeded": 100 - bad, "invalid_output": bad, "refused": 900}
    found = night_checks.fits_schema(spec, statuses)
    assert colour(found) == expected
    assert found.numbers["fit_percent"] == 100 - bad


@pytest.mark.parametrize(("dead", "expected"), [(0, GOOD), (5, GOOD), (6, RED)])
def test_the_rate_of_dead_letters(spec: JobSpec, dead: int, expected: str) -> None:
    assert colour(night_checks.dead_letter_rate(spec, dead, 100)) == expected


@pytest.mark.parametrize(("systematic", "expected"), [(True, YELLOW), (False, GOOD)])
def test_systematic_errors_are_named(systematic: bool, expected: str) -> None:
    group = SetAside("refused", "refusal", "no", 12, ("a",), systematic)
    found = night_checks.systematic_errors([group])
    assert colour(found) == expected
    assert ("12 refused" in found.verdict) is systematic


@pytest.mark.parametrize(
    ("declared", "over", "expected"),
    [
        ({}, None, GOOD),
        ({"budget": {"max_usd_per_partition": 26}}, None, GOOD),
        ({"budget": {"max_usd_per_partition": 25}}, None, RED),
        ({"alerts": {"max_usd_per_document": 0.002}}, None, RED),
        ({}, "the ceiling is passed", RED),
    ],
)
def test_the_bill_against_the_ceilings(
    tmp_path: Path, declared: dict[str, Any], over: str | None, expected: str
) -> None:
    spec = JobSpec(**{**nightly_job(tmp_path, "2026-01-01"), **declared})
    found = night_checks.within_budget(spec, over, REPORT)
    assert colour(found) == expected
    assert found.numbers["billed_usd"] == pytest.approx(25.22, abs=0.01)


@pytest.mark.parametrize(
    ("times", "expected"), [("1.1", GOOD), ("0.9", GOOD), ("1.3", YELLOW), ("0.5", YELLOW)]
)
def test_the_estimate_against_the_bill(spec: JobSpec, times: str, expected: str) -> None:
    assert REPORT.pilot is not None
    projected = REPORT.costs.billed_usd / Decimal(times)
    report: Report = replace(REPORT, pilot=replace(REPORT.pilot, projected_usd=projected))
    assert colour(night_checks.estimate_against_actual(spec, report)) == expected


def test_without_an_estimate_there_is_nothing_to_compare(spec: JobSpec) -> None:
    report = replace(REPORT, pilot=None, differences=())
    assert night_checks.estimate_against_actual(spec, report).passed


def test_answers_are_words_in_a_short_table() -> None:
    hostile = "a | b\n![x](http://evil/x.png) <script> `code` www.evil.example " + "long " * 500
    rows = [Example("id|1", "succeeded", hostile, None, None)] * 3
    rows += [Example("2", "refused", None, "refusal", hostile)] * 3
    text = answers_shown.table(rows)
    assert len(text) < answers_shown.INLINE_CHARACTERS
    assert len(text.splitlines()) == 8
    assert "![x]" not in text
    assert "://" not in text
    assert "\\<script\\>" in text
    assert all(line.replace("\\|", "").count("|") == 4 for line in text.splitlines())


def test_a_job_can_hide_its_answers(make_spec: MakeSpec) -> None:
    no_pipeline: Any = None
    assert answers_shown.of_night(no_pipeline, make_spec(show_answers=False), "all") == {}


def test_a_night_has_all_checks_answers_tokens_and_versions(
    make_spec: MakeSpec, nightly: Callable[..., Nightly], nights: list[str]
) -> None:
    given = make_spec().input.path
    job = nightly(input={"path": given, "upstream": ["raw/documents", "raw/never"]})
    job.instance.report_runless_asset_event(
        dg.AssetMaterialization(
            ["raw", "documents"], partition=nights[0], tags={"dagster/data_version": "v_7"}
        )
    )
    assert job.launch(nights[0]).success
    job.run_to_the_end(nights[0])
    for check in night_checks.specs(make_spec()):
        latest = job.instance.event_log_storage.get_latest_asset_check_execution_by_key([check.key])
        event = latest[check.key].event
        assert event is not None
        evaluation = event.asset_check_evaluation
        assert evaluation is not None, check.key
        assert evaluation.metadata["partition"].value == nights[0]
        if check.name != night_checks.ESTIMATE:
            assert evaluation.passed, evaluation
    for asset in ("pilot_sample", "collected_results"):
        # Right below the headline.
        assert list(job.metadata(asset, nights[0]))[1] == "answers"
    shown = job.metadata("input_dataset", nights[0])
    columns = shown["dagster/column_schema"].columns
    assert [(c.name, c.type) for c in columns] == [("id", "string"), ("text", "string")]
    assert "| raw/documents | `v\\_7` of this partition |" in shown["upstream_data_versions"]
    assert "| raw/never | never materialized |" in shown["upstream_data_versions"]
    cost = job.metadata("cost_report", nights[0])
    assert cost["input_tokens"] > 0
    assert cost["output_tokens"] > 0
    assert "**Did it work?** Yes" in cost["night"]
    assert next(iter(cost)) == "night"
