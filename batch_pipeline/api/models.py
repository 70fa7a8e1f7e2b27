"""What is known about models: the API's own description, and dates for when it cannot be asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from anthropic.resources.messages import DEPRECATED_MODELS

from batch_pipeline.api.protocol import ModelInfo

# Announced after the installed SDK was made.
_ANNOUNCED = dict.fromkeys(("claude-opus-4-5", "claude-opus-4-5-20251101"), "January 22nd, 2027")


def retirement_date(model_id: str) -> date | None:
    """The last day of a deprecated model; None if none is known."""
    text = DEPRECATED_MODELS.get(model_id) or _ANNOUNCED.get(model_id)
    if text is None:
        return None
    # "November 30th, 2026"
    plain = re.sub(r"(\d)(st|nd|rd|th),", r"\1,", text)
    try:
        return datetime.strptime(plain, "%B %d, %Y").replace(tzinfo=UTC).date()
    except ValueError:
        return None


def parse_model(data: object) -> ModelInfo | None:
    """A model of the API's list; None for an entry without an id. Odd fields count as not said."""
    if not isinstance(data, Mapping) or not isinstance(data.get("id"), str):
        return None
    lifecycle, most = data.get("lifecycle"), data.get("max_tokens")
    capabilities: Any = data.get("capabilities")
    return ModelInfo(
        id=data["id"],
        lifecycle=lifecycle if isinstance(lifecycle, str) else None,
        retires=_day(data.get("retires_at")),
        max_tokens=most if isinstance(most, int) and most > 0 else None,
        capabilities=capabilities if isinstance(capabilities, Mapping) else {},
    )


def _day(text: object) -> date | None:
    try:
        return datetime.fromisoformat(text).date() if isinstance(text, str) else None
    except ValueError:
        return None
