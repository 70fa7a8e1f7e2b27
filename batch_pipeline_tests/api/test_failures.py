"""What an answer that is no 2xx comes to, as a table."""

from __future__ import annotations

import httpx2
import pytest

from batch_pipeline.api.failures import (
    QUOTED,
    concerns_account,
    json_of,
    most_hopeful,
    rate_limits,
    refusal,
    retry_after,
)
from batch_pipeline.api.protocol import ApiFailure, RateLimit
from batch_pipeline.errors import AccountError, ApiUnavailableError


@pytest.mark.parametrize(
    ("content", "kind", "code", "message"),
    [
        (b'{"error": {"type": "api_error", "message": "m"}}', "api_error", None, "m"),
        (b'{"error": {"type": "a", "code": "c", "message": "m"}}', "a", "c", "m"),
        (b'{"error": {"type": "a", "details": {"error_code": "c"}}}', "a", "c", None),
        # What comes from somebody on the way has no type.
        (b"<html>gateway</html>\n", None, None, "<html>gateway</html>"),
        (b'{"error": {"type": "a"}, "details": {"error_code": "c"}}', "a", "c", None),
        # A code that is about the account counts, wherever it stands.
        (
            b'{"error": {"type": "a", "code": "c", "details": {"error_code": "cmek_gone"}}}',
            "a",
            "cmek_gone",
            None,
        ),
        (b'{"error": "gateway"}', None, None, None),
        (b'{"error": {"type": 5, "details": "none", "message": ["m"]}}', None, None, None),
        (b'["error"]', None, None, None),
        (b"", None, None, "no message"),
        (b"\xff\xfe", None, None, "\ufffd\ufffd"),
    ],
)
def test_a_refusal_is_told_from_its_body(
    content: bytes, kind: str | None, code: str | None, message: str | None
) -> None:
    failure = refusal(502, {"retry-after": "1.5"}, content)
    assert (failure.status, failure.error_type, failure.error_code) == (502, kind, code)
    # Without a message of its own, the body is what there is to say.
    assert failure.message == (message or content.decode())
    assert (failure.retry_after, failure.connected) == (1.5, True)


def test_a_page_is_quoted_by_its_beginning_and_its_type() -> None:
    page = b"<html>" + b"x" * 10_000
    failure = refusal(413, {"content-type": "text/html"}, page)
    assert str(failure).startswith("HTTP 413 (text/html): <html>xxx")
    assert len(str(failure)) < 300
    # An error of the API is whole, and of no content type.
    error = b'{"error": {"type": "api_error", "message": "m"}}'
    assert str(refusal(500, {"content-type": "application/json"}, error)) == "HTTP 500 api_error: m"


@pytest.mark.parametrize("status", [200, 302, 400, 403, 502])
@pytest.mark.parametrize("before", [0, QUOTED - 10, QUOTED])
def test_a_page_that_repeats_the_key_is_quoted_without_it(
    status: int, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "pl4nted-s3cret")
    page = b"<" * before + b"pl4nted-s3cret is not allowed"
    if status == 200:
        with pytest.raises(ApiFailure) as caught:
            json_of(httpx2.Response(status, content=page))
        failure = caught.value
    else:
        failure = refusal(status, {}, page)
    assert "pl4nt" not in failure.message


INVALID = "invalid_request_error"


@pytest.mark.parametrize(
    ("kind", "code", "message", "expected"),
    [
        (INVALID, None, "Your credit balance is too low to access the Claude API.", True),
        (INVALID, None, "  your credit balance is too low", True),
        (INVALID, None, "You have reached your specified workspace API usage limits.", True),
        (INVALID, None, "This organization has been disabled.", True),
        (INVALID, "linked_organization_suspended", "no", True),
        ("rate_limit_error", "enforced_spend_limit_reached", "no", True),
        ("billing_error", None, "no", True),
        # A document is quoted.
        (INVALID, None, "text: 'Your credit balance is too low to access'", False),
        (INVALID, "string_too_long", "no", False),
        ("rate_limit_error", None, "no", False),
        ("not_found_error", None, "model: no", False),
        # A gateway's page.
        (None, None, "Your credit balance is too low", False),
    ],
)
def test_what_concerns_the_account(
    kind: str | None, code: str | None, message: str, expected: bool
) -> None:
    assert concerns_account(kind, code, message) is expected


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after": "7200"}, 3_600),
        ({"retry-after": "1e300"}, 3_600),
        ({"retry-after": "inf"}, 3_600),
        ({"retry-after": "Fri, 31 Dec 2199 23:59:59 GMT"}, 3_600),
        *(
            ({"retry-after": text}, None)
            for text in ("-5", "0", "nan", "soon", "", "Thu, 01 Jan 1970 00:00:00 GMT", "31 Foo")
        ),
        ({}, None),
    ],
)
def test_a_wait_is_an_hour_at_most(said: dict[str, str], seconds: float | None) -> None:
    assert retry_after(said) == seconds


@pytest.mark.parametrize(
    ("limit", "remaining", "expected"),
    [
        ("50", "60", RateLimit(50, 50)),
        ("50", "-1e300", RateLimit(50, 0)),
        *((limit, "1", None) for limit in ("0", "-1", "nan", "inf")),
        ("50", "nan", None),
    ],
)
def test_limits_that_would_keep_calls_waiting_for_ever_are_none(
    limit: str, remaining: str, expected: RateLimit | None
) -> None:
    names = ("limit", "remaining")
    said = dict(
        zip([f"anthropic-ratelimit-requests-{n}" for n in names], (limit, remaining), strict=True)
    )
    assert rate_limits(said).get("requests") == expected


def test_of_several_errors_an_outage_is_waited_for() -> None:
    refused, down = ApiFailure(401, None, None, "no"), ApiFailure(503, None, None, "down")
    unreachable = ApiUnavailableError("no answer")
    assert most_hopeful([refused, down]) is down
    assert most_hopeful([AccountError("no"), unreachable]) is unreachable
    assert most_hopeful([refused, refused]) is refused
