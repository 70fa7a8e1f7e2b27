"""Every kind of answer that the documentation allows, in one night: each item ends in one row."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.api.rate_limit import Limiter
from batch_pipeline.flow import run
from batch_pipeline.flow.costs.cost_report import write_report
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline_tests.end_to_end.bill import bill_of
from batch_pipeline_tests.end_to_end.plain_api import (
    Params,
    PlainApi,
    Result,
    content_key,
    errored,
    message,
    prompt_of,
)
from batch_pipeline_tests.support import by_id, dead_letters, job, results, write_rows

SEPARATORS = "one\u2028two\u2029three\u0085four\r\nfive"
FULL_USAGE = {
    "input_tokens": 11,
    "output_tokens": 13,
    "cache_creation_input_tokens": 500,
    "cache_read_input_tokens": 70,
    "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 300},
    "service_tier": "batch",
    "output_tokens_details": {"thinking_tokens": 5},
}
NULL_USAGE = {
    "input_tokens": 11,
    "output_tokens": 13,
    "cache_creation_input_tokens": 40,
    "cache_read_input_tokens": None,
    "cache_creation": None,
    "inference_geo": None,
}


@dataclass(frozen=True)
class Case:
    """What the API answers the first time and after that, and what the row then says."""

    first: Result
    status: str
    attempts: int = 1
    content: str | None = None
    later: Result | None = None


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


GOOD = message("good at last")
CASES = {
    "plain": Case(message("fine"), "succeeded", content="fine"),
    "thinking first": Case(
        message("", content=[{"type": "thinking", "thinking": "hm", "signature": "x"}, text("so")]),
        "succeeded",
        content="so",
    ),
    "several texts": Case(
        message("", content=[text("a"), {"type": "novel_block", "x": 1}, text("b")]),
        "succeeded",
        content="ab",
    ),
    "separators": Case(message(SEPARATORS), "succeeded", content=SEPARATORS),
    "stop sequence": Case(
        message("it", stop_reason="stop_sequence", stop_sequence="\n"), "succeeded", content="it"
    ),
    "full usage": Case(message("u", usage=FULL_USAGE), "succeeded", content="u"),
    "null usage": Case(message("n", usage=NULL_USAGE), "succeeded", content="n"),
    "no content": Case(message("", content=[]), "invalid_output", content=""),
    "blank": Case(message(" \n"), "invalid_output", content=" \n"),
    "pause": Case(
        message("wait, ", stop_reason="pause_turn"),
        "succeeded",
        2,
        content="wait, good at last",
        later=GOOD,
    ),
    "new stop reason": Case(message("x", stop_reason="teatime"), "invalid_output", content="x"),
    "refusal": Case(message("", content=[], stop_reason="refusal"), "refused", content=""),
    "cut off": Case(message("and th", stop_reason="max_tokens"), "truncated", content="and th"),
    "window": Case(
        message("an", stop_reason="model_context_window_exceeded"), "truncated", content="an"
    ),
    "invalid request": Case(errored("invalid_request_error", "too long"), "errored"),
    "too large": Case(errored("request_too_large"), "errored"),
    "overloaded once": Case(
        errored("overloaded_error"), "succeeded", 2, content="good at last", later=GOOD
    ),
    "always an api error": Case(errored("api_error"), "errored", 3, later=errored("api_error")),
    "rate limit twice": Case(
        errored("rate_limit_error"), "errored", 3, later=errored("timeout_error")
    ),
    "unknown error": Case(errored("teapot_error"), "errored", 2, later=errored("teapot_error")),
    "unknown error once": Case(
        errored("teapot_error"), "succeeded", 2, content="good at last", later=GOOD
    ),
    "unknown result": Case({"type": "postponed"}, "errored", 2, later={"type": "postponed"}),
    "expired once": Case({"type": "expired"}, "succeeded", 2, content="good at last", later=GOOD),
    "always expired": Case({"type": "expired"}, "expired", 3, later={"type": "expired"}),
    "canceled once": Case({"type": "canceled"}, "succeeded", 2, content="good at last", later=GOOD),
}
EACH = 3
TEXTS = [f"{name} #{n}" for name in CASES for n in range(EACH)]
ROWS = [{"id": text.replace("#", ""), "text": text} for text in TEXTS]


def case_of(params: Params) -> Case:
    return CASES[prompt_of(params).partition(" #")[0]]


def answer(params: Params, before: int) -> Result:
    case = case_of(params)
    goes_on = params["messages"][-1]["role"] == "assistant"
    again = before > 0 or goes_on
    return case.later if again and case.later is not None else case.first


# Most of these answers need a fix, which would stop an ordinary night.
NO_BREAKER = {"error_rate": 1.0}


def test_each_kind_of_answer_becomes_the_row_it_should_where_lines_are_repeated(
    plain_api: PlainApi, plain_pipeline: Pipeline, tmp_path: Path
) -> None:
    plain_api.answer = answer
    plain_api.repeats_lines = True
    source = write_rows(tmp_path / "in.jsonl", ROWS)
    limits = {"max_requests_per_batch": 27}
    spec = job(source, prompt={"user": "{text}"}, limits=limits, alerts=NO_BREAKER)

    state = run.run(plain_pipeline, spec, "all")

    assert state.complete
    check_rows(plain_pipeline, spec)
    asked = {prompt: CASES[prompt.partition(" #")[0]].attempts for prompt in TEXTS}
    assert _accepted_by_prompt(plain_api) == asked, "asked more or less often than needed"


def check_rows(pipeline: Pipeline, spec: JobSpec) -> None:
    found = by_id(results(pipeline, spec))
    assert set(found) == {row["id"] for row in ROWS}
    for name, case in CASES.items():
        for n in range(EACH):
            row = found[f"{name} {n}"]
            seen = (row["status"], row["attempt"], row["content"], row["simulated"])
            assert seen == (case.status, case.attempts, case.content, False), name
    letters = by_id(dead_letters(pipeline, spec))
    assert set(letters) == {i for i, row in found.items() if row["status"] != "succeeded"}
    assert json.loads(letters["refusal 2"]["input"]) == {"id": "refusal 2", "text": "refusal #2"}


def test_the_bill_is_what_the_lines_say(
    plain_api: PlainApi, plain_pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch_pipeline.flow.realtime.call_failures.FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(Limiter, "_backoff", lambda _: 0.0)
    plain_api.answer = answer
    spec = job(
        write_rows(tmp_path / "in.jsonl", ROWS),
        prompt={"user": "{text}"},
        pilot={"size": 15, "max_error_rate": 1, "max_truncated_rate": 1},
        alerts=NO_BREAKER,
    )

    state = run.run(plain_pipeline, spec, "all")
    report = write_report(plain_pipeline, spec, state.night)

    check_rows(plain_pipeline, spec)

    bill = bill_of(tmp_path / "home", spec.name)
    assert bill.realtime_usd > 0
    assert report.costs.batch_usd == bill.batch_usd
    assert report.costs.realtime_usd == bill.realtime_usd
    assert report.costs.counterfactual_usd == bill.counterfactual_usd
    assert report.costs.savings_usd == bill.batch_usd
    rows_usd = sum((row["cost_usd"] for row in results(plain_pipeline, spec)), Decimal(0))
    assert rows_usd + report.costs.unattributed_usd == bill.batch_usd + bill.realtime_usd
    assert report.costs.unattributed_usd == 0
    document = json.loads((tmp_path / "home/review/reports/all.json").read_bytes())
    assert (document["complete"], document["simulated"]) == (True, False)
    assert document["items"] == len(ROWS) == document["succeeded"] + document["dead_letter"]


def _accepted_by_prompt(api: PlainApi) -> Counter[str]:
    prompts = {
        content_key(params): prompt_of(params)
        for batch in api.batches
        for _, params in batch.requests
    }
    found: Counter[str] = Counter()
    for key, count in api.accepted.items():
        found[prompts[key]] += count
    return found
