"""Nights whose rows ask several models, and whose answers are escalated to a stronger one."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import GateClosedError
from batch_pipeline.flow import steps
from batch_pipeline.flow.costs.cost_report import build_report
from batch_pipeline.flow.costs.estimate import estimate
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.recovery.recover import recover
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status import warnings
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.answers_files import Stands
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    MODEL,
    PARTITION,
    accepted_twice,
    dead_letters,
    documents,
    job,
    make_late,
    results,
    set_deadline,
    statuses,
    submissions_of,
    write_rows,
)

STRONG, MIDDLE = "claude-opus-4-6", "claude-sonnet-4-6"
# JSON that meets this is longer than two tokens.
SCHEMA = {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {**row, "kind": "merger" if number % 4 == 0 else "letter", "pages": str(number)}
        for number, row in enumerate(documents(count))
    ]


def routed(source: Path, **changes: Any) -> JobSpec:
    routes = [
        {"where": "kind = 'merger' and pages::int >= 8", "model_id": STRONG, "max_tokens": 900},
        {"where": "kind = 'merger'", "model_id": MIDDLE},
    ]
    return job(source, **({"routes": routes} | changes))


def escalating(source: Path, **changes: Any) -> JobSpec:
    escalate = {"model_id": STRONG, "max_share": 1.0, **changes.pop("escalate", {})}
    retry = {"escalate": escalate, **changes.pop("retry", {})}
    return job(source, retry=retry, **changes)


def asked(rows_: list[dict[str, Any]]) -> Counter[tuple[str | None, str]]:
    return Counter((row["route"], row["model"]) for row in rows_)


def spent(sim: Simulator) -> Decimal:
    return sim.books.batch_cost_usd + sim.books.realtime_cost_usd


@pytest.mark.parametrize("mode", ["batch", "realtime"])
def test_the_first_rule_that_matches_decides_which_model_a_row_asks(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path, mode: str
) -> None:
    pipeline, source = make_pipeline(), write_rows(tmp_path / "in.jsonl", rows(16))
    spec = routed(source, mode=mode)
    state = run(pipeline, spec, PARTITION)
    found = results(pipeline, spec)
    assert asked(found) == {(None, MODEL): 12, ("1", STRONG): 2, ("2", MIDDLE): 2}
    assert state.statuses == {"succeeded": 16}
    # One batch holds several models, and each is billed at its own price.
    assert [s.requests for s in submissions_of(pipeline)] == [16]
    assert state.total_cost_usd == spent(sim) == sum(row["cost_usd"] for row in found)
    [sent] = submissions_of(pipeline)
    assert sent.cost_usd is not None
    assert sent.cost_usd <= sent.usd_bound

    # A rule that moved buys only what changed its route.
    moved = [{"where": "kind = 'merger'", "model_id": MIDDLE}]
    run(pipeline, routed(source, mode=mode, routes=moved), PARTITION)
    assert sim.books.accepted_requests == 16 + 2
    assert asked(results(pipeline, spec)) == {(None, MODEL): 12, ("1", MIDDLE): 4}


def test_a_pilot_and_a_report_tell_of_each_route(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", rows(120))
    spec = routed(source, pilot={"size": 12})
    state = run(pipeline, spec, PARTITION)
    verdict = state.night.pilot
    assert verdict is not None
    of_route = {route["route"]: route for route in verdict["routes"]}
    assert [of_route[name]["sample"] for name in (None, "1", "2")] == [9, 2, 1]
    assert [of_route[name]["model_id"] for name in (None, "1", "2")] == [MODEL, STRONG, MIDDLE]
    assert sum(r["projected_usd"] for r in of_route.values()) == pytest.approx(
        verdict["projected_usd"], abs=1e-5
    )
    assert verdict["projected_usd"] == pytest.approx(float(spent(sim)), rel=0.5)
    report = build_report(pipeline, spec, state.night)
    by_model: Counter[str] = Counter()
    for usage in report.models:
        by_model[usage.model_id] += usage.answers
    assert by_model == {MODEL: 90, STRONG: 28, MIDDLE: 2}
    assert sum((usage.usd for usage in report.models), Decimal(0)) == spent(sim)


def test_a_rule_that_fails_on_a_row_sets_it_aside_and_null_does_not_match(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    rows_ = [*rows(18), {"id": "bad", "text": "x", "kind": "merger", "pages": "many"}]
    rows_ += [{"id": "without", "text": "y", "kind": None, "pages": None}]
    spec = routed(write_rows(tmp_path / "in.jsonl", rows_))
    assert run(pipeline, spec, PARTITION).statuses == {"succeeded": 19, "invalid_input": 1}
    [letter] = dead_letters(pipeline, spec)
    assert letter["id"] == "bad"
    assert "routes.0.where" in letter["error_message"]


def test_what_failed_is_asked_once_more_of_the_stronger_model(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(10))
    spec = escalating(source, max_tokens=1, output_schema=SCHEMA, escalate={"max_tokens": 4_000})
    state = run(pipeline, spec, PARTITION)
    found = results(pipeline, spec)
    assert statuses(found) == state.statuses == {"succeeded": 10}
    assert {(row["model"], row["attempt"]) for row in found} == {(STRONG, 2)}
    assert sim.books.accepted_requests == 20
    assert state.total_cost_usd == spent(sim) == sum(row["cost_usd"] for row in found)
    run(pipeline, spec, PARTITION)
    assert sim.books.accepted_requests == 20


def test_more_room_comes_before_the_stronger_model(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(4))
    spec = escalating(
        source,
        max_tokens=1,
        output_schema=SCHEMA,
        escalate={"max_tokens": 4_000},
        retry={"truncated_max_tokens": 2},
    )
    run(pipeline, spec, PARTITION)
    assert {(r["model"], r["attempt"]) for r in results(pipeline, spec)} == {(STRONG, 3)}
    assert [s.requests for s in submissions_of(pipeline)] == [4, 4, 4]


def test_an_unsure_answer_stands_if_the_stronger_model_fails(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    """The stronger model's answers are cut off; nothing is published before that is known."""
    source = write_rows(tmp_path / "in.jsonl", documents(6))
    spec = escalating(
        source,
        output_schema=SCHEMA,
        escalate={"max_tokens": 1, "where": "parsed->>'topic' is not null"},
    )
    state = run(pipeline, spec, PARTITION)
    found = results(pipeline, spec)
    assert state.statuses == statuses(found) == {"succeeded": 6}
    assert {(row["model"], row["attempt"], row["status"]) for row in found} == {
        (MODEL, 1, "succeeded")
    }
    assert sim.books.accepted_requests == 12
    assert sum(row["cost_usd"] for row in found) == state.total_cost_usd == spent(sim)
    assert not dead_letters(pipeline, spec)


def test_failures_come_before_unsure_answers_and_no_more_than_the_share(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    """Of 20 answers two are cut off, and all others are unsure; five may be escalated."""
    rows_ = documents(20)
    for row in rows_[7:9]:
        row["kind"] = "short"
    source = write_rows(tmp_path / "in.jsonl", rows_)
    routes = [{"where": "kind = 'short'", "max_tokens": 1}]
    spec = escalating(
        source,
        output_schema=SCHEMA,
        routes=routes,
        escalate={"max_share": 0.25, "where": "output_tokens > 0"},
        limits={"max_requests_per_batch": 10},
    )
    state = run(pipeline, spec, PARTITION)
    found = results(pipeline, spec)
    assert state.statuses == {"succeeded": 20}
    stronger = [row for row in found if row["model"] == STRONG]
    assert len(stronger) == 5
    assert sum(row["route"] == "1" for row in stronger) == 2
    assert sim.books.accepted_requests == 25
    assert not accepted_twice(sim)
    assert sum(row["cost_usd"] for row in found) == spent(sim)


def test_failures_within_the_share_do_not_open_the_breaker_of_a_night_in_small_batches(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    rows_ = [{**row, "kind": "letter" if n % 5 else "short"} for n, row in enumerate(documents(20))]
    spec = escalating(
        write_rows(tmp_path / "in.jsonl", rows_),
        output_schema=SCHEMA,
        routes=[{"where": "kind = 'short'", "max_tokens": 1}],
        escalate={"max_share": 0.25},
        limits={"max_requests_per_batch": 4},
        alerts={"after_items": 4},
    )
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": 20}
    assert sim.books.accepted_requests == 24


def test_an_escalation_without_budget_leaves_the_first_answer(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(6))
    spec = escalating(
        source,
        max_tokens=60,
        escalate={"max_tokens": 30_000, "where": "output_tokens > 0"},
        budget={"max_usd_per_partition": 0.05},
    )
    state = run(pipeline, spec, PARTITION)
    assert state.complete
    assert {row["model"] for row in results(pipeline, spec)} == {MODEL}
    assert sim.books.accepted_requests == 6


def test_a_pilot_without_budget_for_the_stronger_model_is_judged_by_its_first_answers(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(20))
    spec = escalating(
        source,
        max_tokens=60,
        escalate={"max_tokens": 30_000, "where": "output_tokens > 0"},
        budget={"max_usd_per_partition": 0.05},
        pilot={"size": 2},
    )
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": 20}
    assert {row["model"] for row in results(pipeline, spec)} == {MODEL}
    assert sim.books.accepted_requests == 20
    [warning] = warnings.of(state, spec.alerts)
    assert (warning.code, warning.key) == ("not_escalated", "no_budget")


def test_a_pilot_closes_where_more_would_be_escalated_than_the_share(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(60))
    spec = escalating(
        source, escalate={"where": "output_tokens > 0", "max_share": 0.5}, pilot={"size": 6}
    )
    with pytest.raises(GateClosedError, match=r"retry\.escalate\.max_share"):
        run(pipeline, spec, PARTITION)
    # The pilot escalates too: its outcomes are those after that.
    assert sim.books.accepted_requests == 12
    raised = escalating(source, escalate={"where": "output_tokens > 0"}, pilot={"size": 6})
    state = run(pipeline, raised, PARTITION)
    assert state.statuses == {"succeeded": 60}
    assert sim.books.accepted_requests == 120
    assert {row["model"] for row in results(pipeline, spec)} == {STRONG}


def test_a_rule_that_does_not_tell_keeps_the_answer_and_is_counted(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(4))
    spec = escalating(
        source,
        output_schema=SCHEMA,
        escalate={"where": "(parsed->>'missing')::int > 1 or (parsed->>'topic')::date is null"},
    )
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": 4}
    assert sim.books.accepted_requests == 4
    [warning] = warnings.of(state, spec.alerts)
    assert (warning.code, state.unjudged) == ("escalation_unjudged", 4)


def test_an_escalation_that_would_miss_the_deadline_leaves_the_first_answer(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    """Batches take an hour and the results are wanted in ten minutes. What succeeded stands, and is
    not moved to real time; what failed is."""
    rows_ = [{**row, "kind": "short" if n < 2 else "long"} for n, row in enumerate(documents(8))]
    source = write_rows(tmp_path / "in.jsonl", rows_)
    spec = escalating(
        source,
        mode="auto",
        deadline="8h",
        output_schema=SCHEMA,
        routes=[{"where": "kind = 'short'", "max_tokens": 1}],
        escalate={"where": "output_tokens > 0"},
    )
    sim.hold()
    run(pipeline, spec, PARTITION, wait=False)
    make_late(pipeline, PARTITION, 1e9)
    sim.release()
    night = set_deadline(pipeline, PARTITION, 1e9)
    steps.poll_account(pipeline, night.owner)
    set_deadline(pipeline, PARTITION, 600)
    state = run(pipeline, spec, PARTITION)
    assert state.complete
    found = results(pipeline, spec)
    assert Counter((row["model"], row["mode"]) for row in found) == {
        (MODEL, "batch"): 6,
        (STRONG, "realtime"): 2,
    }
    assert state.stands == {Stands.DEADLINE: 6}
    assert sum(row["cost_usd"] for row in found) == spent(sim)


def test_a_lost_ledger_knows_again_which_answers_stand(
    sim: Simulator, make_pipeline: MakePipeline, home: Path, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(8))
    escalate = {"where": "output_tokens > 0", "max_share": 0.25}
    spec = escalating(source, escalate=escalate)
    made = make_pipeline()
    run(made, spec, PARTITION)
    before = results(made, spec)
    made.close()
    for file in home.glob("ledger.sqlite*"):
        file.unlink()
    made = make_pipeline()
    assert recover(made, wait=False).complete
    assert run(made, spec, PARTITION).complete
    assert sim.books.accepted_requests == 10
    asked_before = Counter(row["model"] for row in before)
    assert Counter(row["model"] for row in results(made, spec)) == asked_before
    made.close()


def test_an_estimate_tells_of_each_model(pipeline: Pipeline, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", rows(40))
    escalate = {"model_id": STRONG, "max_share": 0.5}
    spec = routed(source, retry={"escalate": escalate})
    found = estimate(pipeline, spec, PARTITION)
    told = {(way.route, way.escalated): (way.model_id, way.requests) for way in found.ways}
    assert told == {
        (None, False): (MODEL, 30),
        ("1", False): (STRONG, 8),
        ("2", False): (MIDDLE, 2),
        (None, True): (STRONG, 15),
        ("2", True): (STRONG, 1),
    }
    assert sum(way.batch.expected for way in found.ways) == found.batch.expected
