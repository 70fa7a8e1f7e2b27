"""Signals while calls or uploads are under way: those end, and the next run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from batch_pipeline.flow.batches.submission import SEVERAL_FROM_BYTES
from batch_pipeline.flow.dataset.input_dataset import PROCESSES_FROM_BYTES
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.simulator import Faults, Simulator, running_simulator
from batch_pipeline_tests.cli.program import KEY, Program, documents, finished

ITEMS = 100


@pytest.fixture
def sim() -> Iterator[Simulator]:
    """A simulator that takes 0.2 s for each answer, so that a signal meets calls in flight."""
    with running_simulator(latency=0.2) as simulator:
        yield simulator


@pytest.fixture
def program(sim: Simulator, tmp_path: Path) -> Program:
    """The program, and a job of real-time calls, ten at once."""
    environ = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": sim.url}
    made = Program(tmp_path, environ)
    made.declare("review", documents(ITEMS), mode="realtime", realtime={"concurrency": 10})
    return made


def wait_for_calls(sim: Simulator, process: subprocess.Popen[str], calls: int) -> None:
    while sim.books.billed_requests < calls:
        assert process.poll() is None
        time.sleep(0.02)  # an event of another process: there is nothing to wait on


def test_the_first_signal_waits_for_the_calls_in_flight(sim: Simulator, program: Program) -> None:
    with program.start("run", "review") as process:
        wait_for_calls(sim, process, 20)
        process.send_signal(signal.SIGINT)
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


@pytest.mark.parametrize(
    ("before", "meanwhile"),
    [(signal.SIG_IGN, signal.SIG_IGN), (signal.SIG_DFL, signal.default_int_handler)],
    ids=["nohup", "terminal"],
)
def test_a_terminal_that_is_lost_is_ignored_under_nohup(
    offline: Program, before: signal.Handlers, meanwhile: object
) -> None:
    former = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGHUP, before)
        assert offline("--help").code == 0
        assert signal.getsignal(signal.SIGHUP) is meanwhile
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def test_the_second_signal_ends_at_once(sim: Simulator, program: Program) -> None:
    sim.set_latency(20)
    with program.start("run", "review") as process:
        wait_for_calls(sim, process, 10)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert any("stopping once" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert finished(process).code == 130
    assert time.monotonic() - began < 15


def test_the_first_signal_waits_for_the_answers_of_uploads(sim: Simulator, tmp_path: Path) -> None:
    slow = {"probability": 1.0, "fault": {"kind": "normal", "delay_after": 0.7}}
    sim.set_turnaround(0)
    sim.set_faults(Faults.of(create={"chances": [slow]}))
    environ = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": sim.url}
    program = Program(tmp_path, {**environ, "BATCH_PIPELINE_WORKERS": "2"})
    large = [{**row, "text": row["text"] * (SEVERAL_FROM_BYTES // 4_800)} for row in documents(120)]
    program.declare("review", large, limits={"max_requests_per_batch": 20})
    with program.start("run", "review") as process:
        while sim.books.batches_created < 2:
            assert process.poll() is None
            time.sleep(0.02)  # an event of another process
        process.send_signal(signal.SIGINT)
        ended = finished(process)
    assert ended.code == 130
    assert "stopping once what is under way has ended" in ended.err
    made = sim.books.batches_created
    assert 2 <= made < 6
    ledger = Ledger(f"sqlite:///{program.home / 'ledger.sqlite'}")
    with ledger.read() as connection:
        left = submissions.find(connection)
    ledger.close()
    # Whatever the API took in is known to be there, and nothing else is.
    assert Counter(s.state for s in left if s.state is not State.ABSENT) == {State.ACCEPTED: made}

    sim.set_faults(Faults())
    again = program("run", "review", "--json")
    assert (again.code, again.document["succeeded"]) == (0, 120)
    assert (sim.books.batches_created, sim.books.billed_more_than_once) == (6, [])


def test_ctrl_c_ends_the_reading_of_a_large_input(sim: Simulator, tmp_path: Path) -> None:
    environ = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": sim.url}
    program = Program(tmp_path, {**environ, "BATCH_PIPELINE_WORKERS": "2"})
    size = PROCESSES_FROM_BYTES // 100
    program.declare("review", [{**row, "text": "word " * (size // 5)} for row in documents(110)])
    with program.start("run", "review") as process:
        while not list(program.home.glob(".staging/*/*")):
            assert process.poll() is None
            time.sleep(0.02)  # an event of another process
        readers = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        ended = finished(process)
    assert ended.code == 130
    assert "Interrupted" in ended.err
    assert "Traceback" not in ended.err
    assert len(readers) >= 2
    assert psutil.wait_procs(readers, timeout=60)[1] == []
    assert list(program.home.glob(".staging/*")) == []
    assert sim.books.accepted_requests == 0
