"""What the official SDK knows about models: when a deprecated one retires."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

from anthropic.resources.messages import DEPRECATED_MODELS


def retirement_date(model_id: str) -> date | None:
    """The last day of a deprecated model; None if the installed SDK names none."""
    text = DEPRECATED_MODELS.get(model_id)
    if text is None:
        return None
    # "November 30th, 2026"
    plain = re.sub(r"(\d)(st|nd|rd|th),", r"\1,", text)
    try:
        return datetime.strptime(plain, "%B %d, %Y").replace(tzinfo=UTC).date()
    except ValueError:
        return None
