"""Turns errors and answers of the SDK and its transports into the protocol's plain values.

Shared by all clients in this package; no call is made here. How an error body is read, and whether
it is about the account, is decided here alone, for HTTP answers and for lines of results. What is
done about an error stands in `flow.answers.outcomes`. The SDK is imported where it is used:
commands that make no call read errors too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import orjson

from batch_pipeline.api.protocol import ApiFailure, RateLimit, RateLimits, read_json
from batch_pipeline.errors import ApiUnavailableError, causes
from batch_pipeline.safe_text import redacted
from batch_pipeline.settings import LONGEST_WAIT_SECONDS
from batch_pipeline.wording import clipped

if TYPE_CHECKING:
    import anthropic
    import httpx2

Failed = TypeVar("Failed", bound=Exception)

ACCOUNT_TYPES = ("authentication_error", "permission_error", "billing_error")
ACCOUNT_STATUSES = (401, 402, 403)
# Codes of spend limits and of organisations or workspaces that are on hold, some by their prefix.
ACCOUNT_CODES = (
    "enforced_spend_limit_reached",
    "contract_spend_limit_reached",
    "organization_on_hold",
    "workspace_human_review_disabled",
)
ACCOUNT_CODE_PREFIXES = ("cmek_", "linked_organization_")
# The API says these as `invalid_request_error`. They count at the beginning of a message alone: the
# rest of one may quote a document.
ACCOUNT_MESSAGES = (
    "your credit balance is too low",
    "you have reached your specified",
    "this organization has been disabled",
)

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
    import anthropic  # noqa: PLC0415  # see above
    import httpx2  # noqa: PLC0415

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
    found = read_error(body) if _inner(body, "error") else ApiErrorBody()
    return ApiFailure(
        status=status,
        error_type=found.type,
        error_code=found.code,
        message=redacted(found.message or "") or _beginning(content) or "no message",
        retry_after=retry_after(headers),
        limits=rate_limits(headers),
        content_type=None if found.type else _content_type(headers),
    )


def said(error: BaseException) -> str:
    """An error of a transport in words, without the header or address that it may quote."""
    import httpx2  # noqa: PLC0415

    name = type(error).__name__
    if isinstance(error, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol):
        return f"{name}: a header or address that cannot be used"
    return f"{name}: {redacted(str(error))}"


def _no_token(error: anthropic.AnthropicError) -> ApiFailure:
    """The failure to get an access token: what a person has to mend counts as a refusal (401)."""
    import anthropic  # noqa: PLC0415

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


@dataclass(frozen=True)
class ApiErrorBody:
    """What an error body of the API says; None where it says nothing, or no text."""

    type: str | None = None
    code: str | None = None
    message: str | None = None


def read_error(body: object) -> ApiErrorBody:
    """Read `{"type": "error", "error": {"type": …, "message": …}}`, or the inner object alone.

    A code may stand in the error or beside it, as `code` or in `details.error_code`.
    """
    outer: Mapping[str, Any] = body if isinstance(body, Mapping) else {"message": body}
    inner = _inner(outer, "error") or outer
    codes = [
        code
        for place in (inner, outer)
        for named in (place, _inner(place, "details"))
        for code in (_text(named.get("code")), _text(named.get("error_code")))
        if code
    ]
    code = next((code for code in codes if _is_of_account(code)), codes[0] if codes else None)
    return ApiErrorBody(_text(inner.get("type")), code, _text(inner.get("message")))


def concerns_account(
    error_type: str | None, error_code: str | None, message: str | None, status: int | None = None
) -> bool:
    """Whether an error of the API is about the account and not about what was asked.

    Then the account sends nothing until the API answers again. False without an error type: a
    gateway's page is not an error of the API.
    """
    if error_type is None:
        return False
    return (
        error_type in ACCOUNT_TYPES
        or status in ACCOUNT_STATUSES
        or _names_condition(error_code, message)
    )


def refuses_account(failure: ApiFailure) -> bool:
    """As `concerns_account`, of a call that failed."""
    return concerns_account(failure.error_type, failure.error_code, failure.message, failure.status)


def is_outage(error: BaseException) -> bool:
    """Whether the API was not reached, or failed: it may answer later, whatever it was asked."""
    if isinstance(error, ApiFailure):
        return error.status is None or error.status == 408 or error.status >= 500
    return isinstance(error, ApiUnavailableError)


def most_hopeful(errors: Sequence[Failed]) -> Failed:
    """Of the errors of several accounts the one to raise where none can be used: an outage, which
    is waited for, before a refusal, for which a person is asked."""
    return next(filter(is_outage, errors), errors[0])


def cause_of(error: BaseException) -> ApiFailure | None:
    """How the API failed or refused, where an error follows from that."""
    return next((cause for cause in causes(error) if isinstance(cause, ApiFailure)), None)


def refuses_key(failure: ApiFailure) -> bool:
    """Whether a call failed for its key alone: no condition of the account is named."""
    named = _names_condition(failure.error_code, failure.message)
    return failure.status in (401, 403) and not named


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait, at most `LONGEST_WAIT_SECONDS`; None: it does not say.

    A number or a date is read; what is neither, and what has passed, asks for nothing.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except KeyError:
            continue
        except ValueError:
            seconds = _seconds_until(headers[name])
        if seconds > 0:
            return min(seconds, LONGEST_WAIT_SECONDS)
    return None


def json_of(response: httpx2.Response) -> dict[str, Any]:
    """The JSON object of a 2xx answer; raises `ApiFailure` with its status if there is none."""
    answer = response.status_code, response.headers, response.content
    data = json_in(*answer)
    if not isinstance(data, dict):
        raise _unreadable(*answer)
    return data


def json_in(status: int, headers: Mapping[str, str], content: bytes) -> object:
    """The JSON value in the body of a 2xx answer; raises `ApiFailure` if there is none."""
    try:
        return read_json(content)
    except (ValueError, RecursionError) as error:
        raise _unreadable(status, headers, content) from error


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
    """The `anthropic-ratelimit-*` headers; those that are missing or malformed are left out.

    What is left of a limit lies between nothing and all of it: any other number would keep calls
    waiting for ever.
    """
    found = {}
    for name, limit, remaining in _HEADERS:
        if limit in headers:
            try:
                most, left = float(headers[limit]), float(headers[remaining])
            except (KeyError, ValueError):
                continue
            if math.isfinite(most) and most > 0 and not math.isnan(left):
                found[name] = RateLimit(most, min(max(0.0, left), most))
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
    import httpx2  # noqa: PLC0415

    return isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)


def _names_condition(error_code: str | None, message: str | None) -> bool:
    """Whether an error names a condition of the account, such as a spend limit."""
    if error_code is not None and _is_of_account(error_code):
        return True
    return (message or "").lstrip().casefold().startswith(ACCOUNT_MESSAGES)


def _is_of_account(code: str) -> bool:
    return code in ACCOUNT_CODES or code.startswith(ACCOUNT_CODE_PREFIXES)


def _inner(value: object, name: str) -> Mapping[str, Any]:
    """The object at a key of a parsed JSON value; an empty one if there is none."""
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _seconds_until(date: str) -> float:
    """Seconds from now to an HTTP date; NaN where the text is none."""
    try:
        at = parsedate_to_datetime(date)
        return (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError, TypeError, IndexError):
        return math.nan
