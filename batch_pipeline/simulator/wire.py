"""Forms of the Message Batches API: ids, times, errors, limits. No state, no decisions."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

SIMULATOR_HEADER = "x-batch-pipeline-simulator"
"""Response header with the value `1`: a simulator answers, and no money is charged."""

MAX_REQUESTS_PER_BATCH = 100_000
MAX_BYTES_PER_BATCH = 256_000_000
MAX_BYTES_PER_REQUEST = 32_000_000
BATCH_LIFETIME_SECONDS = 24 * 3600
# The API deletes results 29 days after the batch was made.
RESULTS_KEPT_SECONDS = 29 * 24 * 3600
RETRY_AFTER_SECONDS = 10

# Since this version of the API the sampling parameters are rejected.
VERSION_WITHOUT_SAMPLING = "2026-10-21"

TYPE_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""`error.type` → HTTP status, as the API's list of errors has it."""

STATUS_TYPES = {status: kind for kind, status in TYPE_STATUSES.items()} | {408: "timeout_error"}

_ALPHABET = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_TO_ALPHABET = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in range(256))


class ApiError(Exception):
    """An error that the API answers with: HTTP status, `error.type`, message, `error.details`."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        headers: dict[str, str] | None = None,
        details: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.headers = headers or {}
        self.details = details


def invalid_request(message: str) -> ApiError:
    return ApiError(400, "invalid_request_error", message)


def too_large() -> ApiError:
    """The refusal of one request of more than `MAX_BYTES_PER_REQUEST`."""
    return ApiError(413, "request_too_large", "Request exceeds the maximum size")


def not_found(message: str) -> ApiError:
    return ApiError(404, "not_found_error", message)


def error_body(
    kind: str, message: str, request_id: str, details: dict[str, str] | None = None
) -> dict[str, Any]:
    error: dict[str, Any] = {"type": kind, "message": message}
    if details is not None:
        error["details"] = details
    return {"type": "error", "error": error, "request_id": request_id}


def api_key_of(headers: Mapping[str, str]) -> str:
    """The key of a call, from either header that clients send it in; empty if there is none."""
    bearer = headers.get("authorization", "")
    return headers.get("x-api-key") or (
        bearer[7:].strip() if bearer.lower().startswith("bearer ") else ""
    )


def new_id(prefix: str) -> str:
    """An id such as `msgbatch_01…`, random so that it stays unique over restarts."""
    # One call for all characters: each response has an id, thousands a second.
    return f"{prefix}_01{from_alphabet(secrets.token_bytes(22))}"


def from_alphabet(data: bytes) -> str:
    """A character of ids for each byte."""
    return data.translate(_TO_ALPHABET).decode()


def now() -> datetime:
    return datetime.now(UTC)


def timestamp(moment: datetime | None) -> str | None:
    """RFC 3339 with microseconds and a numeric offset, as the API writes it."""
    return None if moment is None else moment.isoformat(timespec="microseconds")
