"""What an answer that is no 2xx comes to, as a table."""

from __future__ import annotations

import anthropic
import pytest

from batch_pipeline.api.failures import QUOTED, failures, object_in, refusal
from batch_pipeline.api.protocol import ApiFailure


@pytest.mark.parametrize(
    ("content", "kind", "code", "message"),
    [
        (b'{"error": {"type": "api_error", "message": "m"}}', "api_error", None, "m"),
        (b'{"error": {"type": "a", "code": "c", "message": "m"}}', "a", "c", "m"),
        (b'{"error": {"type": "a", "details": {"error_code": "c"}}}', "a", "c", None),
        # What comes from somebody on the way has no type.
        (b"<html>gateway</html>\n", None, None, "<html>gateway</html>"),
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


def test_without_a_token_nothing_was_sent() -> None:
    with pytest.raises(ApiFailure, match="no credentials: the file is gone") as caught, failures():
        raise anthropic.AnthropicError("the file is gone")
    assert (caught.value.status, caught.value.connected) == (None, False)


@pytest.mark.parametrize("status", [200, 302, 400, 403, 502])
@pytest.mark.parametrize("before", [0, QUOTED - 10, QUOTED])
def test_a_page_that_repeats_the_key_is_quoted_without_it(
    status: int, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "pl4nted-s3cret")
    page = b"<" * before + b"pl4nted-s3cret is not allowed"
    if status == 200:
        with pytest.raises(ApiFailure) as caught:
            object_in(status, {}, page)
        failure = caught.value
    else:
        failure = refusal(status, {}, page)
    assert "pl4nt" not in failure.message
