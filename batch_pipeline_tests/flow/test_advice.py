"""Which way an estimate recommends, and that it says why."""

from __future__ import annotations

from decimal import Decimal

import pytest

from batch_pipeline.flow.advice import Way, advise


@pytest.mark.parametrize(
    ("batch_hours", "realtime_hours", "left", "mode", "said"),
    [
        (6, 2, None, "batch", "it saves $2,400.00, and no deadline is declared"),
        (6, 2, 8, "batch", "expected back within 6 h 00 min, the deadline is in 8 h 00 min"),
        (6, 2, 4, "auto", "what would miss it goes in real time, which takes about 2 h 00 min"),
        (6, 5, 4, "auto", "neither batches (6 h 00 min) nor real time (5 h 00 min)"),
    ],
)
def test_advice(
    batch_hours: float, realtime_hours: float, left: float | None, mode: str, said: str
) -> None:
    batch, realtime = Way(Decimal(2_400), batch_hours), Way(Decimal(4_800), realtime_hours)
    advice = advise(batch, realtime, left)
    assert advice.mode == mode
    assert said in advice.reason


def test_nothing_left_to_buy() -> None:
    assert (
        advise(Way(Decimal(0), 0), Way(Decimal(0), 0), 1).reason == "there is nothing left to buy"
    )
