"""Nights in which answers are sent back: with what is wrong with them, and for the API to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from batch_pipeline.flow.control.redrive import redrive
from batch_pipeline.flow.costs.cost_report import build_report
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import further_turns, manifests, variants
from batch_pipeline.flow.recovery.recover import recover
from batch_pipeline.flow.run import run
from batch_pipeline.ledger import shards, sums
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    accepted_twice,
    by_id,
    dead_letters,
    documents,
    job,
    results,
    statuses,
    submissions_of,
    write_rows,
)

SCHEMA = {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}
EXPLAINED: dict[str, Any] = {"output_schema": SCHEMA, "retry": {"explain": True}}
SEARCH = {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}]}
STRONG = "claude-opus-4-6"


def faults(*before: dict[str, Any], **rules: dict[str, Any]) -> Faults:
    """Faults of documents, by their numbers: `n3={...}`; those of `before` come first."""
    matching = [
        {"contains": f"document number {name[1:]} about", "ways": "both", **rule}
        for name, rule in rules.items()
    ]
    return Faults.of(requests={"matching": [*before, *matching]})


WRONG = {"outcome": "invalid_output"}
HEALS = {**WRONG, "heals_when_explained": True}


def books_agree(sim: Simulator, pipeline: Pipeline, total: object) -> None:
    books = sim.books
    assert not accepted_twice(sim)
    assert books.batch_cost_usd + books.realtime_cost_usd == total
    assert sum(row["cost_usd"] for row in results(pipeline, job("in.jsonl"))) == total


def test_what_broke_the_schema_is_explained_once(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(12))
    # What explaining does not heal is asked of a stronger model as if it had not been explained.
    escalate = {"model_id": STRONG, "max_share": 1.0, "outcomes": ["invalid_output"]}
    retry = {"explain": True, "escalate": escalate}
    not_json = {"outcome": "not_json", "heals_when_explained": True}
    sim.set_faults(faults(n0=HEALS, n1=HEALS, n2=not_json, n3=WRONG))
    spec = job(source, output_schema=SCHEMA, retry=retry)
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": 11, "invalid_output": 1}
    rows = by_id(results(pipeline, spec))
    tries = {item: row["attempt"] for item, row in rows.items()}
    assert [tries[f"Akte {n}/ä"] for n in range(5)] == [2, 2, 2, 3, 1]
    assert all(orjson.loads(rows[f"Akte {n}/ä"]["parsed"]) for n in range(3))
    assert rows["Akte 3/ä"]["model"] == STRONG
    assert (sim.books.accepted_requests, sim.books.billed_requests) == (17, 17)
    books_agree(sim, pipeline, state.total_cost_usd)

    with pipeline.ledger.read() as connection:
        first, second, third = shards.list_shards(connection, state.night.id)
    table = manifests.read(pipeline.files, second.manifest)
    assert table.column("variant").to_pylist() == ["explain"] * 4
    assert manifests.read(pipeline.files, third.manifest).column("turns").null_count == 1
    once = manifests.read(pipeline.files, first.manifest)
    before = dict(
        zip(*(once.column(n).to_pylist() for n in ("unit", "request_bytes")), strict=True)
    )
    for row in table.to_pylist():
        answer, reply = orjson.loads(f"[{row['turns'][1:]}]")
        assert (answer["role"], reply["role"]) == ("assistant", "user")
        assert reply["content"].startswith("Your answer does not fit the required format: the ")
        assert row["request_bytes"] == before[row["unit"]] + len(row["turns"].encode())
    report = build_report(pipeline, spec, state.night)
    assert (report.explained.requests, report.explained.succeeded) == (4, 3)
    assert report.explained.usd < report.costs.billed_usd / 2
    # The breaker counts what each request came to, once.
    with pipeline.ledger.read() as connection:
        [counted] = sums.first_attempts(connection, state.night.id).values()
    assert (counted.done, counted.need_fix) == (12, 1)


@pytest.mark.parametrize("mode", ["batch", "realtime"])
def test_a_paused_answer_goes_on_until_it_ends(
    sim: Simulator,
    pipeline: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
) -> None:
    monkeypatch.setattr(variants, "MOST_CONTINUATIONS", 3)
    source = write_rows(tmp_path / "in.jsonl", documents(5))
    often, always = ({"outcome": "pause_turn", "times": n} for n in (2, 20))
    sim.set_faults(faults(n0=often, n1=often, n2=always))
    spec = job(source, mode=mode, params=SEARCH, model_id=STRONG)
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": 4, "invalid_output": 1}
    rows = by_id(results(pipeline, spec))
    assert [rows[f"Akte {n}/ä"]["attempt"] for n in range(5)] == [3, 3, 4, 1, 1]
    details = [rows[f"Akte {n}/ä"]["details"] for n in range(5)]
    assert [orjson.loads(each or b"{}").get("continued") for each in details] == [
        2,
        2,
        3,
        None,
        None,
    ]
    [letter] = dead_letters(pipeline, spec)
    assert letter["error_type"] == "stop_reason:pause_turn"
    assert letter["error_message"] == "the answer paused 4 times without an end"
    # Text that came before a pause belongs to the answer.
    with pipeline.ledger.read() as connection:
        waves = shards.list_shards(connection, state.night.id)
    third = manifests.read(pipeline.files, waves[2].manifest).to_pylist()
    paused = further_turns.paused_blocks(third[0]["turns"])
    assert [block["type"] for block in paused] == ["text", "server_tool_use"] * 2
    assert rows[third[0]["id"]]["content"].startswith(paused[0]["text"] + paused[2]["text"])
    assert {row["continuations"] for row in third} == {2}
    report = build_report(pipeline, spec, state.night)
    assert (report.continued.requests, report.continued.succeeded) == (3, 2)
    assert [wasted.answers for wasted in report.wasted] == [1]
    books_agree(sim, pipeline, state.total_cost_usd)


def test_a_redrive_asks_anew_and_an_error_in_between_explains_again(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(3))
    busy = {"contains": "Answer again", "outcome": "overloaded_error", "attempts": 1}
    sim.set_faults(faults(busy, n0=WRONG))
    spec = job(source, **EXPLAINED)
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": 2, "invalid_output": 1}
    assert [row["attempt"] for row in results(pipeline, spec)] == [3, 1, 1]
    sim.set_faults(faults(n0=HEALS))
    redrive(pipeline, spec, PARTITION)
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": 3}
    with pipeline.ledger.read() as connection:
        listed = shards.list_shards(connection, state.night.id)
    again, explained = (manifests.read(pipeline.files, each.manifest) for each in listed[-2:])
    assert again.column("variant").to_pylist() == [None]
    assert explained.column("variant").to_pylist() == ["explain"]


def test_a_pilot_is_judged_by_what_was_explained_and_continued(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(30))
    outcomes: list[dict[str, Any]] = [HEALS, {"outcome": "pause_turn"}]
    sim.set_faults(faults(**{f"n{n}": outcomes[n % 2] for n in range(30)}))
    spec = job(source, **EXPLAINED, pilot={"size": 3}, params=SEARCH, model_id=STRONG)
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": 30}
    verdict = state.night.pilot
    assert verdict is not None
    assert (verdict["open"], verdict["sample"], verdict["judged"]) == (True, 3, 3)
    assert verdict["invalid_output_rate"] == 0
    sizes = [(s.engine, s.requests) for s in submissions_of(pipeline)]
    assert sizes == [("realtime", 3), ("realtime", 3), ("batch", 27), ("batch", 27)]
    books_agree(sim, pipeline, state.total_cost_usd)


def test_a_ledger_that_is_rebuilt_knows_what_was_said(
    sim: Simulator, make_pipeline: MakePipeline, home: Path, tmp_path: Path
) -> None:
    """It is lost when the first answers are there, and again while what they say is at the API."""
    source = write_rows(tmp_path / "in.jsonl", documents(6))
    spec = job(source, **EXPLAINED, params=SEARCH, model_id=STRONG)
    sim.set_faults(faults(n0=HEALS, n1=HEALS, n2={"outcome": "pause_turn"}))
    file = tmp_path / "jobs" / "review" / "defs.yaml"
    file.parent.mkdir(parents=True)
    attributes = spec.model_dump(mode="json", exclude_unset=True)
    declared = {"type": "batch_pipeline.BatchJobComponent", "attributes": attributes}
    file.write_text(yaml.safe_dump(declared))
    for _ in range(3):
        made = make_pipeline(jobs_dir=tmp_path / "jobs")
        run(made, spec, PARTITION, wait=False)
        made.close()
        for file in home.glob("ledger.sqlite*"):
            file.unlink()
        made = make_pipeline(jobs_dir=tmp_path / "jobs")
        recover(made, wait=False)
        made.close()
    made = make_pipeline()
    state = run(made, spec, PARTITION)
    rows = by_id(results(made, spec))
    assert statuses(rows.values()) == {"succeeded": 6}
    assert [rows[f"Akte {n}/ä"]["attempt"] for n in range(4)] == [2, 2, 2, 1]
    assert sim.books.accepted_requests == 9
    books_agree(sim, made, state.total_cost_usd)
