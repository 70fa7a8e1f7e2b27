"""What the SDK and its transports raise and answer, as the protocol's plain values.

Shared by the two clients of the adapter; no call is made here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import anthropic
import httpx2
import orjson

from batch_pipeline.api.protocol import ApiFailure, RateLimit, RateLimits

LIMITED = ("requests", "input-tokens", "output-tokens")
_HEADERS = tuple(
    (name, *(f"anthropic-ratelimit-{name}-{part}" for part in ("limit", "remaining", "reset")))
    for name in LIMITED
)


@contextmanager
def failures() -> Iterator[None]:
    """Turn what the SDK and its transport raise into `ApiFailure`."""
    try:
        yield
    except anthropic.APIStatusError as error:
        raise _status_failure(error) from error
    except anthropic.APIError as error:
        cause = error.__cause__
        message = f"{error} {cause or ''}".strip()
        connected = not _never_established(cause)
        raise ApiFailure(None, None, None, message, connected=connected) from error
    except httpx2.HTTPError as error:
        # A break in mid-stream is not an SDK error.
        raise ApiFailure(None, None, None, f"{type(error).__name__}: {error}") from error


def json_of(response: httpx2.Response) -> dict[str, Any]:
    """The JSON object of a 2xx; anything else is a failure whose status is that 2xx."""
    try:
        data = orjson.loads(response.content)
    except orjson.JSONDecodeError as error:
        raise unreadable(response) from error
    if not isinstance(data, dict):
        raise unreadable(response)
    return data


def unreadable(response: httpx2.Response) -> ApiFailure:
    return ApiFailure(response.status_code, None, None, "an answer that cannot be read")


def betas_header(betas: Sequence[str]) -> dict[str, str]:
    return {"anthropic-beta": ",".join(betas)} if betas else {}


def rate_limits(headers: httpx2.Headers) -> RateLimits:
    """The `anthropic-ratelimit-*` headers; one that is missing or cannot be read counts as none."""
    found = {}
    for name, limit, remaining, reset in _HEADERS:
        if limit in headers:
            try:
                whole, left = float(headers[limit]), float(headers[remaining])
            except (KeyError, ValueError):
                continue
            found[name] = RateLimit(whole, left, _until(headers, reset))
    return found


def _until(headers: httpx2.Headers, name: str) -> float | None:
    """Seconds from the answer's own date to a time in its headers: our clock has no say."""
    try:
        date = datetime.strptime(headers["date"], "%a, %d %b %Y %H:%M:%S %Z").timestamp()  # noqa: DTZ007
        moment = datetime.fromisoformat(headers[name]).replace(tzinfo=None).timestamp()
    except (KeyError, ValueError):
        return None
    return max(0.0, moment - date)


def _never_established(cause: BaseException | None) -> bool:
    """Whether nothing can have been sent, because there was no connection to send it over."""
    return isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)


def _status_failure(error: anthropic.APIStatusError) -> ApiFailure:
    body = error.body if isinstance(error.body, Mapping) else {}
    detail = body.get("error")
    detail = detail if isinstance(detail, Mapping) else {}
    code = detail.get("code") or (detail.get("details") or {}).get("error_code")
    return ApiFailure(
        status=error.status_code,
        error_type=_text(detail.get("type")),
        error_code=_text(code),
        message=_text(detail.get("message")) or error.message,
        retry_after=_seconds(error.response.headers.get("retry-after")),
        limits=rate_limits(error.response.headers),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None
