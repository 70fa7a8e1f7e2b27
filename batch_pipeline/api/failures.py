"""Turns errors and answers of the SDK and its transports into the protocol's plain values.

Shared by all clients in this package; no call is made here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import anthropic
import httpx2
import orjson

from batch_pipeline.api.protocol import ApiFailure, RateLimit, RateLimits, read_json
from batch_pipeline.safe_text import redacted
from batch_pipeline.wording import clipped

LIMITED = ("requests", "input-tokens", "output-tokens")
_HEADERS = tuple(
    (name, *(f"anthropic-ratelimit-{name}-{part}" for part in ("limit", "remaining")))
    for name in LIMITED
)
# Characters of a body that is not the API's that a message quotes.
QUOTED = 200
JSON_BODY = {"content-type": "application/json"}


@contextmanager
def failures() -> Iterator[None]:
    """Turn errors of the SDK and its transport into `ApiFailure`.

    Their own texts are left behind: a transport quotes a header or an address that it refuses, and
    a trace prints the causes of an error.
    """
    try:
        yield
    except anthropic.APIStatusError as error:
        response = error.response
        raise refusal(error.status_code, response.headers, response.content) from None
    except anthropic.APIError as error:
        cause = error.__cause__
        message = f"{error} {said(cause) if cause else ''}".strip()
        connected = not _never_established(cause)
        raise ApiFailure(None, None, None, message, connected=connected) from None
    except anthropic.AnthropicError as error:
        raise _no_token(error) from None
    except httpx2.HTTPError as error:
        # The SDK does not wrap the error of a stream that breaks.
        raise ApiFailure(None, None, None, said(error)) from None


def refusal(status: int, headers: Mapping[str, str], content: bytes) -> ApiFailure:
    """The failure that an answer other than 2xx is: the API's error body, or a gateway's page."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = None
    if 300 <= status < 400:
        return ApiFailure(status, None, None, _redirect(headers))
    detail = _inner(body, "error")
    code = detail.get("code") or _inner(detail, "details").get("error_code")
    error_type = _text(detail.get("type"))
    return ApiFailure(
        status=status,
        error_type=error_type,
        error_code=_text(code),
        message=redacted(_text(detail.get("message")) or "") or _beginning(content) or "no message",
        retry_after=_seconds(headers.get("retry-after")),
        limits=rate_limits(headers),
        content_type=None if error_type else _content_type(headers),
    )


def said(error: BaseException) -> str:
    """An error of a transport in words, without the header or address that it may quote."""
    name = type(error).__name__
    if isinstance(error, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol):
        return f"{name}: a header or address that cannot be used"
    return f"{name}: {redacted(str(error))}"


def _no_token(error: anthropic.AnthropicError) -> ApiFailure:
    """The failure to get an access token: what a person has to mend counts as a refusal (401)."""
    message, refused = f"no credentials: {redacted(str(error))}", True
    if isinstance(error, anthropic.WorkloadIdentityError):
        status = error.status_code
        refused = status is not None and 400 <= status < 500 and status not in (408, 429)
        if status is not None:
            # A body of another form may quote the identity token.
            body = error.body if isinstance(error.body, dict) else {}
            texts = filter(None, (_text(body.get("error")), _text(body.get("error_description"))))
            message = ": ".join((f"the token exchange answered HTTP {status}", *texts))
    if refused:
        return ApiFailure(401, "authentication_error", None, message, connected=False)
    return ApiFailure(None, None, None, message, connected=False)


def json_of(response: httpx2.Response) -> dict[str, Any]:
    """The JSON object of a 2xx answer; raises `ApiFailure` with its status if there is none."""
    return object_in(response.status_code, response.headers, response.content)


def object_in(status: int, headers: Mapping[str, str], content: bytes) -> dict[str, Any]:
    """The JSON object in the body of a 2xx answer; raises `ApiFailure` if there is none."""
    try:
        data = read_json(content)
    except (ValueError, RecursionError) as error:
        raise _unreadable(status, headers, content) from error
    if not isinstance(data, dict):
        raise _unreadable(status, headers, content)
    return data


def unreadable(response: httpx2.Response) -> ApiFailure:
    """The failure that a 2xx is whose body is not what the API answers."""
    return _unreadable(response.status_code, response.headers, response.content)


def _unreadable(status: int, headers: Mapping[str, str], content: bytes) -> ApiFailure:
    message = f"an answer that cannot be read: {_beginning(content) or 'it is empty'}"
    return ApiFailure(status, None, None, message, content_type=_content_type(headers))


def _beginning(content: bytes) -> str:
    """The beginning of a body as text: enough to recognise a gateway's page."""
    # An answer may repeat what it was sent; a secret that is cut short is not recognised.
    return clipped(redacted(content[: 4 * QUOTED].decode("utf-8", "replace").strip()), QUOTED)


def _content_type(headers: Mapping[str, str]) -> str:
    return clipped(headers.get("content-type") or "no content type", QUOTED)


def betas_header(betas: Sequence[str]) -> dict[str, str]:
    return {"anthropic-beta": ",".join(betas)} if betas else {}


def rate_limits(headers: Mapping[str, str]) -> RateLimits:
    """The `anthropic-ratelimit-*` headers; those that are missing or malformed are left out."""
    found = {}
    for name, limit, remaining in _HEADERS:
        if limit in headers:
            try:
                found[name] = RateLimit(float(headers[limit]), float(headers[remaining]))
            except (KeyError, ValueError):
                continue
    return found


def _redirect(headers: Mapping[str, str]) -> str:
    """What a redirect means: it is not followed, since key and documents would go with it."""
    try:
        target = urlsplit(headers.get("location", "")).hostname
    except ValueError:
        target = None
    where = f" to {target}" if target else ""
    return (
        f"a redirect{where}, which is not followed: key and documents would go there. Set "
        "ANTHROPIC_BASE_URL to the address that answers itself"
    )


def _never_established(cause: BaseException | None) -> bool:
    """Whether the request cannot have been sent, because there was no connection."""
    return isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)


def _inner(value: object, name: str) -> dict[str, Any]:
    """The object at a key of a parsed JSON value; an empty one if there is none."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None
