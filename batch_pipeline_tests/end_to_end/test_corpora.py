"""Hundreds of real documents in each format, dirty rows among them, against the plain API."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from batch_pipeline.flow import run
from batch_pipeline.flow.costs.cost_report import write_report
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline_tests.end_to_end.bill import bill_of
from batch_pipeline_tests.end_to_end.corpus import Dirty, rows
from batch_pipeline_tests.end_to_end.plain_api import (
    Params,
    PlainApi,
    Result,
    content_key,
    message,
    prompt_of,
)
from batch_pipeline_tests.support import by_id, dead_letters, job, results, statuses

# Not a template: its braces are sent as they are.
SYSTEM = 'Count the characters of the text; answer {"n": …}, {{nothing}} else.'
SCHEMA = {
    "type": "object",
    "required": ["n"],
    "additionalProperties": False,
    "properties": {"n": {"type": "integer"}},
}


def counted(params: Params, before: int) -> Result:
    """JSON as the schema asks for; one in nine is text, one in nine breaks the schema."""
    key = int(content_key(params)[:4], 16) % 9
    n = len(prompt_of(params))
    return message({0: "about " + str(n), 1: '{"n": "many"}'}.get(key, f'{{"n": {n}}}'))


@pytest.mark.parametrize(
    ("write", "count"),
    [(Dirty.jsonl, 600), (Dirty.csv, 600), (Dirty.txt, 600)],
    ids=["jsonl", "csv", "txt"],
)
def test_a_night_of_real_documents(
    plain_api: PlainApi,
    plain_pipeline: Pipeline,
    tmp_path: Path,
    write: Callable[[Path, list[dict[str, Any]]], str],
    count: int,
) -> None:
    good = rows(count)
    pattern = write(tmp_path, good)
    suffix = ".txt" if pattern.endswith("txt") else ""
    spec = job(
        tmp_path / pattern,
        prompt={"system": SYSTEM, "user": "{text}"},
        limits={"max_requests_per_batch": 250},
        pilot={"size": 25, "max_error_rate": 1},
    )

    state = run.run(plain_pipeline, spec, "all")
    report = write_report(plain_pipeline, spec, state.night)

    found = by_id(results(plain_pipeline, spec))
    assert set(found) == {row["id"] for row in good} | {name + suffix for name in Dirty.IDS}
    assert statuses(found.values()) == {"succeeded": count, "invalid_input": len(Dirty.IDS)}
    for row in good:
        assert found[row["id"]]["content"] == f"{len(row['text'])} characters", row["id"]
    assert {params["system"] for _, params in plain_api.batches[0].requests} == {SYSTEM}
    assert {row["reason"] for row in dead_letters(plain_pipeline, spec)} == {"invalid_input"}
    _check_books_and_bill(plain_api, report, tmp_path, spec.name, count)


def test_a_night_with_a_schema(
    plain_api: PlainApi, plain_pipeline: Pipeline, tmp_path: Path
) -> None:
    plain_api.answer = counted
    good = rows(600)
    path = Dirty.jsonl(tmp_path, good)
    spec = job(
        tmp_path / path,
        prompt={"system": "You count.", "user": "{text}"},
        output_schema=SCHEMA,
        limits={"max_requests_per_batch": 300},
    )

    state = run.run(plain_pipeline, spec, "all")
    report = write_report(plain_pipeline, spec, state.night)

    found = by_id(results(plain_pipeline, spec))
    for row in good:
        answer, parsed = found[row["id"]], found[row["id"]]["parsed"]
        if answer["content"].startswith("about"):
            assert (answer["status"], answer["error_type"]) == ("invalid_output", "not_json")
        elif answer["content"] == '{"n": "many"}':
            assert (answer["status"], answer["error_type"]) == (
                "invalid_output",
                "schema_violation",
            )
        else:
            assert answer["status"] == "succeeded"
            assert orjson.loads(parsed) == {"n": len(row["text"])}
    assert statuses(found.values())["invalid_output"] > 100
    sent = plain_api.batches[0].requests[0][1]
    assert sent["output_config"]["format"]["schema"] == SCHEMA
    _check_books_and_bill(plain_api, report, tmp_path, spec.name, len(good))


def _check_books_and_bill(api: PlainApi, report: Any, folder: Path, name: str, bought: int) -> None:
    """Each document was bought once, one way or the other, and the report says what it cost."""
    asked = api.accepted + api.called
    assert len(asked) == bought
    assert set(asked.values()) == {1}
    bill = bill_of(folder / "home", name)
    assert report.costs.batch_usd == bill.batch_usd > Decimal(0)
    assert report.costs.realtime_usd == bill.realtime_usd
    assert report.costs.counterfactual_usd == bill.counterfactual_usd
    assert report.items == bought + len(Dirty.IDS) == report.succeeded + report.dead_letter
    assert not report.simulated
