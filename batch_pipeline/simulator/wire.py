"""Shapes on the wire: ids, times, errors and limits, as the Message Batches API writes them.

No state and no decision about a request belongs here.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

SIMULATOR_HEADER = "x-batch-pipeline-simulator"
"""Response header, value `1`, by which a client knows that nobody is billed."""

MAX_REQUESTS_PER_BATCH = 100_000
MAX_BYTES_PER_BATCH = 256_000_000
BATCH_LIFETIME_SECONDS = 24 * 3600
RETRY_AFTER_SECONDS = 10

# Since this version of the API the sampling parameters are rejected.
VERSION_WITHOUT_SAMPLING = "2026-10-21"

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class ApiError(Exception):
    """An error that the API answers with: HTTP status, `error.type` and a message."""

    def __init__(
        self, status: int, kind: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.headers = headers or {}


def invalid_request(message: str) -> ApiError:
    return ApiError(400, "invalid_request_error", message)


def not_found(message: str) -> ApiError:
    return ApiError(404, "not_found_error", message)


def error_body(kind: str, message: str, request_id: str) -> dict[str, Any]:
    return {
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": request_id,
    }


def new_id(prefix: str) -> str:
    """An id such as `msgbatch_01…`, random so that it stays unique over restarts."""
    return f"{prefix}_01" + "".join(secrets.choice(_ALPHABET) for _ in range(22))


def now() -> datetime:
    return datetime.now(UTC)


def timestamp(moment: datetime | None) -> str | None:
    """RFC 3339 with microseconds and a numeric offset, as the API writes it."""
    return None if moment is None else moment.isoformat(timespec="microseconds")
