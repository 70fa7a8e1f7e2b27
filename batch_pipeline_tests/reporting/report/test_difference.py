"""Why a night cost what it did: each reason as it is worked out by hand, and the sum exact."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.pricing.prices import UnitPrices
from batch_pipeline.reporting.report.difference import Asked, Expected, explain

# USD a token: $1 and $5 a million.
PRICES = UnitPrices(*(Decimal(n).scaleb(-6) for n in ("1", "5", "1.25", "2", "0.1")))
EXPECTED = Expected("the pilot", 1_000, Decimal(2_000), Decimal(200), Decimal(3))
ASKED = Asked(requests=1_000, billed=1_000, input_tokens=2_000_000, output_tokens=200_000)


@pytest.mark.parametrize(
    ("asked", "actual", "reasons"),
    [
        (ASKED, "3", {}),
        # A hundred more documents of the same kind.
        (
            replace(
                ASKED, requests=1_100, billed=1_100, input_tokens=2_200_000, output_tokens=220_000
            ),
            "3.3",
            {"items": "0.3"},
        ),
        (replace(ASKED, input_tokens=2_500_000), "3.5", {"input_tokens": "0.5"}),
        (replace(ASKED, output_tokens=100_000), "2.5", {"output_tokens": "-0.5"}),
        # Fifty expired and were not billed; asked again they cost as much.
        (
            replace(
                ASKED, billed=950, input_tokens=1_900_000, output_tokens=190_000,
                again_usd=Decimal("0.15"),
            ),
            "3",
            {"errors": "-0.15", "retries": "0.15"},
        ),
        (replace(ASKED, duplicates_usd=Decimal("0.7")), "3.7", {"duplicates": "0.7"}),
        # All in real time: nothing else explains it.
        (ASKED, "6", {"price": "3"}),
    ],
)  # fmt: skip
def test_each_reason(asked: Asked, actual: str, reasons: dict[str, str]) -> None:
    found = explain(EXPECTED, asked, Decimal(actual), PRICES)
    assert {name: str(usd.normalize()) for name, usd in found.reasons.items() if usd} == reasons
    assert found.usd == Decimal(actual) - 3


counts = st.integers(0, 10**9)
amounts = st.decimals(0, 999_999, places=12)


@given(counts, counts, counts, counts, amounts, amounts, amounts)
def test_reasons_add_up_to_the_last_digit(
    requests: int, billed: int, prompt: int, output: int,
    again: Decimal, twice: Decimal, actual: Decimal,
) -> None:  # fmt: skip
    asked = Asked(requests, billed, prompt, output, again, twice)
    found = explain(EXPECTED, asked, actual, PRICES)
    assert sum(found.reasons.values(), found.expected_usd) == actual
