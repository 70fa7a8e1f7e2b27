"""Cron expressions: nothing is accepted that Dagster refuses."""

from __future__ import annotations

import pytest
from dagster._utils.schedules import is_valid_cron_string
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.jobs.partitions.cron import cron_problem

GOOD = [
    "0 1 * * *",
    "*/15 0-6 1,15 * MON-FRI",
    "30 22 * jan-Mar 0",
    "0 0 * * 7",
    "5 4 1-31/2 12 sun",
]
BAD = [
    "",
    "0 1 * *",
    "0 0 1 * * *",
    "@daily",
    "60 1 * * *",
    "0 24 * * *",
    "0 1 0 * *",
    "0 1 * 13 *",
    "0 1 * * 8",
    "0 1 * * MONDAY",
    "*/0 1 * * *",
    "*/x 1 * * *",
    "5-1 1 * * *",
    "1-2-3 1 * * *",
    "1, 1 * * *",
    "-1 1 * * *",
    "nightly",
    "0 ² * * *",
]
_items = st.from_regex(r"(\*|[0-9]{1,2}(-[0-9]{1,2})?|MON|jan)(/[0-9]{1,2})?", fullmatch=True)


@pytest.mark.parametrize("expression", GOOD)
def test_good(expression: str) -> None:
    assert cron_problem(expression) is None
    assert is_valid_cron_string(expression)


@pytest.mark.parametrize("expression", BAD)
def test_bad(expression: str) -> None:
    assert cron_problem(expression) is not None


@given(st.lists(_items, min_size=5, max_size=5).map(" ".join))
def test_what_is_accepted_dagster_accepts(expression: str) -> None:
    if cron_problem(expression) is None:
        assert is_valid_cron_string(expression)
