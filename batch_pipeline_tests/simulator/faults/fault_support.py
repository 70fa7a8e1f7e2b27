"""Calls that the tests of faults make, over raw HTTP."""

from __future__ import annotations

import httpx2

from batch_pipeline.simulator import SIMULATOR_HEADER
from batch_pipeline_tests.simulator.conftest import requests

BATCHES = "/v1/messages/batches"


def create(http: httpx2.Client, n: int = 2) -> httpx2.Response:
    return http.post(BATCHES, json={"requests": requests(n)})


def ended(http: httpx2.Client, n: int) -> str:
    """The id of a batch of `n` requests that has ended."""
    batch_id = str(create(http, n).json()["id"])
    assert http.get(f"{BATCHES}/{batch_id}").json()["processing_status"] == "ended"
    return batch_id


def results(http: httpx2.Client, batch_id: str) -> httpx2.Response:
    return http.get(f"{BATCHES}/{batch_id}/results")


def received(http: httpx2.Client, batch_id: str) -> tuple[bytes, bool]:
    """(what came of a results stream, whether it came to a proper end)."""
    got = b""
    with http.stream("GET", f"{BATCHES}/{batch_id}/results") as response:
        assert response.headers[SIMULATOR_HEADER] == "1"
        try:
            for chunk in response.iter_raw():
                got += chunk
        except httpx2.RemoteProtocolError:
            return got, False
    return got, True
