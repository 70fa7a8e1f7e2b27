"""A running simulator, and ways to talk to it: the official SDK, and raw HTTP for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic

from batch_pipeline.simulator import Simulator, running_simulator

MODEL = "claude-haiku-4-5-20251001"


@pytest.fixture
def sim() -> Iterator[Simulator]:
    """A simulator that ends batches at once."""
    with running_simulator(turnaround=0.0) as simulator:
        yield simulator


@pytest.fixture
def client(sim: Simulator) -> Iterator[Anthropic]:
    """The SDK, which speaks with the simulator."""
    with sdk(sim) as client:
        yield client


@pytest.fixture
def http(sim: Simulator) -> Iterator[httpx2.Client]:
    """A plain HTTP client with a key and the API's version."""
    headers = {"x-api-key": "any", "anthropic-version": "2026-10-21"}
    with httpx2.Client(base_url=sim.url, headers=headers) as client:
        yield client


def sdk(sim: Simulator) -> Anthropic:
    return Anthropic(api_key="any", base_url=sim.url, max_retries=0)


def params(text: str = "Summarise: the quick brown fox.", **changes: Any) -> dict[str, Any]:
    """Messages params for one user text; a change to None removes the key."""
    made = {
        "model": MODEL,
        "max_tokens": 200,
        "messages": [{"role": "user", "content": text}],
        **changes,
    }
    return {key: value for key, value in made.items() if value is not None}


def requests(n: int, **changes: Any) -> list[Any]:
    return [
        {"custom_id": f"r_{i}", "params": params(f"Document {i} of the pile.", **changes)}
        for i in range(n)
    ]
