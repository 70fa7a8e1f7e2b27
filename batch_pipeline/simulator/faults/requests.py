"""Faults of single requests: errors, unusual answers, no answer.

A fault depends on the request's content and the number of its attempt: it is the same in every
batch, and a retry may succeed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import orjson

from batch_pipeline.simulator.answers.tokens import ITERATION_TOKENS, NO_TOKENS
from batch_pipeline.simulator.faults.declaration import (
    BilledFaults,
    ErrorType,
    OddAnswer,
    RefusedBody,
    RequestFaults,
)
from batch_pipeline.simulator.faults.odd_answers import NOVEL, Rule, is_due, odd_answer
from batch_pipeline.simulator.faults.schedule import throw
from batch_pipeline.simulator.wire import STATUS_TYPES, TYPE_STATUSES, ApiError, error_body

UNKNOWN_ERROR_TYPE = "novel_error"
UNKNOWN_RESULT_TYPE = "deferred"
_ERRORS = frozenset(get_args(ErrorType))
_ODD_ANSWERS = frozenset(get_args(OddAnswer))


@dataclass
class RequestFaultInjection:
    """Decides on faults for the requests of one batch, or for one message, and counts them.

    `attempts_before` returns the number of ended requests of a content digest.
    """

    declared: RequestFaults
    seed: int
    way: Literal["batch", "realtime"]
    attempts_before: Callable[[bytes], int]
    billed: BilledFaults = field(default_factory=BilledFaults)
    injected: Counter[str] = field(default_factory=Counter)
    _here: Counter[bytes] = field(default_factory=Counter)

    def result(
        self, digest: bytes, raw: bytes, truth: dict[str, Any], unique: str
    ) -> dict[str, Any]:
        """The result of a request: `truth`, as it is billed, or a fault in its place.

        `raw` is the request's params as JSON, `unique` the end of ids that are made here.
        """
        truth = self._as_billed(truth)
        rule = self._rule(digest, raw, answered=truth["type"] == "succeeded")
        if rule is None or (rule.outcome in _ODD_ANSWERS and truth["type"] != "succeeded"):
            return truth
        self.injected[f"requests.{rule.outcome}"] += 1
        if rule.outcome in _ERRORS:
            details = None if rule.error_code is None else {"error_code": rule.error_code}
            error = error_body(_error_type(rule), rule.message, f"req_01{unique}", details)
            return {"type": "errored", "error": error}
        if rule.outcome in _ODD_ANSWERS:
            return odd_answer(truth, rule, raw, digest, self.seed)
        if rule.outcome == "unknown_result":
            return {"type": UNKNOWN_RESULT_TYPE, **NOVEL}
        return {"type": rule.outcome}

    def message(
        self, digest: bytes, params: dict[str, Any], truth: dict[str, Any]
    ) -> dict[str, Any]:
        """`result` for a real-time message. Errors: `ApiError` with the status of its type."""
        answered = {"type": "succeeded", "message": truth}
        if self._anything_declared:
            result = self.result(digest, orjson.dumps(params), answered, "")
        else:
            result = self._as_billed(answered)
        if result["type"] == "errored":
            error = result["error"]["error"]
            status = TYPE_STATUSES.get(error["type"], 500)
            raise ApiError(status, error["type"], error["message"], details=error.get("details"))
        answer: dict[str, Any] = result["message"]
        return answer

    def _as_billed(self, truth: dict[str, Any]) -> dict[str, Any]:
        """A result with what is billed beside what was asked for."""
        declared = self.billed
        if truth["type"] != "succeeded" or not declared.model_fields_set:
            return truth
        self.injected["billed"] += 1
        message = truth["message"]
        usage = dict(message["usage"])
        if declared.inference_geo is not None:
            usage["inference_geo"] = declared.inference_geo
        if declared.server_tool_use:
            usage["server_tool_use"] = {
                **(usage.get("server_tool_use") or {}), **declared.server_tool_use,
            }  # fmt: skip
        if declared.iterations:
            own = {name: usage[name] for name in ITERATION_TOKENS}
            usage["iterations"] = [
                {"type": "message", **own},
                *(
                    {**NO_TOKENS, **each.model_dump(exclude_none=True)}
                    for each in declared.iterations
                ),
            ]
        model = declared.model or message["model"]
        return {**truth, "message": {**message, "model": model, "usage": usage}}

    @property
    def _anything_declared(self) -> bool:
        return bool(self.declared.matching or self.declared.chances)

    def _rule(self, digest: bytes, raw: bytes, *, answered: bool) -> Rule | None:
        """The fault of a request; `raw` are valid params only if the request was `answered`."""
        if not self._anything_declared:
            return None
        attempt = 1 + self.attempts_before(digest) + self._here[digest]
        self._here[digest] += 1
        for matching in self.declared.matching:
            hit = self._applies(matching, attempt) and _as_json(matching.contains) in raw
            if hit and (not answered or is_due(matching, raw)):
                return matching
        for number, chance in enumerate(self.declared.chances):
            dice = throw(self.seed, "request", number, digest.hex(), attempt)
            hit = self._applies(chance, attempt) and dice < chance.probability
            if hit and (not answered or is_due(chance, raw)):
                return chance
        return None

    def _applies(self, rule: Rule, attempt: int) -> bool:
        in_time = rule.attempts is None or attempt <= rule.attempts
        return in_time and rule.ways in (self.way, "both")


def check_body(
    rules: Sequence[RefusedBody], size: int, requests: Iterable[tuple[str, bytes, bytes]]
) -> None:
    """Errors: `ApiError` for a body of `size` bytes, with these requests, that is refused."""
    params = [raw for _, _, raw in requests] if any(rule.contains for rule in rules) else []
    for rule in rules:
        where = ""
        if rule.above_bytes is not None:
            hit = size > rule.above_bytes
        else:
            text = _as_json(rule.contains or "")
            row = next((number for number, raw in enumerate(params) if text in raw), None)
            hit = row is not None
            where = f"requests.{row}.params." if rule.names_row else ""
        if hit:
            raise ApiError(rule.status, STATUS_TYPES[rule.status], where + rule.message)


def _as_json(text: str) -> bytes:
    """A text as encoded inside a JSON string."""
    return orjson.dumps(text)[1:-1]


def _error_type(rule: Rule) -> str:
    return UNKNOWN_ERROR_TYPE if rule.outcome == "unknown_error" else rule.outcome
