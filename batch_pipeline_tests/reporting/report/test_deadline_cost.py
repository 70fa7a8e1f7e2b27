"""What a deadline cost, in each form of the report."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from batch_pipeline.reporting.report import report_html, report_markdown
from batch_pipeline.reporting.report.report import DeadlineCost
from batch_pipeline.reporting.report.report_json import to_json
from batch_pipeline_tests.reporting.reports import REPORT

WANTED = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)
COST = DeadlineCost(WANTED, met=True, requests=1_500, realtime_usd=Decimal(9),
                    batch_usd=Decimal("4.5"))  # fmt: skip


def test_the_json_says_what_it_cost() -> None:
    document = json.loads(to_json(replace(REPORT, deadline=COST)))
    assert document["deadline"] == {
        "wanted_at": "2026-11-22T06:00:00+00:00",
        "met": True,
        "realtime_requests": 1_500,
        "realtime_cost_usd": 9,
        "as_batches_usd": 4.5,
        "extra_cost_usd": 4.5,
    }
    assert json.loads(to_json(REPORT))["deadline"] is None


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        (COST, "2026-11-22 06:00 UTC met: 1,500 requests in real time for it, $4.50 more than"),
        (DeadlineCost(WANTED, met=False), "2026-11-22 06:00 UTC missed"),
        (DeadlineCost(WANTED, met=None), "2026-11-22 06:00 UTC not over yet"),
    ],
)
def test_the_markdown_has_a_line(cost: DeadlineCost, words: str) -> None:
    text = report_markdown.render(replace(REPORT, deadline=cost))
    assert f"**Deadline** {words}" in text
    assert len(text) < report_markdown.INLINE_CHARACTERS
    assert "Deadline" not in report_markdown.render(REPORT)


def test_the_page_has_a_table() -> None:
    page = report_html.render(replace(REPORT, deadline=COST))
    assert "What the deadline cost" in page
    assert "1,500 requests went in real time for it" in page
    assert "Deadline" not in report_html.render(REPORT)
