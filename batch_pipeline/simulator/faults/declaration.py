"""The declaration of faults that `--faults` reads and `set_faults` takes.

Values only. The faults of a single call are in `kinds`; `file` reads files; `schedule` counts the
calls.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from batch_pipeline.simulator.faults.kinds import (
    AnyFault,
    CallFault,
    Count,
    Declared,
    Positive,
    ResultsFault,
    Seconds,
)
from batch_pipeline.simulator.models import MODELS

Probability = Annotated[float, Field(ge=0, le=1)]
Endpoint = Literal[
    "create", "list", "retrieve", "cancel", "delete", "results", "messages", "count_tokens",
    "models", "admin",
]  # fmt: skip
BATCH_ENDPOINTS = ("retrieve", "cancel", "delete", "results")

# YAML has lists where a frozen model has tuples: only the containers are not strict.
_Script = Annotated[tuple[CallFault, ...], Field(strict=False)]
_ResultsScript = Annotated[tuple[ResultsFault, ...], Field(strict=False)]


def _without_times(fault: AnyFault) -> AnyFault:
    if "times" in fault.model_fields_set:
        raise ValueError("`times` belongs to the steps of a script")
    return fault


class Chance(Declared):
    probability: Probability
    fault: Annotated[CallFault, AfterValidator(_without_times)]


class ResultsChance(Declared):
    probability: Probability
    fault: Annotated[ResultsFault, AfterValidator(_without_times)]


class While(Declared):
    """How long something lasts, in calls or seconds; with both, until both are over."""

    calls: Count = 0
    seconds: Seconds = 0.0


class WhileUnavailable(While):
    status: Annotated[int, Field(ge=400, le=599)] = 404


class EndpointFaults(Declared):
    """`script`: the faults of the first calls, in order. After these the first chance that hits."""

    script: _Script = ()
    chances: Annotated[tuple[Chance, ...], Field(strict=False)] = ()


class BatchEndpointFaults(EndpointFaults):
    """With `per_batch` the script begins anew for each batch."""

    per_batch: bool = False


class ListFaults(EndpointFaults):
    """`lag`: how long a new batch is missing; its calls are those without a cursor."""

    lag: While = While()


class RetrieveFaults(BatchEndpointFaults):
    not_found_after_create: While = While()
    not_found_after_end: While = While()


class ResultsFaults(Declared):
    """Like `BatchEndpointFaults`, with the kinds of faults that results can suffer."""

    script: _ResultsScript = ()
    chances: Annotated[tuple[ResultsChance, ...], Field(strict=False)] = ()
    per_batch: bool = False
    unavailable_after_end: WhileUnavailable = WhileUnavailable()


class Outage(Declared):
    """One fault for calls number `from_call` to `to_call` (None: until faults are replaced).

    Counts the calls to all of `endpoints` together (empty: all endpoints), and if `keys` are given,
    only calls with one of these API keys. Keys may have the wildcards `*`, `?` and `[…]`:
    `*@team-b/*` stands for all keys of a workspace.
    """

    fault: Annotated[CallFault, AfterValidator(_without_times)]
    endpoints: Annotated[tuple[Endpoint, ...], Field(strict=False)] = ()
    keys: Annotated[tuple[str, ...], Field(strict=False)] = ()
    from_call: Positive = 1
    to_call: Positive | None = None

    def covers(self, endpoint: Endpoint, key: str) -> bool:
        if self.endpoints and endpoint not in self.endpoints:
            return False
        return not self.keys or any(fnmatchcase(key, each) for each in self.keys)

    def hits(self, call: int) -> bool:
        return self.from_call <= call and (self.to_call is None or call <= self.to_call)


ErrorType = Literal[
    "rate_limit_error", "timeout_error", "api_error", "overloaded_error",
    "invalid_request_error", "request_too_large", "not_found_error", "authentication_error",
    "permission_error", "billing_error", "unknown_error",
]  # fmt: skip
NotAnswered = Literal["expired", "canceled", "unknown_result"]
OddAnswer = Literal[
    "extra_fields", "refusal", "empty", "max_tokens", "not_json", "invalid_output", "tool_call",
    "pause_turn",
]  # fmt: skip
Outcome = ErrorType | NotAnswered | OddAnswer
_KEYS_OF_OUTCOMES = {
    "times": ("pause_turn",),
    "heals_when_explained": ("not_json", "invalid_output"),
    "stop_details": ("refusal",),
}


class StopDetails(Declared):
    """What a refusal says of itself."""

    type: Literal["refusal"] = "refusal"
    category: str | None = None
    explanation: str | None = None


class _Outcome(Declared):
    """The result of a request, instead of the right one.

    `ways`: for requests in batches, in real time, or both. `attempts`: only for this number of
    first attempts at a content (None: for all). An error has `message`, and `error_code` in its
    details; a `refusal` may have `stop_details`; a `pause_turn` pauses an answer `times` times.
    With `heals_when_explained` an answer that was `not_json` or `invalid_output` is right once the
    request's last turns are that answer and the user's reply.
    """

    outcome: Outcome
    ways: Literal["batch", "realtime", "both"] = "batch"
    attempts: Positive | None = None
    message: str = "A fault that was asked for."
    error_code: str | None = None
    times: Positive = 1
    heals_when_explained: bool = False
    stop_details: StopDetails | None = None

    @model_validator(mode="after")
    def _is_of_this_outcome(self) -> _Outcome:
        for key, outcomes in _KEYS_OF_OUTCOMES.items():
            if key in self.model_fields_set and self.outcome not in outcomes:
                raise ValueError(f"`{key}` belongs to {' and '.join(outcomes)}")
        return self

    @model_validator(mode="after")
    def _exists_in_real_time(self) -> _Outcome:
        if self.ways != "batch" and self.outcome in ("expired", "canceled", "unknown_result"):
            raise ValueError(f"{self.outcome} exists in batches only")
        return self


class RequestChance(_Outcome):
    """Hits by the request's content and the number of its attempt, the same in every batch."""

    probability: Probability


class RequestMatch(_Outcome):
    """Requests with `contains` somewhere in a text of their parameters."""

    contains: Annotated[str, Field(min_length=1)]


class RequestFaults(Declared):
    """The first of `matching` that applies, else the first of `chances` that hits."""

    matching: Annotated[tuple[RequestMatch, ...], Field(strict=False)] = ()
    chances: Annotated[tuple[RequestChance, ...], Field(strict=False)] = ()


def _known_model(name: str) -> str:
    if name not in MODELS:
        raise ValueError(f"no model {name!r} has a price here")
    return name


ModelName = Annotated[str, AfterValidator(_known_model)]


class Iteration(Declared):
    """Work of a beta feature within an answer, by a model of its own (None: the answer's)."""

    type: Literal["advisor_message", "compaction"] = "advisor_message"
    model: ModelName | None = None
    input_tokens: Count = 0
    output_tokens: Count = 0


class BilledFaults(Declared):
    """What the `usage` of answers bills beyond what was asked for.

    `model` answers in place of the one in the request, `inference_geo` is a default of the
    workspace, `server_tool_use` are further counts, which cost nothing in the books.
    """

    model: ModelName | None = None
    inference_geo: str | None = None
    iterations: Annotated[tuple[Iteration, ...], Field(strict=False)] = ()
    server_tool_use: dict[str, float] = Field(default_factory=dict)


class RefusedBody(Declared):
    """The refusal of whole batches that have `contains` in a text, or more than `above_bytes`.

    With `names_row` the message begins with the position of the first request with that text, as
    the API's does.
    """

    contains: Annotated[str | None, Field(min_length=1)] = None
    above_bytes: Positive | None = None
    names_row: bool = False
    status: Literal[400, 413] = 400
    message: str = "messages.0.content: this text cannot be used"

    @model_validator(mode="after")
    def _has_a_cause(self) -> RefusedBody:
        if (self.contains is None) == (self.above_bytes is None):
            raise ValueError("either `contains` or `above_bytes` has to be given")
        return self


class ExpiredBatches(Declared):
    """Batches of which only the share `done` is answered and the rest expires.

    The `first` batches created are such batches, and others with `probability`.
    """

    first: Count = 0
    probability: Probability = 0.0
    done: Probability = 0.0


class ForeignBatches(Declared):
    """Batches of other tenants, created at the same moment as a batch of ours.

    They are created even if ours is refused. `requests` None: as many requests as ours has.
    """

    probability: Probability = 0.0
    when: Literal["before", "after", "both"] = "both"
    requests: Positive | None = None


OddEntry = Literal["null", "no_id", "number_id", "no_times", "no_counts", "no_status"]


class ShownFaults(Declared):
    """Wrong descriptions of batches, in every answer that describes them.

    `clock`: seconds by which the API's clock is ahead. `counts`: what `request_counts` say.
    `foreign_entries`: how the list shows other tenants' batches, each of them in one of these ways.
    `has_more`: whether the list says that it goes on.
    """

    clock: float = 0.0
    counts: Literal["right", "wrong", "zero", "null", "text"] = "right"
    foreign_entries: Annotated[tuple[OddEntry, ...], Field(strict=False)] = ()
    has_more: Literal["told", "missing", "always"] = "told"


class QueueFaults(Declared):
    """Whether the queue limit is enforced, and the requests of others that always count."""

    enforced: bool = True
    foreign_requests: Count = 0


class Faults(Declared):
    """All declared faults; without any, the simulated API has none."""

    create: EndpointFaults = EndpointFaults()
    list: ListFaults = ListFaults()
    retrieve: RetrieveFaults = RetrieveFaults()
    cancel: BatchEndpointFaults = BatchEndpointFaults()
    delete: BatchEndpointFaults = BatchEndpointFaults()
    results: ResultsFaults = ResultsFaults()
    messages: EndpointFaults = EndpointFaults()
    count_tokens: EndpointFaults = EndpointFaults()
    models: EndpointFaults = EndpointFaults()
    admin: EndpointFaults = EndpointFaults()
    outages: Annotated[tuple[Outage, ...], Field(strict=False)] = ()
    requests: RequestFaults = RequestFaults()
    billed: BilledFaults = BilledFaults()
    refused_bodies: Annotated[tuple[RefusedBody, ...], Field(strict=False)] = ()
    expired_batches: ExpiredBatches = ExpiredBatches()
    foreign_batches: ForeignBatches = ForeignBatches()
    shown: ShownFaults = ShownFaults()
    queue: QueueFaults = QueueFaults()

    @classmethod
    def of(cls, **sections: Any) -> Faults:
        """From plain values, as a file would have them. Errors: pydantic's `ValidationError`."""
        return cls.model_validate(sections)
