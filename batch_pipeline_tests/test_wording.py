"""How money, counts and times are written for people."""

from __future__ import annotations

from decimal import Decimal

import pytest

from batch_pipeline.wording import duration, short_count, short_usd, speed, usd


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("1234.567", "$1,234.57"), ("0.5", "$0.50"), ("0.1", "$0.10"), ("0", "$0.00"),
        ("0.0123456", "$0.0123"), ("0.000001", "$0.00000100"), ("-1.5", "-$1.50"), (None, "n/a"),
    ],
)  # fmt: skip
def test_amounts(amount: str | None, text: str) -> None:
    assert usd(None if amount is None else Decimal(amount)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 01 s"),
        (200, "3 min 20 s"),
        (18_000, "5 h"),
        (18_420, "5 h 07 min"),
        (172_800, "2 days"),
        (216_000, "2 days 12 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "$0.00"), (0.4, "$0.40"), (3, "$3.00"), (2.5, "$2.50"), (0.00025, "$0.000250"),
        (2_500, "$2.5k"), (25_000, "$25k"),
    ],
)  # fmt: skip
def test_amounts_under_a_tick(value: float, text: str) -> None:
    assert short_usd(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (950, "950"), (1_200, "1.2k"), (2.5e6, "2.5M"), (3e9, "3B")]
)
def test_counts_under_a_tick(value: float, text: str) -> None:
    assert short_count(value) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(0.042, "0.042"), (12.34, "12.3"), (10, "10"), (1_110, "1,110"), (2e6, "2,000,000")],
)
def test_a_speed_is_written_without_an_exponent(per_second: float, text: str) -> None:
    assert speed(per_second) == text
