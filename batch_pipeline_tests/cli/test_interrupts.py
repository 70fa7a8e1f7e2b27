"""Ctrl-C and SIGTERM while calls are made: what is under way ends, and the next run goes on."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.simulator import Simulator, running_simulator
from batch_pipeline_tests.cli.program import KEY, Program, documents, finished

ITEMS = 150


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with running_simulator(latency=0.2) as simulator:
        yield simulator


@pytest.fixture
def program(sim: Simulator, tmp_path: Path) -> Program:
    environ = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": sim.url}
    made = Program(tmp_path, environ)
    made.declare("review", documents(ITEMS), mode="realtime", realtime={"concurrency": 10})
    return made


def wait_for_calls(sim: Simulator, process: subprocess.Popen[str], calls: int) -> None:
    while sim.books.billed_requests < calls:
        assert process.poll() is None
        time.sleep(0.02)  # an event of another process: there is nothing to wait on


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_the_first_signal_waits_for_the_calls_in_flight(
    sim: Simulator, program: Program, number: signal.Signals
) -> None:
    with program.start("run", "review") as process:
        wait_for_calls(sim, process, 20)
        process.send_signal(number)
        ended = finished(process)
    assert ended.code == 130
    assert "stopping once the calls in flight have ended" in ended.err
    answered = sim.books.billed_requests
    assert 20 <= answered < ITEMS

    # Nobody waits for a lease of one that has let go, and nothing is asked again.
    ended = program("run", "review", "--json")
    assert (ended.code, ended.document["succeeded"]) == (0, ITEMS)
    assert sim.books.billed_requests == ITEMS
    assert sim.books.billed_more_than_once == []


def test_the_second_signal_ends_at_once(sim: Simulator, program: Program) -> None:
    sim.set_latency(20)
    with program.start("run", "review") as process:
        wait_for_calls(sim, process, 10)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "stopping once" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert finished(process).code == 130
    assert time.monotonic() - began < 15
