"""The requests in batches of other tenants of the workspace.

`declaration` says when such a batch is created.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import orjson

_MODEL = "claude-haiku-4-5-20251001"


def requests_in(body: bytes) -> int:
    """The number of requests in the body of a create call; 0 if it is no batch."""
    try:
        requests = orjson.loads(body)["requests"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return 0
    return len(requests) if isinstance(requests, list) else 0


def foreign_entries(batch_id: str, total: int) -> Iterator[tuple[str, bytes, bytes]]:
    """(custom_id, content digest, params as JSON) of another tenant's requests."""
    for number in range(total):
        custom_id = f"tenant-{batch_id[-6:]}-{number}"
        params: dict[str, Any] = {
            "model": _MODEL,
            "max_tokens": 100,
            "messages": [{"role": "user", "content": f"Another tenant's question {custom_id}."}],
        }
        raw = orjson.dumps(params)
        yield custom_id, hashlib.sha256(raw).digest(), raw
