"""Closed gates on the command line: exit codes, what `status` says, and overruling them."""

from __future__ import annotations

import re

import pytest

from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.cli.program import Program, documents

SMALL = {"BATCH_PIPELINE_MAX_QUEUED_REQUESTS": "20"}
LIMITS = {"max_requests_per_batch": 10}
INVALID = {"contains": "file", "outcome": "invalid_request_error", "message": "no such field"}


@pytest.fixture
def failing(simulator: Simulator) -> Simulator:
    """Every request of a batch is refused."""
    simulator.set_faults(Faults.of(requests={"matching": [INVALID]}))
    return simulator


def test_an_open_breaker(program: Program, failing: Simulator) -> None:
    job = program.declare(
        "review", documents(60), limits=LIMITS, alerts={"error_rate": 0.5, "after_items": 20}
    )
    ended = program("run", job, "--json", **SMALL)
    assert ended.code == 3, ended.err
    assert ended.error["code"] == "gate_closed"
    message = ended.error["message"]
    assert "20 of 20 first attempts need a fix (100.0%, over 50.0%)" in message
    assert message.count(": no such field") == 3
    assert f"approve {job} --partition all --gate breaker" in message
    assert program("run", job, "--no-wait", **SMALL).code == 3

    [night] = program("status", job, "--json").document["nights"]
    assert (night["state"], night["waiting"], night["to_collect"]) == ("breaker open", 40, 0)
    assert "most often invalid_request_error (20)" in night["breaker"]["reason"]
    assert len(night["breaker"]["examples"]) == 3
    shown = program("status", job).out
    assert "breaker open" in shown
    assert "no such field" in shown

    failing.set_faults(Faults())
    reason = ["--gate", "breaker", "--reason", "the field [x] is there now"]
    approved = program("approve", job, *reason, "--json", ANTHROPIC_API_KEY=None)
    assert approved.code == 0, approved.err
    given = approved.document
    assert (given["gate"], given["reason"]) == ("breaker", "the field [x] is there now")
    assert re.fullmatch(r"\S+@\S+", given["approved_by"])
    [night] = program("status", job, "--json").document["nights"]
    assert (night["state"], night["breaker"]) == ("open", None)
    assert night["approvals"] == [{k: given[k] for k in night["approvals"][0]}]

    report = program("run", job, "--json", **SMALL).document
    assert (report["complete"], report["succeeded"], report["dead_letter"]) == (True, 40, 20)
    assert [a["gate"] for a in report["approvals"]] == ["breaker"]
    assert "the field [x] is there now" in program("status", job).out


def test_an_approved_pilot(program: Program) -> None:
    closed = {"size": 10, "max_truncated_rate": 0}
    alerts = {"error_rate": 1.0}
    job = program.declare("review", documents(100), max_tokens=1, pilot=closed, alerts=alerts)
    assert program("run", job).code == 3
    empty = program("approve", job, "--gate", "pilot", "--reason", " ")
    assert empty.code == 2
    assert "needs a reason" in empty.err
    assert program("run", job).code == 3

    approved = program("approve", job, "--gate", "pilot", "--reason", "short answers will do")
    assert approved.code == 0
    assert "short answers will do" in approved.out
    assert f"run {job} --partition all" in approved.out
    assert program("status", job, "--json").document["nights"][0]["state"] == "open"
    ended = program("run", job, "--json")
    assert (ended.code, ended.document["complete"]) == (0, True)
    assert ended.document["pilot"]["open"] is False
    assert ended.document["approvals"][0]["reason"] == "short answers will do"


def test_a_night_that_the_budget_holds_back(program: Program) -> None:
    tight = {"max_usd_per_partition": 0.001}
    job = program.declare("review", documents(30), budget=tight)
    ended = program("run", job, "--no-wait", "--json")
    assert (ended.code, ended.error["code"]) == (3, "gate_closed")
    assert "30 requests are held back" in ended.error["message"]
    assert "budget.max_usd_per_partition ($0.00100)" in ended.error["message"]
    [night] = program("status", job, "--json").document["nights"]
    assert (night["state"], night["waiting"]) == ("budget reached", 30)
    assert [warning["code"] for warning in night["warnings"]] == ["budget_reached"]
    monthly = program("run", job, "--json", BATCH_PIPELINE_MAX_USD_PER_MONTH="0.0001")
    assert "BATCH_PIPELINE_MAX_USD_PER_MONTH" in monthly.error["message"]

    program.declare("review", budget={"max_usd_per_partition": 5})
    assert program("run", job).code == 0
    [night] = program("status", job, "--json").document["nights"]
    assert (night["state"], night["warnings"]) == ("complete", [])


def test_a_gate_that_is_not_closed(program: Program) -> None:
    job = program.declare("review", documents(3))
    assert program("run", job).code == 0
    ended = program("approve", job, "--gate", "breaker", "--reason", "x", "--json")
    assert (ended.code, ended.error["code"]) == (2, "usage")
    assert "is not closed" in ended.error["message"]


BETA = "Unexpected value(s) `none-2026` for the `anthropic-beta` header"


def test_status_warns(program: Program, simulator: Simulator) -> None:
    simulator.set_faults(
        Faults.of(create={"script": [{"kind": "error", "status": 400, "message": BETA}]})
    )
    job = program.declare("review", documents(3))
    ended = program("run", job)
    simulator.set_faults(Faults())
    assert ended.code == 1
    [night] = program("status", "--json").document["nights"]
    [warning] = night["warnings"]
    assert (warning["code"], warning["batch"]) == ("night_refused", None)
    assert BETA in warning["message"]
    assert f"warning: {job} all: the API refused a batch" in program("status").out


def test_a_pilot_that_a_person_has_to_review(program: Program) -> None:
    job = program.declare("review", documents(20), pilot={"size": 10, "review": "required"})
    reason = ["--gate", "pilot", "--reason", "they read well"]
    assert program("run", job, "--no-wait").code == 3
    ended = program("run", job, "--json")
    assert (ended.code, ended.error["code"]) == (3, "gate_closed")
    page = program.home / "review" / "reports" / "all.pilot.html"
    assert f"Look at {page}" in ended.error["message"]
    [night] = program("status", job, "--json").document["nights"]
    assert (night["state"], night["waiting"]) == ("gate closed", 17)
    assert night["night_state"]["remedy"].startswith(f"look at {page}, then let it go")
    assert "Waits for a person" in page.read_text()
    assert program("approve", job, *reason).code == 0
    assert program("status", job, "--json").document["nights"][0]["state"] == "open"
    assert program("run", job).code == 0
    assert "they read well" in page.read_text()

    # More documents are another input: what was approved is not this one.
    program.declare("review", documents(40), pilot={"size": 10, "review": "required"})
    assert program("run", job).code == 3
    # Without a review it goes, from the next run on.
    program.declare("review", pilot={"size": 10})
    assert program("run", job).code == 0


def test_nothing_is_approved_before_there_is_something_to_look_at(
    program: Program, simulator: Simulator
) -> None:
    pilot = {"size": 10, "review": "required", "via": "batch"}
    job = program.declare("review", documents(20), pilot=pilot)
    simulator.hold()
    assert program("run", job, "--no-wait").code == 4
    early = program("approve", job, "--gate", "pilot", "--reason", "it will be good")
    assert early.code == 2
    assert "Its pilot has not been judged yet" in early.err
