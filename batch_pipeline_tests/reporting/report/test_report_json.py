"""The report's JSON holds what is promised, and loses no digit."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.reporting.report.report import Costs
from batch_pipeline.reporting.report.report_json import as_json, to_json
from batch_pipeline_tests.reporting.reports import EMPTY, FILTERED, REPORT, changed

PROMISED = {
    "job", "partition", "items", "succeeded", "dead_letter", "filtered", "batches",
    "batch_cost_usd", "realtime_cost_usd", "counterfactual_usd", "savings_usd",
    "cost_per_document_usd", "input_tokens", "output_tokens", "cache_read_tokens",
    "cache_write_tokens", "simulated", "results_path", "complete",
}  # fmt: skip

amounts = st.decimals(0, 999_999, places=12)


@given(amounts)
def test_no_digit_of_an_amount_is_lost_in_json(amount: Decimal) -> None:
    text = to_json(changed(costs=Costs(batch_usd=amount, counterfactual_usd=3 * amount)))
    read = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    assert read["batch_cost_usd"] == amount
    assert read["savings_usd"] == 2 * amount


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0.000000000001", "0.000000000001"), ("1E+2", "100"), ("0E-12", "0"), ("2.50", "2.5")],
)
def test_amounts_are_numbers_in_plain_notation(amount: str, text: str) -> None:
    written = to_json(changed(costs=Costs(batch_usd=Decimal(amount))))
    assert f'"batch_cost_usd": {text},' in written


def test_json_holds_what_is_promised() -> None:
    document = as_json(REPORT)
    assert set(document) >= PROMISED
    assert document["cache_write_tokens"] == 30_000
    assert (document["cache_write_5m_tokens"], document["cache_write_1h_tokens"]) == (
        10_000,
        20_000,
    )
    found = document["turnaround_seconds"]
    assert [found[name] for name in ("batches", "min", "median", "max")] == [
        2, 900.0, 900.0, 1741.0,
    ]  # fmt: skip


def test_what_was_avoided_is_by_cause_and_in_no_sum() -> None:
    found = as_json(FILTERED)
    assert found["avoided_usd"] == {
        "filter:where": Decimal("2.4"),
        "filter:language:fr": Decimal("0.61"),
    }
    assert [each["documents"] for each in found["avoided"]] == [500, 200]
    assert found["filtered_by"] == {"where": 500, "language:fr": 200}
    assert found["savings_usd"] == as_json(REPORT)["savings_usd"]


def test_an_empty_night_is_complete_and_has_no_cost_per_document() -> None:
    document = json.loads(to_json(EMPTY))
    assert document["complete"] is True
    assert document["cost_per_document_usd"] is None
    assert document["cost_per_succeeded_usd"] is None
    assert document["batch_cost_usd"] == 0
    assert EMPTY.costs.savings_share is None
