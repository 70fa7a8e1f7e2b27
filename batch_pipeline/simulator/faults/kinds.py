"""The faults of one HTTP call: the values that scripts, chances and outages are made of.

`declaration` says when each happens, `faulty_answers` makes the answers.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from batch_pipeline.simulator.wire import RETRY_AFTER_SECONDS, STATUS_TYPES


class Declared(BaseModel):
    """A part of a faults declaration: unknown keys and wrong types are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )


Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class ErrorAnswer(Declared):
    """An error answer, made by any of the faults below."""

    status: int
    type: str
    message: str
    error_code: str | None = None
    retry_after: float | str | None = None
    html: bool = False


class _Fault(Declared):
    """The fields of every kind: waits in seconds, and the number of calls in a script.

    `delay_before`: between the end of the request's body and the handler's work, which is done even
    if the client has left meanwhile. `delay_after`: before the answer is sent. `read_pause`: before
    each piece (at most about 64 KB) of the request's body; a client that leaves during this has
    sent an incomplete body. `times`: the number of calls that this step of a script stands for.
    """

    kind: str
    delay_before: Seconds = 0.0
    delay_after: Seconds = 0.0
    read_pause: Seconds = 0.0
    times: Positive = 1

    @property
    def label(self) -> str:
        """The fault's name in the books, after the name of the endpoint."""
        return self.kind


class Normal(_Fault):
    """No fault but the waits."""

    kind: Literal["normal"]


class Error(_Fault):
    """An HTTP error. With `accepted` the handler does its work, and only its answer is lost.

    `html` sends a gateway's page instead of the API's error body. `retry_after` is that header, as
    seconds or as any text; without it there is none. `type` defaults to the API's type for the
    status.
    """

    kind: Literal["error"]
    status: Annotated[int, Field(ge=400, le=599)]
    type: str | None = None
    message: str = "A fault that was asked for."
    error_code: str | None = None
    retry_after: Seconds | str | None = None
    accepted: bool = False
    html: bool = False

    @property
    def label(self) -> str:
        return f"error_{self.status}{'_accepted' if self.accepted else ''}"

    def answer(self) -> ErrorAnswer:
        return ErrorAnswer(
            status=self.status,
            type=self.type or STATUS_TYPES.get(self.status, "api_error"),
            message=self.message,
            error_code=self.error_code,
            retry_after=self.retry_after,
            html=self.html,
        )


class Page(_Fault):
    """An answer that is not the API's: a gateway's page, a login, an empty body.

    `early` sends it before the request's body is read, and closes the connection. `accepted`: the
    handler does its work, and only its answer is lost.
    """

    kind: Literal["page"]
    status: Annotated[int, Field(ge=200, le=599)] = 403
    content_type: str = "text/html"
    body: str = "<html><head><title>Blocked</title></head><body>by the gateway</body></html>"
    accepted: bool = False
    early: bool = False

    @property
    def label(self) -> str:
        when = "_early" if self.early else "_accepted" if self.accepted else ""
        return f"page_{self.status}{when}"


class QueueFull(_Fault):
    """The 429 of a full queue, even if the queue has room."""

    kind: Literal["queue_full"]
    retry_after: Seconds | None = float(RETRY_AFTER_SECONDS)

    def answer(self) -> ErrorAnswer:
        return ErrorAnswer(
            status=429,
            type="rate_limit_error",
            message="This batch would exceed the organization's limit of batch requests in the"
            " processing queue.",
            retry_after=self.retry_after,
        )


MESSAGES = {
    "specified": "You have reached your specified API usage limits.",
    "credit": "Your credit balance is too low to access the Anthropic API. Please go to Plans & "
    "Billing to upgrade or purchase credits.",
}


class SpendLimit(_Fault):
    """A spend limit: the API's own (429 with an error code) or one that was specified (400), or
    credit that has run out (400)."""

    kind: Literal["spend_limit"]
    form: Literal["enforced", "contract", "specified", "credit"] = "enforced"

    @property
    def label(self) -> str:
        return f"spend_limit_{self.form}"

    def answer(self) -> ErrorAnswer:
        if self.form in MESSAGES:
            message = MESSAGES[self.form]
            return ErrorAnswer(status=400, type="invalid_request_error", message=message)
        return ErrorAnswer(
            status=429,
            type="rate_limit_error",
            message="The organization has reached its monthly spend limit.",
            error_code=f"{self.form}_spend_limit_reached",
        )


class RevokedKey(_Fault):
    """401, as for a key that was revoked."""

    kind: Literal["revoked_key"]

    def answer(self) -> ErrorAnswer:
        return ErrorAnswer(status=401, type="authentication_error", message="invalid x-api-key")


class Billing(_Fault):
    """402, as for an account that has not paid."""

    kind: Literal["billing"]

    def answer(self) -> ErrorAnswer:
        message = "There is an issue with the organization's billing or payment information."
        return ErrorAnswer(status=402, type="billing_error", message=message)


class Drop(_Fault):
    """The connection is closed without any answer; with `reset` by a TCP reset.

    `at_once`: before the body is read. `before`: after the body is read, before the handler's work.
    `after`: after the handler's work.
    """

    kind: Literal["drop"]
    when: Literal["at_once", "before", "after"] = "after"
    reset: bool = False

    @property
    def label(self) -> str:
        return f"drop_{self.when}"


class Unreadable(_Fault):
    """The handler's work is done and the status is its own, but the body is not JSON."""

    kind: Literal["unreadable"]


class Cut(_Fault):
    """Half of the true body; then the connection is closed, or the body ends as if complete."""

    kind: Literal["cut"]
    end: Literal["dropped", "clean"] = "dropped"

    @property
    def label(self) -> str:
        return f"cut_{self.end}"


class CutResults(_Fault):
    """A stream of results that ends after `lines` whole lines (None: after half of them).

    `mid_line` sends half of the next line as well. `dropped` closes the connection without the
    final chunk, `clean` ends the body as if it were complete.
    """

    kind: Literal["cut"]
    at: Literal["mid_line", "line_end"] = "mid_line"
    end: Literal["dropped", "clean"] = "dropped"
    lines: Count | None = None

    @property
    def label(self) -> str:
        return f"cut_{self.at}_{self.end}"


class Slow(_Fault):
    """The true body in pieces of `chunk_bytes`, with `pause` seconds before each."""

    kind: Literal["slow"]
    chunk_bytes: Positive = 1_024
    pause: Seconds = 0.05


class Lines(_Fault):
    """Numbers of result lines that are broken (no JSON), sent twice, and left out."""

    kind: Literal["lines"]
    broken: Count = 0
    duplicated: Count = 0
    missing: Count = 0


Refusal = Error | QueueFull | SpendLimit | RevokedKey | Billing
CallFault = Annotated[
    Normal | Refusal | Page | Drop | Unreadable | Cut | Slow, Field(discriminator="kind")
]
ResultsFault = Annotated[
    Normal | Refusal | Drop | Unreadable | CutResults | Slow | Lines, Field(discriminator="kind")
]
AnyFault = Normal | Refusal | Page | Drop | Unreadable | Cut | CutResults | Slow | Lines
