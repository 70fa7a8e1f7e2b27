"""`run` and what stops it: exit codes, documents, and going on where it stood."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.cli.program import KEY, Program, documents
from batch_pipeline_tests.end_to_end.plain_api import running_plain_api
from batch_pipeline_tests.support import accepted_twice

REPORTED = {
    *("job", "partition", "items", "succeeded", "dead_letter", "filtered", "batches"),
    *("batch_cost_usd", "realtime_cost_usd", "counterfactual_usd", "savings_usd"),
    *("cost_per_document_usd", "input_tokens", "output_tokens", "cache_read_tokens"),
    *("cache_write_tokens", "simulated", "results_path", "complete"),
}


def ids(path: str) -> list[str]:
    found: list[str] = pq.read_table(path, columns=["id"]).column("id").to_pylist()
    return sorted(found)


@pytest.fixture
def bought_twice(simulator: Simulator) -> Callable[[], set[str]]:
    """What was bought more than once since the test began; others share the simulator."""
    before = set(simulator.books.contents)
    return lambda: set(accepted_twice(simulator)) - before


def test_a_night_to_its_end(program: Program, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*documents(40), {"id": "null", "text": None}]
    job = program.declare("review", rows, pilot={"size": 4, "max_error_rate": 1})

    with caplog.at_level(logging.INFO):
        ended = program("run", job, "--json")

    assert ended.code == 0, ended.err
    night = ended.document
    assert set(night) >= REPORTED
    assert (night["job"], night["partition"]) == ("review", "all")
    assert (night["items"], night["dead_letter"], night["filtered"]) == (41, 1, 0)
    assert night["succeeded"] == 40
    assert (night["simulated"], night["complete"]) == (True, True)
    assert ids(night["results_path"]) == sorted(row["id"] for row in rows)
    total = night["batch_cost_usd"] + night["realtime_cost_usd"]
    assert night["savings_usd"] == pytest.approx(night["counterfactual_usd"] - total)
    assert night["realtime_cost_usd"] > 0, "the pilot goes in real time"
    assert f"Home: {program.home}" in ended.err
    assert "Account: simulator" in ended.err
    assert "100% complete: 41 of 41 items" in caplog.text

    report = program("report", job, "--json", ANTHROPIC_API_KEY=None)
    assert (report.code, report.document) == (0, night)
    assert f"Home: {program.home}" in report.err


def test_what_people_see_says_that_it_is_simulated(program: Program) -> None:
    rows = [*documents(5), {"id": "[/b] null", "text": None}]
    job = program.declare("review", rows, pilot={"size": 0, "max_error_rate": 1})

    ended = program("run", job)

    assert ended.code == 0, ended.err
    assert "review all: complete" in ended.out
    assert "simulated" in ended.out
    letters = program("dead-letter", "list", job)
    assert "[/b] null" in letters.out, "an id was read as markup"
    assert "simulated" in program("status", job).out


def test_no_wait_does_what_it_can_and_the_next_run_goes_on(
    program: Program, simulator: Simulator, bought_twice: Callable[[], set[str]]
) -> None:
    simulator.hold()
    job = program.declare("review", documents(20), limits={"max_requests_per_batch": 10})

    first = program("run", job, "--no-wait", "--json")
    assert (first.code, first.document["complete"]) == (4, False)
    assert first.document["batches"] == 2
    second = program("run", job, "--no-wait")
    assert second.code == 4
    assert "run the same command again" in second.err

    simulator.release()
    third = program("run", job, "--json")
    assert (third.code, third.document["complete"]) == (0, True)
    assert third.document["batches"] == 2
    assert not bought_twice()


def test_a_closed_gate(program: Program) -> None:
    closed = {"size": 10, "max_truncated_rate": 0}
    job = program.declare("review", documents(100), max_tokens=1, pilot=closed)

    ended = program("run", job, "--json")

    assert ended.code == 3
    assert ended.error["code"] == "gate_closed"
    assert "raise max_tokens" in ended.error["message"]
    assert "nothing else was sent" in ended.err
    assert program("run", job).code == 3, "the gate opened by itself"
    [night] = program("status", job, "--json").document["nights"]
    assert (night["state"], night["batches"]) == ("gate closed", 0)
    # Good for another try once it is corrected.
    program.declare("review", max_tokens=4_000, pilot=closed)
    assert program("run", job).code == 0


def test_a_failure_of_the_input_is_not_shown_any_more_once_the_input_is_taken(
    program: Program,
) -> None:
    reviewed = {"size": 10, "review": "required"}
    rows = documents(20)
    wrong = [row | {"text": None} if number < 5 else row for number, row in enumerate(rows)]
    job = program.declare("review", wrong, pilot=reviewed)
    ended = program("run", job)
    assert ended.code == 1
    [night] = program("status", job, "--json").document["nights"]
    assert night["state"] == "failed"

    program.declare("review", rows, pilot=reviewed)
    ended = program("run", job)
    assert ended.code == 3
    assert "cannot be sent" not in ended.err
    [night] = program("status", job, "--json").document["nights"]
    assert night["state"] == "gate closed"


def test_a_cancelled_night_rests_until_it_is_resumed(
    program: Program, simulator: Simulator
) -> None:
    simulator.hold()
    job = program.declare("review", documents(30), limits={"max_requests_per_batch": 10})
    assert program("run", job, "--no-wait").code == 4

    cancelled = program("cancel", job, "--json")
    assert (cancelled.code, cancelled.document["complete"]) == (0, False)
    assert "batches being cancelled: 3" in cancelled.err
    held = program("run", job, "--json")
    assert (held.code, held.document["complete"]) == (3, False)
    assert f"run {job} --partition all --resume" in held.err
    assert program("status", "--json").document["nights"][0]["state"] == "held"

    simulator.release()
    resumed = program("run", job, "--resume", "--json")
    assert (resumed.code, resumed.document["succeeded"]) == (0, 30)
    done = program("cancel", job, "--json")
    assert (done.code, done.document["complete"]) == (0, True)
    assert "nothing to cancel" in done.err
    [night] = program("status", job, "--json").document["nights"]
    assert [action["kind"] for action in night["actions"]] == ["cancel", "resume"]
    assert "@" in night["actions"][0]["done_by"]


def test_the_api_itself_is_billed_and_said_to_be(tmp_path: Path) -> None:
    with running_plain_api() as api:
        program = Program(tmp_path, {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": api.url})
        job = program.declare("review", documents(12))
        ended = program("run", job, "--json", BATCH_PIPELINE_ACCOUNT="research")

    assert ended.code == 0, ended.err
    assert "Account: research (real API, billed)" in ended.err
    assert (ended.document["simulated"], ended.document["succeeded"]) == (False, 12)
    assert "simulated" not in program("report", job).out
