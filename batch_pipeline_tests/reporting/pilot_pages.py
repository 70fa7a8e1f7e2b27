"""A pilot's page for tests, with what would run in a browser wherever data come from outside."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from batch_pipeline.reporting import shown_request, value_distribution
from batch_pipeline.reporting.pilot_page import (
    AskedPrompt,
    Attempt,
    Decision,
    Failure,
    PilotPage,
    ShownDocument,
    ShownItem,
)
from batch_pipeline.reporting.shown_request import Text

EVIL = (
    "</div></style><script>alert(1)</script><img src=x onerror=alert(2)>"
    "<a href='javascript:alert(3)'>\u202e{{ 7*7 }}"
)
LONG = "unbroken" * 60
SCHEMA: dict[str, Any] = {"properties": {"kind": {"enum": ["sale", "lease"]}, EVIL: {}}}


def item(number: int, **changes: Any) -> ShownItem:
    params = {
        "model": "claude-haiku-4-5",
        "max_tokens": 500,
        "system": EVIL,
        "messages": [{"role": "user", "content": [{"type": "text", "text": EVIL + LONG}]}],
        "output_config": {"format": {"schema": SCHEMA}},
    }
    found: dict[str, Any] = {
        "number": number,
        "id": f"{EVIL}{number}",
        "status": "succeeded",
        "good": True,
        "documents": (ShownDocument(EVIL, "application/pdf, 3 pages", Text.of(EVIL * 40)),),
        "request": shown_request.of(params),
        "answer": Text.of(EVIL),
        "fields": ((EVIL, EVIL), ("kind", LONG)),
        "extras": (("Citations", Text.of(EVIL)),),
        "attempts": (Attempt(EVIL, "succeeded", EVIL, 100, 20, Decimal("0.001")),) * 2,
        "message": "",
    }
    return ShownItem(**(found | changes))


def page(**changes: Any) -> PilotPage:
    bad = item(1, status="invalid_output", good=False, message=EVIL, fields=())
    asked = AskedPrompt((), 2, "claude-haiku-4-5", 500, "{}", "")
    found: dict[str, Any] = {
        "job": "contracts",
        "partition": "2026-11-29",
        "made_at": datetime(2026, 11, 30, 2, tzinfo=UTC),
        "simulated": True,
        "decision": Decision("review", "Waits", (EVIL,), (("Approve it:", f"run {LONG}"),)),
        "sample": 12,
        "good": 11,
        "night_items": 1_200_000,
        "rest": 1_199_988,
        "way": "in real time",
        "pilot_usd": Decimal("0.02"),
        "projected_usd": Decimal(2_400),
        "low_usd": Decimal(2_300),
        "high_usd": Decimal(2_500),
        "ceilings": ("$3,000.00 for this night",),
        "notes": (EVIL,),
        "asked": asked,
        "fields": tuple(value_distribution.of(SCHEMA, [{"kind": EVIL}] * 12)),
        "failures": (Failure("invalid_output", EVIL, 1, (1,)),),
        "items": (bad, *map(item, range(2, 13))),
        "hidden": 0,
        "confidential": False,
    }
    return PilotPage(**(found | changes))
