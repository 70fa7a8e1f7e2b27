"""Which way an estimate recommends, and that it says why."""

from __future__ import annotations

from decimal import Decimal

import pytest

from batch_pipeline.flow.costs.advice import Way, advise

MINUTES = 1 / 60


@pytest.mark.parametrize(
    ("batch", "realtime", "left", "mode", "said"),
    [
        # Nobody waits: the saving decides.
        ((2_400, 6), (4_800, 2), None, "batch", "it saves $2,400.00, and no deadline is declared"),
        ((2_400, 6), (4_800, 0.4), None, "batch", "it saves $2,400.00, and no deadline is"),
        # A trial of some documents: cents are saved, an hour is lost.
        ((0.05, 1), (0.1, MINUTES), None, "realtime", "save $0.0500, less than 59 min of"),
        ((0.98, 1), (1.96, MINUTES), None, "realtime", "(at $1.00 an hour)"),
        ((0.99, 1), (1.98, MINUTES), None, "batch", "it saves $0.99"),
        # Batches of this account are back in minutes: there is no time to be won.
        ((0.05, 2 * MINUTES), (0.1, MINUTES), None, "batch", "it saves $0.0500"),
        ((0.05, MINUTES), (0.1, 2 * MINUTES), None, "batch", "it saves $0.0500"),
        # A full queue makes batches slow, and a day of waiting is worth more.
        ((20, 24), (40, 0.4), None, "realtime", "it is done in about 24 min"),
        ((20, 24), (40, 0.6), None, "batch", "it saves $20.00"),
        # Somebody waits until the deadline, and not sooner.
        ((0.05, 1), (0.1, MINUTES), 8, "batch", "the deadline is in 8 h"),
        ((2_400, 6), (4_800, 2), 8, "batch", "expected back within 6 h, the deadline is in"),
        ((2_400, 6), (4_800, 2), 6, "batch", "expected back within 6 h"),
        ((2_400, 6), (4_800, 2), 4, "auto", "what would miss it goes in real time, which takes"),
        ((2_400, 6), (4_800, 5), 4, "auto", "neither batches (6 h) nor real time (5 h"),
        ((0, 0), (0, 0), 1, "batch", "there is nothing left to buy"),
        ((0, 0), (0, 0), None, "batch", "there is nothing left to buy"),
    ],
)
def test_advice(
    batch: tuple[float, float],
    realtime: tuple[float, float],
    left: float | None,
    mode: str,
    said: str,
) -> None:
    advice = advise(_way(*batch), _way(*realtime), left)
    assert advice.mode == mode
    assert said in advice.reason


def _way(amount: float, hours: float) -> Way:
    return Way(Decimal(str(amount)), hours)
