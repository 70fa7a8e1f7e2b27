"""Whether there is a key at all: told before the SDK is loaded, which takes a second."""

from __future__ import annotations

import os

from batch_pipeline.errors import UsageError


def require_key() -> None:
    """Raise UsageError where the environment has no key."""
    if not (os.environ.get("ANTHROPIC_API_KEY") or os.environ.get("ANTHROPIC_AUTH_TOKEN")):
        raise UsageError(
            "No API key: set ANTHROPIC_API_KEY. To try without one, run `batch-pipeline demo`, "
            "or start `batch-pipeline simulator --port 8765` and set "
            "ANTHROPIC_BASE_URL=http://127.0.0.1:8765 and any non-empty ANTHROPIC_API_KEY."
        )
