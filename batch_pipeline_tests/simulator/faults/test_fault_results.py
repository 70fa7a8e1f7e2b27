"""Batches and results that come late, cut off or spoilt."""

from __future__ import annotations

import httpx2
import orjson
import pytest
from anthropic import Anthropic

from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.simulator.conftest import requests
from batch_pipeline_tests.simulator.faults.fault_support import (
    BATCHES,
    create,
    ended,
    received,
    results,
)


def test_a_slow_body_comes_in_small_pieces(sim: Simulator, http: httpx2.Client) -> None:
    batch_id = ended(http, 3)
    whole = results(http, batch_id).content
    sim.set_faults(
        Faults.of(results={"script": [{"kind": "slow", "chunk_bytes": 500, "pause": 0.01}]})
    )
    with http.stream("GET", f"{BATCHES}/{batch_id}/results") as response:
        pieces = list(response.iter_raw())
    assert b"".join(pieces) == whole
    assert len(pieces) >= len(whole) // 500


@pytest.mark.parametrize("end", ["dropped", "clean"])
@pytest.mark.parametrize("at", ["mid_line", "line_end"])
def test_a_stream_of_results_ends_too_soon(
    sim: Simulator, http: httpx2.Client, at: str, end: str
) -> None:
    batch_id = ended(http, 20)
    whole = results(http, batch_id).content
    sim.set_faults(Faults.of(results={"script": [{"kind": "cut", "at": at, "end": end}]}))
    got, complete = received(http, batch_id)
    assert whole.startswith(got)
    assert got.count(b"\n") == 10
    assert got.endswith(b"\n") == (at == "line_end")
    assert complete == (end == "clean")
    assert sim.books.faults == {f"results.cut_{at}_{end}": 1}
    assert received(http, batch_id) == (whole, True)


def test_the_sdk_takes_a_clean_early_end_for_all(sim: Simulator, client: Anthropic) -> None:
    batch = client.messages.batches.create(requests=requests(6))
    fault = {"kind": "cut", "at": "line_end", "end": "clean", "lines": 4}
    sim.set_faults(Faults.of(results={"script": [fault]}))
    assert len(list(client.messages.batches.results(batch.id))) == 4


def test_lines_broken_twice_and_missing(sim: Simulator, http: httpx2.Client) -> None:
    batch_id = ended(http, 10)
    whole = results(http, batch_id).content.splitlines()
    fault = {"kind": "lines", "broken": 1, "duplicated": 2, "missing": 3}
    sim.set_faults(Faults.of(results={"script": [fault]}))
    got = results(http, batch_id).content.splitlines()

    broken = [line for line in got if line not in whole]
    assert len(broken) == 1
    assert any(line.startswith(broken[0]) for line in whole)
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(broken[0])
    intact = [line for line in got if line in whole]
    assert (len(intact), len(set(intact))) == (8, 6)
    assert results(http, batch_id).content.splitlines() == whole


def test_404_after_create_and_again_after_the_end(sim: Simulator, http: httpx2.Client) -> None:
    faults = Faults.of(
        retrieve={"not_found_after_create": {"calls": 2}, "not_found_after_end": {"calls": 1}}
    )
    sim.set_faults(faults)
    sim.hold()
    url = f"{BATCHES}/{create(http).json()['id']}"
    assert [http.get(url).status_code for _ in range(4)] == [404, 404, 200, 200]
    sim.release()
    assert [http.get(url).status_code for _ in range(3)] == [404, 200, 200]
    assert sim.books.faults == {
        "retrieve.not_found_after_create": 2,
        "retrieve.not_found_after_end": 1,
    }


def test_404_for_some_seconds(sim: Simulator, http: httpx2.Client) -> None:
    sim.set_faults(Faults.of(retrieve={"not_found_after_create": {"seconds": 3600}}))
    url = f"{BATCHES}/{create(http).json()['id']}"
    assert http.get(url).status_code == 404
    sim.set_faults(Faults.of(retrieve={"not_found_after_create": {"seconds": 0.001}}))
    assert http.get(url).status_code == 200


@pytest.mark.parametrize("status", [404, 503])
def test_results_are_unavailable_for_some_calls_after_the_end(
    sim: Simulator, http: httpx2.Client, status: int
) -> None:
    declared = {"unavailable_after_end": {"calls": 2, "status": status}}
    sim.set_faults(Faults.of(results=declared))
    first, second = ended(http, 1), ended(http, 1)
    for batch_id in (first, second):
        statuses = [results(http, batch_id).status_code for _ in range(3)]
        assert statuses == [status, status, 200]


def test_a_script_waits_until_there_is_something_to_spoil(
    sim: Simulator, http: httpx2.Client
) -> None:
    script = [{"kind": "unreadable"}]
    sim.set_faults(Faults.of(results={"script": script, "unavailable_after_end": {"calls": 2}}))
    batch_id = ended(http, 1)
    assert [results(http, batch_id).status_code for _ in range(2)] == [404, 404]
    assert not results(http, batch_id).content.endswith(b"}\n")
    assert results(http, batch_id).content.endswith(b"}\n")


def test_a_list_that_lags_by_looks(sim: Simulator, client: Anthropic) -> None:
    old = [client.messages.batches.create(requests=requests(1)).id for _ in range(3)]
    assert len(client.messages.batches.list().data) == 3
    sim.set_faults(Faults.of(list={"lag": {"calls": 2}}))
    new = client.messages.batches.create(requests=requests(1)).id
    pages = client.messages.batches
    # Paging within a look is one look: the SDK's iterator asks for every page.
    looks = [[batch.id for batch in pages.list(limit=2)] for _ in range(3)]
    assert looks == [old[::-1], old[::-1], [new, *old[::-1]]]
    assert pages.retrieve(new).id == new
    assert sim.books.faults["list.lag"] >= 2


def test_a_list_that_lags_by_seconds(sim: Simulator, client: Anthropic) -> None:
    sim.set_faults(Faults.of(list={"lag": {"seconds": 3600}}))
    client.messages.batches.create(requests=requests(1))
    assert client.messages.batches.list().data == []
    sim.set_faults(Faults())
    assert len(client.messages.batches.list().data) == 1


def test_scripts_for_each_batch(sim: Simulator, http: httpx2.Client) -> None:
    script = [{"kind": "error", "status": 500}]
    sim.set_faults(Faults.of(results={"script": script, "per_batch": True}))
    for batch_id in (ended(http, 1), ended(http, 2)):
        assert [results(http, batch_id).status_code for _ in range(2)] == [500, 200]
