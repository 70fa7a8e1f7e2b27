"""Where accounts stand: what is said of each, and what they share."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from batch_pipeline.flow.status.account_state import AccountState, AtApi
from batch_pipeline.ledger.accounts.accounts import Account
from batch_pipeline.ledger.admission.budget import Spending

AT = 1_000_000.0
READY = AccountState(
    account=Account("research_a", simulated=False, organisation="north"),
    at_api=AtApi(queued=40, batches=2, oldest_at=AT - 60),
    limit=100,
    limit_set=100,
    limit_read=None,
    limit_setting="max_queued_requests of account research_a",
    used=60,
    spent=Spending(Decimal(3), Decimal(1)),
    ceiling=Decimal(10),
    declared=True,
    at=AT,
)
NOTHING: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("account", "changes", "word", "trouble"),
    [
        (NOTHING, NOTHING, "ready", None),
        ({"refused": {"since": AT, "at": AT, "times": 3, "reason": "401 no"}}, NOTHING,
         "key refused", "401 no"),
        ({"paused_reason": "no credit", "probe_at": AT + 900}, NOTHING, "paused", "no credit"),
        ({"unanswered": {"since": AT - 60, "at": AT, "reason": "HTTP 503"}}, NOTHING,
         "no answer", "HTTP 503"),
        # Of several the one that a person has to see to.
        ({"paused_reason": "no credit", "unanswered": {"since": AT, "at": AT, "reason": "x"}},
         {"used": 100}, "paused", "no credit"),
        (NOTHING, {"used": 100}, "queue full", None),
        (NOTHING, {"used": 130}, "queue full", None),
        ({"wait_until": AT + 60}, NOTHING, "queue full", "asked again"),
        # The clock was wrong: no wait is longer than an hour.
        ({"wait_until": AT + 1e6}, NOTHING, "ready", None),
        ({"reads_wait_until": AT + 60}, NOTHING, "ready", "asked not to be asked"),
        (NOTHING, {"ceiling": Decimal(4)}, "ceiling reached", "max_usd_per_month"),
        (NOTHING, {"ceiling": None}, "ready", None),
        (NOTHING, {"declared": False}, "not declared", "declare it until then"),
        (NOTHING, {"declared": False, "at_api": AtApi()}, "not declared", None),
        (NOTHING, {"limit_read": 80, "limit": 80}, "ready", "gives organisation north 80"),
        (NOTHING, {"limit_read": 500}, "ready", None),
    ],
)  # fmt: skip
def test_the_state_in_a_word_and_what_is_wrong(
    account: dict[str, Any], changes: dict[str, Any], word: str, trouble: str | None
) -> None:
    state = replace(READY, account=replace(READY.account, **account), **changes)
    assert state.word == word
    told = list(state.troubles())
    assert bool(told) == (trouble is not None)
    assert (trouble or "") in "; ".join(told)
    assert state.as_json()["troubles"] == told
    assert state.room == max(0, state.limit - state.used)
