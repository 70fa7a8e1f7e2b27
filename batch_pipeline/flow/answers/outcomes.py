"""What each answer and error of the API means, and what is done about it: tables and their look-up.

Error types follow the API's documentation. They are compared as text, because the SDK parses error
types that it does not know as types that it knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from batch_pipeline.api.failures import concerns_account, read_error, refuses_account
from batch_pipeline.api.protocol import ApiFailure


class Status(StrEnum):
    """What became of an item; the values of the results' `status` column."""

    SUCCEEDED = "succeeded"
    ERRORED = "errored"
    EXPIRED = "expired"
    CANCELED = "canceled"
    TRUNCATED = "truncated"
    REFUSED = "refused"
    INVALID_OUTPUT = "invalid_output"
    INVALID_INPUT = "invalid_input"
    TOO_LARGE = "too_large"
    FILTERED = "filtered"


class Action(StrEnum):
    """What is done with a request after its result."""

    KEEP = "keep"
    SET_ASIDE = "set aside"
    RETRY = "retry"
    # Sent once more, then set aside: for errors that are not in the tables below.
    RETRY_ONCE = "retry once"
    # Sent once more with a larger `max_tokens`, whatever the number of attempts.
    MORE_ROOM = "more room"
    # Sent once more with the answer and what is wrong with it, whatever the number of attempts.
    EXPLAIN = "explain"
    # The answer paused: sent with what there is of it, so that the API goes on.
    CONTINUE = "continue"
    # A stronger model is asked once, as far as the share of the night allows that.
    ESCALATE = "escalate"
    # Sent again whatever the number of attempts: the API never worked on it.
    REOPEN = "reopen"
    # Credentials, billing or a spend limit, not a fault of the request. The account sends nothing
    # until the API answers again; then the request is sent again, and this was no attempt.
    STOP = "stop"
    # Settled without an answer, not a fault of the request: a person may redrive it.
    GIVE_UP = "give up"


class Undecided(StrEnum):
    """Why an answer is not final although it is not asked for again as it was: the values of the
    answers' column `escalate`."""

    # It is no good, and a stronger model may better it.
    FAILED = "failed"
    # It succeeded, and is unsure by the job's own rule.
    UNSURE = "unsure"
    # The stronger model failed: the former answer, which succeeded, stands.
    STANDS = "stands"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one result means; `error_type` and `error_message` are None for a success."""

    status: Status
    action: Action
    error_type: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class AskedFor:
    """Whether a request offers the model `tools`, and whether it is `forced` to call one."""

    tools: bool = False
    forced: bool = False

    @classmethod
    def by(cls, params: Mapping[str, Any]) -> AskedFor:
        """What declared Messages parameters ask for."""
        choice = params.get("tool_choice")
        forced = isinstance(choice, dict) and choice.get("type") in ("any", "tool")
        return cls(bool(params.get("tools")), forced)


# Statuses of items that have a row of results and no dead letter.
NOT_DEAD = (Status.SUCCEEDED, Status.FILTERED)
# Statuses of dead letters, by which they are sent again.
REASONS = tuple(str(status) for status in Status if status not in NOT_DEAD)
# Statuses of answers that were billed.
BILLED = (Status.SUCCEEDED, Status.TRUNCATED, Status.REFUSED, Status.INVALID_OUTPUT)
# Error types of this project. The API cannot say any more what became of a request:
RESULTS_GONE = "results_gone"
# A document is not what the snapshot knows, or gone: the request was not sent.
DOCUMENT_CHANGED = "document_changed"
# An answer that was billed and has another shape than the API's.
ODD_ANSWER = "odd_answer"
# The ledger keeps error types, in columns of limited width.
TYPE_CHARACTERS = 100
ERROR_ACTIONS = {
    "rate_limit_error": Action.RETRY,
    "timeout_error": Action.RETRY,
    "api_error": Action.RETRY,
    "overloaded_error": Action.RETRY,
    "invalid_request_error": Action.SET_ASIDE,
    "request_too_large": Action.SET_ASIDE,
    "not_found_error": Action.STOP,
    RESULTS_GONE: Action.GIVE_UP,
    DOCUMENT_CHANGED: Action.SET_ASIDE,
}
MAX_TOKENS = "max_tokens"
# A stop reason that ends an answer as it should only where the request offers tools.
TOOL_USE = "tool_use"
# A stop reason of the API's own tools: the answer goes on in a further request.
PAUSE_TURN = "pause_turn"
# How an answer can be wrong of which `retry.explain` tells the model: error types.
NOT_JSON = "not_json"
SCHEMA_VIOLATION = "schema_violation"
EXPLICABLE = (NOT_JSON, SCHEMA_VIOLATION)

_SUCCESS = Outcome(Status.SUCCEEDED, Action.KEEP)
_STOP_REASONS = {
    "end_turn": _SUCCESS,
    "stop_sequence": _SUCCESS,
    **{
        reason: Outcome(
            Status.TRUNCATED, Action.SET_ASIDE, reason, f"the answer was cut off ({reason})"
        )
        for reason in (MAX_TOKENS, "model_context_window_exceeded")
    },
    "refusal": Outcome(Status.REFUSED, Action.SET_ASIDE, "refusal", "the model refused to answer"),
}
_WITHOUT_MESSAGE = {
    "expired": Outcome(
        Status.EXPIRED, Action.RETRY, "expired", "the batch ended before this request was processed"
    ),
    "canceled": Outcome(Status.CANCELED, Action.RETRY, "canceled", "the batch was canceled"),
}


def of_result(result: object, asked: AskedFor, *, attempted: bool = True) -> Outcome:
    """What a result line's `result`, which may be of any shape, means.

    A succeeded one is judged by its stop reason alone. `attempted` is False for calls that the API
    refused as busy at every try: it never worked on the request.
    """
    if not isinstance(result, dict):
        return _unknown(f"a result that is {shape_of(result)}", str(None))
    kind = result.get("type")
    if kind == "succeeded":
        return _of_message(result.get("message"), asked)
    if kind == "errored":
        return _of_errored(result.get("error"), attempted=attempted)
    if not isinstance(kind, str):
        return _unknown(f"a result whose type is {shape_of(kind)}", str(None))
    if kind in _WITHOUT_MESSAGE:
        return _WITHOUT_MESSAGE[kind]
    outcome = _unknown(f"a result of unknown type {kind[:TYPE_CHARACTERS]!r}", kind)
    return replace(outcome, action=Action.RETRY_ONCE)


def _of_message(message: object, asked: AskedFor) -> Outcome:
    if isinstance(message, dict):
        return _of_stop_reason(message.get("stop_reason"), asked)
    return odd_answer(f"its message is {shape_of(message)}")


def _of_errored(error: object, *, attempted: bool) -> Outcome:
    outcome = of_error(error)
    if not attempted:
        return replace(outcome, action=Action.REOPEN)
    if outcome.error_type == DOCUMENT_CHANGED:
        return replace(outcome, status=Status.INVALID_INPUT)
    # A model or a file that is gone is a fault of the job: the account's other jobs go on.
    gone = outcome.error_type == "not_found_error"
    return replace(outcome, action=Action.SET_ASIDE) if gone else outcome


def odd_answer(what: str) -> Outcome:
    """What an answer means that was billed and cannot be used; `what` is odd about it."""
    message = f"the answer cannot be read: {what}"
    return Outcome(Status.INVALID_OUTPUT, Action.SET_ASIDE, ODD_ANSWER, message)


def shape_of(value: object) -> str:
    """What a JSON value is, in words: for messages about values of the wrong kind."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    kinds: dict[type, str] = {str: "a text", list: "a list"}
    return kinds.get(type(value), "an object")


def of_changed_document(why: str) -> Outcome:
    """What it means that a document is not what the snapshot knows: its request is not sent."""
    return Outcome(Status.INVALID_INPUT, Action.SET_ASIDE, DOCUMENT_CHANGED, why)


def _unknown(message: str, kind: str) -> Outcome:
    """A result of no known shape: sent again, it may be bought a second time."""
    error_type = f"unknown:{kind}"[:TYPE_CHARACTERS]
    return Outcome(Status.ERRORED, Action.SET_ASIDE, error_type, message)


def gone(why: str) -> dict[str, Any]:
    """The result, in the shape of a result line's, of a request whose own result is lost."""
    return {"type": "errored", "error": {"type": RESULTS_GONE, "message": why}}


def of_error(error: object) -> Outcome:
    """What the API's error body `{"type": "error", "error": {"type": …, "message": …}}` means.

    The inner object alone is read too.
    """
    found = read_error(error)
    kind, message = (found.type or "unknown")[:TYPE_CHARACTERS], found.message or "no message"
    if concerns_account(kind, found.code, message):
        message = f"{message} ({found.code})" if found.code else message
        return Outcome(Status.ERRORED, Action.STOP, kind, message)
    if kind.startswith(("http_3", "http_4")) and kind != "http_408":
        # A gateway turned the call away, while the API answered other calls.
        return Outcome(Status.ERRORED, Action.SET_ASIDE, kind, message)
    return Outcome(Status.ERRORED, ERROR_ACTIONS.get(kind, Action.RETRY_ONCE), kind, message)


def _of_stop_reason(stop_reason: object, asked: AskedFor) -> Outcome:
    if (outcome := _STOP_REASONS.get(str(stop_reason))) is not None:
        return outcome
    if stop_reason == TOOL_USE and (asked.tools or asked.forced):
        return _SUCCESS
    message = f"the answer ended with stop reason {stop_reason!r}"
    error_type = f"stop_reason:{stop_reason}"[:TYPE_CHARACTERS]
    return Outcome(Status.INVALID_OUTPUT, Action.SET_ASIDE, error_type, message)


class CreateVerdict(StrEnum):
    """What a create that did not return an id means for its submission and its account."""

    # A batch may have been made: look for it.
    UNKNOWN = "unknown"
    # No batch was made, the queue is full: wait.
    QUEUE_FULL = "queue full"
    # No batch was made, and none will be until the account is in order.
    PAUSE = "pause"
    # No batch was made, and none of this night would be: the request as a whole is refused.
    REFUSED = "refused"
    # No batch was made: a row of the body is refused, or the size of the body.
    BODY_REFUSED = "body refused"
    # No batch was made: the connection was never established.
    NOT_SENT = "not sent"


DEFINITE_STATUSES = (400, 401, 402, 403, 404, 413, 429)
# Of these statuses a refusal may be for what the body holds.
OF_THE_BODY = (400, 413)
# Beginnings of messages about the headers of a create, which are the same for each body.
_OF_THE_HEADERS = ("anthropic-beta", "anthropic-version", "unexpected value(s)")


def of_create_failure(failure: ApiFailure, *, sealed: bool = True) -> CreateVerdict:
    """What a failed create means, of whose body the last bytes were sent if `sealed`.

    Only an API error body with one of `DEFINITE_STATUSES` proves that no batch was made; after any
    other failure one may exist. A page that says "too large" before the body was whole proves it
    too.
    """
    if not failure.connected:
        return CreateVerdict.NOT_SENT
    if is_size_page(failure) and not sealed:
        return CreateVerdict.BODY_REFUSED
    if failure.status not in DEFINITE_STATUSES or failure.error_type is None:
        return CreateVerdict.UNKNOWN
    return _of_refusal(failure)


def _of_refusal(failure: ApiFailure) -> CreateVerdict:
    """What a definite refusal of the API means."""
    if refuses_account(failure):
        return CreateVerdict.PAUSE
    if failure.status == 429:
        return CreateVerdict.QUEUE_FULL
    if ERROR_ACTIONS.get(failure.error_type or "") is Action.STOP:
        return CreateVerdict.PAUSE
    of_headers = failure.message.lstrip().casefold().startswith(_OF_THE_HEADERS)
    if failure.status in OF_THE_BODY and not of_headers:
        return CreateVerdict.BODY_REFUSED
    return CreateVerdict.REFUSED


def is_page(failure: ApiFailure) -> bool:
    """Whether an answer to a create is that of a gateway: neither a batch, nor a refusal by the
    API, nor a fault (5xx) that passes by itself."""
    answered = failure.status is not None and failure.status < 500
    return answered and of_create_failure(failure) is CreateVerdict.UNKNOWN


def is_page_for_a_call(failure: ApiFailure) -> bool:
    """Whether an answer to a Messages call is that of a gateway, and no fault (5xx, 408) or load
    (429) that passes by itself."""
    status = failure.status
    return (
        status is not None
        and status < 500
        and status not in (408, 429)
        and failure.error_type is None
    )


def is_size_page(failure: ApiFailure) -> bool:
    """Whether a gateway, and not the API, says that a body is too large."""
    return failure.status == 413 and failure.error_type is None


def of_call_failure(failure: ApiFailure) -> Outcome:
    """What a failed Messages call means; a call whose answer was lost is tried again."""
    if failure.error_type is None:
        message = str(failure)
        return Outcome(Status.ERRORED, Action.RETRY, f"http_{failure.status or 'lost'}", message)
    outcome = of_error({"type": failure.error_type, "message": failure.message})
    return replace(outcome, action=Action.STOP) if refuses_account(failure) else outcome


def is_refused_as_busy(failure: ApiFailure) -> bool:
    """HTTP 429 and 529: the API did not take the request in, so it is not an attempt."""
    return failure.status in (429, 529)


# From this number of answers on, and this share of them, failures say something of the API and
# nothing of the requests.
STORM_ANSWERS = 20
STORM_SHARE = 0.9


def is_passing(outcome: Outcome) -> bool:
    """Whether a result failed for a reason that passes: overload, outage, expiry."""
    again = outcome.action in (Action.RETRY, Action.REOPEN)
    return again and outcome.status is not Status.CANCELED


def is_storm(answers: int, passing: int) -> bool | None:
    """Whether nearly all answers failed for reasons that pass; None: too few to tell."""
    if passing < STORM_SHARE * answers:
        return False
    return True if answers >= STORM_ANSWERS else None


def with_more_room(outcome: Outcome) -> Outcome:
    """The outcome of a request that can be sent again with a larger `max_tokens`.

    It is sent so where the answer was cut off at `max_tokens`. An answer that was cut off by the
    context window stays as it is: a larger `max_tokens` does not help it.
    """
    cut_off = outcome.status is Status.TRUNCATED and outcome.error_type == MAX_TOKENS
    return replace(outcome, action=Action.MORE_ROOM) if cut_off else outcome


def settle(outcome: Outcome, attempt: int, max_attempts: int) -> bool:
    """Whether the answer to a request's `attempt`-th attempt is final; False: it is sent again.

    Attempts are counted from 1, and after a redrive from 1 again.
    """
    match outcome.action:
        case Action.REOPEN | Action.STOP:
            return False
        case Action.MORE_ROOM | Action.EXPLAIN | Action.CONTINUE | Action.ESCALATE:
            return False
        case Action.RETRY:
            return attempt >= max_attempts
        case Action.RETRY_ONCE:
            return attempt >= min(2, max_attempts)
        case _:
            return True
