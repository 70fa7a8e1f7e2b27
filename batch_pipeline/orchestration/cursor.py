"""The sensor's cursor: what was last observed of each unfinished night.

Nothing is noted there as done: what is to be done follows from the ledger, so that a lost cursor
costs some repeated observations and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

# Dagster stores the cursor with every tick.
MOST_NIGHTS = 500


def read(text: str | None) -> dict[str, str]:
    """Digests by partition; an unreadable cursor counts as empty."""
    try:
        data = json.loads(text or "{}")
    except json.JSONDecodeError:
        return {}
    if not isinstance(data, dict):
        return {}
    return {str(key): str(value) for key, value in data.items()}


def write(observed: Mapping[str, str]) -> str:
    """The newest nights, if there are too many for a cursor."""
    return json.dumps(dict(sorted(observed.items())[-MOST_NIGHTS:]))


def digest(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
