"""A simulator for each module, and a user with a folder of their own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.simulator import Simulator, running_simulator
from batch_pipeline_tests.cli.program import KEY, Program


@pytest.fixture(scope="module")
def shared_simulator() -> Iterator[Simulator]:
    """A simulator for all tests of a module, which ends batches at once."""
    with running_simulator(turnaround=0.0) as simulator:
        yield simulator


@pytest.fixture
def simulator(shared_simulator: Simulator) -> Iterator[Simulator]:
    """Ends batches at once, unless the test holds it."""
    yield shared_simulator
    shared_simulator.release()


@pytest.fixture
def program(simulator: Simulator, tmp_path: Path) -> Program:
    """The program with a key, before the simulator."""
    return Program(tmp_path, {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": simulator.url})


@pytest.fixture
def offline(tmp_path: Path) -> Program:
    """The program without a key; where it calls an API all the same, nobody listens."""
    (tmp_path / "jobs").mkdir()
    return Program(tmp_path, {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9"})
