"""What answers mean: every row of the tables, and what none of them names."""

from __future__ import annotations

from typing import Any

import pytest

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow.answers.outcomes import (
    Action,
    AskedFor,
    CreateVerdict,
    Outcome,
    Status,
    is_refused_as_busy,
    of_call_failure,
    of_create_failure,
    of_error,
    of_result,
    settle,
)


def error(kind: object, message: object = "m") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "r"}


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        ("rate_limit_error", Action.RETRY),
        ("timeout_error", Action.RETRY),
        ("api_error", Action.RETRY),
        ("overloaded_error", Action.RETRY),
        ("invalid_request_error", Action.SET_ASIDE),
        ("request_too_large", Action.SET_ASIDE),
        ("authentication_error", Action.STOP),
        ("permission_error", Action.STOP),
        ("billing_error", Action.STOP),
        ("an_error_of_next_year", Action.RETRY_ONCE),
        ("", Action.RETRY_ONCE),
        (None, Action.RETRY_ONCE),
    ],
)
def test_errors(kind: object, action: Action) -> None:
    expected = Outcome(Status.ERRORED, action, str(kind or "unknown"), "m")
    assert of_error(error(kind)) == expected
    assert of_error(error(kind)["error"]) == expected
    assert of_result({"type": "errored", "error": error(kind)}, AskedFor()) == expected


def test_a_model_that_is_gone_is_the_jobs_matter_in_a_result_line() -> None:
    body = error("not_found_error")
    assert of_error(body).action is Action.STOP
    in_a_batch = of_result({"type": "errored", "error": body}, AskedFor())
    assert in_a_batch.action is Action.SET_ASIDE


@pytest.mark.parametrize("body", [None, "text", [], {}, {"error": None}, {"error": "text"}])
def test_an_error_without_a_body_is_asked_once_more(body: object) -> None:
    outcome = of_error(body)
    assert (outcome.status, outcome.action) == (Status.ERRORED, Action.RETRY_ONCE)
    assert outcome.error_type
    assert outcome.error_message


@pytest.mark.parametrize(
    ("stop_reason", "tools", "status", "action"),
    [
        ("end_turn", False, Status.SUCCEEDED, Action.KEEP),
        ("stop_sequence", False, Status.SUCCEEDED, Action.KEEP),
        ("tool_use", True, Status.SUCCEEDED, Action.KEEP),
        ("tool_use", False, Status.INVALID_OUTPUT, Action.SET_ASIDE),
        ("max_tokens", False, Status.TRUNCATED, Action.SET_ASIDE),
        ("model_context_window_exceeded", False, Status.TRUNCATED, Action.SET_ASIDE),
        ("refusal", False, Status.REFUSED, Action.SET_ASIDE),
        ("pause_turn", False, Status.INVALID_OUTPUT, Action.SET_ASIDE),
        ("of_next_year", False, Status.INVALID_OUTPUT, Action.SET_ASIDE),
        (None, False, Status.INVALID_OUTPUT, Action.SET_ASIDE),
    ],
)
def test_stop_reasons(stop_reason: object, tools: bool, status: Status, action: Action) -> None:
    result = {"type": "succeeded", "message": {"stop_reason": stop_reason}}
    outcome = of_result(result, AskedFor(tools))
    assert (outcome.status, outcome.action) == (status, action)
    assert (outcome.error_type is None) == (status is Status.SUCCEEDED)


@pytest.mark.parametrize(
    ("params", "asked"),
    [
        ({}, AskedFor()),
        ({"tools": []}, AskedFor()),
        ({"tools": [{"name": "note"}]}, AskedFor(tools=True)),
        ({"tools": [{"name": "note"}], "tool_choice": {"type": "auto"}}, AskedFor(tools=True)),
        ({"tools": [{}], "tool_choice": {"type": "any"}}, AskedFor(tools=True, forced=True)),
        ({"tools": [{}], "tool_choice": {"type": "tool"}}, AskedFor(tools=True, forced=True)),
    ],
)
def test_tools_are_asked_for_where_there_are_any(params: dict[str, Any], asked: AskedFor) -> None:
    assert AskedFor.by(params) == asked


@pytest.mark.parametrize(
    ("result", "status", "action"),
    [
        ({"type": "expired"}, Status.EXPIRED, Action.RETRY),
        ({"type": "canceled"}, Status.CANCELED, Action.RETRY),
        ({"type": "of next year"}, Status.ERRORED, Action.RETRY_ONCE),
        # Billed, or of no known shape: sent again it might be bought a second time.
        ({"type": "succeeded"}, Status.INVALID_OUTPUT, Action.SET_ASIDE),
        ({}, Status.ERRORED, Action.SET_ASIDE),
        (None, Status.ERRORED, Action.SET_ASIDE),
        # A mark that only the journal of our own calls has, beside the result.
        (
            {"type": "errored", "error": error("overloaded_error"), "attempted": False},
            Status.ERRORED,
            Action.RETRY,
        ),
    ],
)
def test_result_types(result: object, status: Status, action: Action) -> None:
    outcome = of_result(result, AskedFor())
    assert (outcome.status, outcome.action) == (status, action)


def test_a_call_that_the_api_never_worked_on_is_no_attempt() -> None:
    busy = {"type": "errored", "error": error("overloaded_error")}
    assert of_result(busy, AskedFor(), attempted=False).action is Action.REOPEN


def failure(
    status: int | None, kind: str | None = None, code: str | None = None, message: str = "m",
    *, connected: bool = True,
) -> ApiFailure:  # fmt: skip
    return ApiFailure(status, kind, code, message, connected=connected)


SPENT = "You have reached your specified API usage limits. Access returns on 2026-12-01."


@pytest.mark.parametrize(
    ("failed", "verdict"),
    [
        (failure(400, "invalid_request_error"), CreateVerdict.BODY_REFUSED),
        (failure(413, "request_too_large"), CreateVerdict.BODY_REFUSED),
        (failure(401, "authentication_error"), CreateVerdict.PAUSE),
        (failure(402, "billing_error"), CreateVerdict.PAUSE),
        (failure(403, "permission_error"), CreateVerdict.PAUSE),
        (failure(404, "not_found_error"), CreateVerdict.PAUSE),
        (failure(429, "rate_limit_error"), CreateVerdict.QUEUE_FULL),
        (failure(429, "rate_limit_error", "enforced_spend_limit_reached"), CreateVerdict.PAUSE),
        (failure(429, "rate_limit_error", "contract_spend_limit_reached"), CreateVerdict.PAUSE),
        (failure(429, "rate_limit_error", "another_code"), CreateVerdict.QUEUE_FULL),
        (failure(400, "invalid_request_error", None, SPENT), CreateVerdict.PAUSE),
        (failure(400, "an_error_of_next_year"), CreateVerdict.BODY_REFUSED),
        (failure(None, connected=False), CreateVerdict.NOT_SENT),
        # Everything else may have been accepted behind the error.
        (failure(None), CreateVerdict.UNKNOWN),
        (failure(200), CreateVerdict.UNKNOWN),
        (failure(302), CreateVerdict.UNKNOWN),
        (failure(408, "timeout_error"), CreateVerdict.UNKNOWN),
        (failure(409, "conflict_error"), CreateVerdict.UNKNOWN),
        (failure(422, "invalid_request_error"), CreateVerdict.UNKNOWN),
        (failure(500, "api_error"), CreateVerdict.UNKNOWN),
        (failure(502), CreateVerdict.UNKNOWN),
        (failure(504, "timeout_error"), CreateVerdict.UNKNOWN),
        (failure(529, "overloaded_error"), CreateVerdict.UNKNOWN),
        # A proxy's page is not an answer of the API.
        *((failure(status), CreateVerdict.UNKNOWN) for status in (400, 401, 403, 404, 413, 429)),
    ],
)
def test_failed_creates(failed: ApiFailure, verdict: CreateVerdict) -> None:
    assert of_create_failure(failed) is verdict


@pytest.mark.parametrize(
    ("failed", "action", "error_type"),
    [
        (failure(529, "overloaded_error"), Action.RETRY, "overloaded_error"),
        (failure(500, "api_error"), Action.RETRY, "api_error"),
        (failure(429, "rate_limit_error"), Action.RETRY, "rate_limit_error"),
        (failure(None), Action.RETRY, "http_lost"),
        (failure(None, connected=False), Action.RETRY, "http_lost"),
        (failure(502), Action.RETRY, "http_502"),
        (failure(400, "invalid_request_error"), Action.SET_ASIDE, "invalid_request_error"),
        (failure(404, "not_found_error"), Action.STOP, "not_found_error"),
        (failure(401, "authentication_error"), Action.STOP, "authentication_error"),
        (failure(403, "an_error_of_next_year"), Action.STOP, "an_error_of_next_year"),
        (
            failure(429, "rate_limit_error", "enforced_spend_limit_reached"),
            Action.STOP,
            "rate_limit_error",
        ),
        (failure(400, "invalid_request_error", None, SPENT), Action.STOP, "invalid_request_error"),
    ],
)
def test_failed_calls(failed: ApiFailure, action: Action, error_type: str) -> None:
    outcome = of_call_failure(failed)
    assert (outcome.action, outcome.error_type) == (action, error_type)


def test_only_429_and_529_are_no_attempts() -> None:
    assert [s for s in (None, 200, 400, 408, 429, 500, 529) if is_refused_as_busy(failure(s))] == [
        429,
        529,
    ]


@pytest.mark.parametrize(
    ("action", "settled_after"),
    [
        (Action.KEEP, 1),
        (Action.SET_ASIDE, 1),
        (Action.STOP, None),
        (Action.RETRY_ONCE, 2),
        (Action.RETRY, 3),
        (Action.REOPEN, None),
    ],
)
def test_when_an_item_is_done_with(action: Action, settled_after: int | None) -> None:
    outcome = Outcome(Status.ERRORED, action)
    first = next((n for n in range(1, 50) if settle(outcome, n, max_attempts=3)), None)
    assert first == settled_after
    assert settle(outcome, 1, max_attempts=1) is (settled_after is not None)
