"""The arithmetic of an estimate: dollars and hours of what is still to be bought."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from batch_pipeline.pricing.estimate import (
    Shares,
    Spread,
    Work,
    amounts,
    batch_hours,
    realtime_hours,
)
from batch_pipeline.pricing.prices import find_price
from batch_pipeline.pricing.tokens import TokenUsage

AT = datetime(2026, 11, 20, tzinfo=UTC)
HAIKU = find_price("claude-haiku-4-5-20251001", AT)
TIERED = find_price("claude-haiku-5-5", AT)


def flat(tokens: float) -> Spread:
    return Spread(tokens, tokens, tokens)


ARCHIVE = Work(1_200_000, flat(3_000), flat(200), lengths=[(12_000, 3_000.0)] * 100)


def test_the_archive_of_1_200_000_documents() -> None:
    """3,000 tokens in and 200 out on Haiku 4.5: $4,800 in real time, $2,400 as batches."""
    batch = amounts(ARCHIVE, HAIKU, "batch", 0.2)
    realtime = amounts(ARCHIVE, HAIKU, "realtime", 0.2)
    assert (batch.expected, realtime.expected) == (Decimal(2_400), Decimal(4_800))
    assert (batch.buffered, realtime.buffered) == (Decimal(2_880), Decimal(5_760))
    assert (batch.p95, realtime.p95) == (Decimal(2_400), Decimal(4_800))


def test_the_p95_is_what_it_costs_if_every_request_is_that_long() -> None:
    work = replace(ARCHIVE, prompt=Spread(3_000, 2_500, 9_000), output=Spread(200, 150, 500))
    found = amounts(work, HAIKU, "batch", 0)
    assert found.expected == found.buffered == 2_400
    # 1.2 million times 9,000 tokens at $0.50 and 500 at $2.50 a million.
    assert found.p95 == Decimal(1_200_000) * (9_000 * 50 + 500 * 250) / 100 / 1_000_000


def test_each_length_has_its_own_tier() -> None:
    """Haiku 5.5 is dearer for prompts above 100,000 tokens; a mean would hide it."""
    lengths = [(8, 1_000.0), (2, 150_000.0)]
    work = Work(10, Spread(30_800, 1_000, 150_000), flat(100), lengths)
    each = [TIERED.cost(TokenUsage(round(n), 100), mode="batch") * count for count, n in lengths]
    found = amounts(work, TIERED, "batch", 0)
    assert found.expected == sum(each)
    one_length = replace(work, lengths=[(10, 30_800.0)])
    assert amounts(one_length, TIERED, "batch", 0).expected < found.expected / 2


def test_cached_tokens_keep_their_share_and_their_price() -> None:
    shares = Shares.of(
        TokenUsage(input_tokens=100, cache_read_tokens=800, cache_write_5m_tokens=100)
    )
    work = Work(1_000, flat(10_000), flat(0), [(1_000, 10_000.0)], shares)
    # 1,000 plain at $0.50, 1,000 written at $0.625, 8,000 read at $0.05, a million each.
    assert amounts(work, HAIKU, "batch", 0).expected == Decimal("1.525")
    assert Shares.of(TokenUsage()) == Shares()


def test_nothing_left_costs_nothing() -> None:
    found = amounts(Work(0, flat(0), flat(0), ()), HAIKU, "batch", 0.2)
    assert found.expected == found.buffered == found.p95 == 0


@pytest.mark.parametrize(
    ("requests", "queue", "hours"),
    [(0, 200_000, 0), (1, 200_000, 1), (200_000, 200_000, 1), (1_200_000, 200_000, 6)],
)
def test_batches_go_in_rounds_of_the_queue(requests: int, queue: int, hours: float) -> None:
    assert batch_hours(requests, queue, 3_600) == hours


def test_real_time_goes_at_its_speed() -> None:
    assert realtime_hours(36_000, 10) == 1
    assert realtime_hours(0, 10) == 0
