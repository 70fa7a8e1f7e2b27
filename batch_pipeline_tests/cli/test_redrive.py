"""`dead-letter redrive`: what it says, how it ends, and what it refuses."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.cli.program import Program, documents

# A text that no other test's documents have.
BAD = f"bad-{uuid.uuid4().hex}"


@pytest.fixture
def failing(simulator: Simulator) -> Iterator[Simulator]:
    """Refuses documents that say BAD, until the faults are lifted."""
    refused = {"contains": BAD, "outcome": "refusal"}
    simulator.set_faults(Faults.of(requests={"matching": [refused]}))
    yield simulator
    simulator.set_faults(Faults())


def letters(program: Program, job: str) -> dict[str, int]:
    groups = program("dead-letter", "list", job, "--json").document["groups"]
    return {group["reason"]: group["items"] for group in groups}


def test_redrive_sends_again_and_runs_to_the_end(program: Program, failing: Simulator) -> None:
    rows = [*documents(8), {"id": "bad", "text": BAD}, {"id": "null", "text": None}]
    declared = {"pilot": {"size": 0, "max_error_rate": 1}}
    job = program.declare("review", rows, **declared)
    assert program("run", job).code == 0
    assert letters(program, job) == {"refused": 1, "invalid_input": 1}

    failing.set_faults(Faults())
    accepted = failing.books.accepted_requests
    ended = program(
        "dead-letter", "redrive", job, "--partition", "all", "--json", "--reason", "refused"
    )
    assert ended.code == 0, ended.err
    document = ended.document
    assert (document["complete"], document["succeeded"], document["dead_letter"]) == (True, 9, 1)
    assert "Sent again: 1 refused" in ended.err
    assert failing.books.accepted_requests == accepted + 1

    rows[-1]["text"] = "corrected"
    program.declare("review", rows, prompt={"user": "Shorter: {text}"}, **declared)
    ended = program("dead-letter", "redrive", job, "--reason", "invalid_input")
    assert ended.code == 0, ended.err
    assert "review all: complete" in ended.out
    assert letters(program, job) == {}
    assert failing.books.accepted_requests == accepted + 2


def test_nothing_to_redrive_is_not_a_run(program: Program, simulator: Simulator) -> None:
    job = program.declare("review", documents(3))
    assert program("run", job).code == 0
    accepted = simulator.books.accepted_requests
    program.declare("review", prompt={"user": "Shorter: {text}"})
    ended = program("dead-letter", "redrive", job, "--json")
    assert (ended.code, ended.document["complete"]) == (0, True)
    assert "No dead letter is to be sent again" in ended.err
    assert simulator.books.accepted_requests == accepted


def test_ids_that_are_no_longer_in_the_input_are_named(
    program: Program, failing: Simulator
) -> None:
    good, bad = documents(3), [{"id": f"bad {n}", "text": f"{BAD} {n}"} for n in range(2)]
    job = program.declare("review", [*good, *bad])
    assert program("run", job).code == 0
    failing.set_faults(Faults())
    program.declare("review", [*good, bad[0]])
    ended = program("dead-letter", "redrive", job)
    assert ended.code == 0, ended.err
    assert "their dead letters stay (1): bad 1" in ended.err
    assert "Sent again: 1 refused" in ended.err
    assert letters(program, job) == {"refused": 1}


def test_without_waiting_run_goes_on_with_it(program: Program, failing: Simulator) -> None:
    job = program.declare("review", [*documents(3), {"id": "bad", "text": BAD}])
    assert program("run", job).code == 0
    failing.set_faults(Faults())
    failing.hold()
    ended = program("dead-letter", "redrive", job, "--no-wait")
    assert ended.code == 4
    assert f"run {job} --partition all` to go on" in ended.err
    twice = program("dead-letter", "redrive", job, "--json")
    assert (twice.code, twice.error["code"]) == (2, "usage")
    assert f"`batch-pipeline run {job} --partition all`" in twice.error["message"]
    failing.release()
    assert program("run", job, "--json").document["succeeded"] == 4


def test_an_unknown_reason_is_refused_with_a_list(offline: Program) -> None:
    job = offline.declare("review", documents(1))
    ended = offline("dead-letter", "redrive", job, "--reason", "broken", "--json")
    assert ended.code == 2
    assert "broken: no dead letter has such a reason" in ended.error["message"]
    assert "invalid_output" in ended.error["message"]
