"""Cutting shards: both limits of a batch in actual bytes, and nothing lost on the way."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.flow.dataset.requests.declaration import (
    BODY_END,
    BODY_START,
    Declaration,
    body_length,
    wire_overhead,
)
from batch_pipeline.flow.planning.new_shards import ShardLimits, cut, sizes_of
from batch_pipeline.flow.planning.variants import Variant, with_definitions
from batch_pipeline_tests.support import job


def tables(sizes: list[int], rows: int) -> Iterator[pa.Table]:
    numbered = pa.table({"n": range(len(sizes)), "request_bytes": pa.array(sizes, pa.int64())})
    for start in range(0, len(sizes), rows):
        yield numbered.slice(start, rows)


@given(
    sizes=st.lists(st.integers(min_value=2, max_value=300), max_size=60),
    rows=st.integers(min_value=1, max_value=20),
    limits=st.builds(
        ShardLimits,
        requests=st.integers(min_value=1, max_value=30),
        # As large as the largest request needs to be by itself: larger ones were set aside.
        bytes=st.integers(min_value=400, max_value=3_000),
    ),
)
def test_shards_respect_both_limits_and_lose_nothing(
    sizes: list[int], rows: int, limits: ShardLimits
) -> None:
    shards = list(cut(tables(sizes, rows), limits))
    assert [n for shard in shards for n in shard.column("n").to_pylist()] == list(range(len(sizes)))
    for shard in shards:
        assert 1 <= shard.num_rows <= limits.requests
        assert body_length(shard.column("request_bytes").to_pylist()) <= limits.bytes


@given(sizes=st.lists(st.integers(min_value=2, max_value=300), min_size=1, max_size=60))
def test_shards_are_as_few_as_they_can_be(sizes: list[int]) -> None:
    limits = ShardLimits(requests=10, bytes=1_500)
    shards = list(cut(tables(sizes, 7), limits))
    spare = 9 * 2  # the numbers of custom ids are counted at their longest
    for shard, following in pairwise(shards):
        taken = shard.column("request_bytes").to_pylist()
        more = [*taken, following.column("request_bytes")[0].as_py()]
        assert len(taken) == limits.requests or body_length(more) > limits.bytes - spare


def test_the_largest_request_that_is_not_set_aside_fits_a_batch() -> None:
    for limit in (500, 256_000_000):
        spec = job("in.jsonl", limits={"max_bytes_per_batch": limit})
        largest = Declaration.of(spec).max_request_bytes
        [shard] = cut(tables([largest], 1), ShardLimits(requests=1, bytes=limit))
        assert shard.num_rows == 1
        assert body_length([largest]) <= limit


def test_a_largest_request_fits_whatever_the_number_of_requests() -> None:
    """A shard that may hold many reserves room for long numbers; one request must fit even so."""
    spec = job("in.jsonl", limits={"max_bytes_per_batch": 500, "max_requests_per_batch": 100_000})
    limits = ShardLimits.of(spec, 200_000)
    largest = Declaration.of(spec).max_request_bytes
    shards = list(cut(tables([largest, 10, largest], 3), limits))
    assert [shard.num_rows for shard in shards] == [1, 1, 1]


@pytest.mark.parametrize(
    ("limits", "queue", "requests"),
    [
        ({}, 200_000, 10_000),
        ({"max_requests_per_batch": 100_000}, 300_000, 100_000),
        ({"max_requests_per_batch": 100_000}, 500, 500),
        ({"max_queued_requests": 700}, 200_000, 700),
        ({"max_queued_requests": 700}, 500, 500),
    ],
)
def test_no_shard_is_larger_than_what_could_ever_go(
    limits: dict[str, int], queue: int, requests: int
) -> None:
    assert ShardLimits.of(job("in.jsonl", limits=limits), queue).requests == requests


@pytest.mark.parametrize(
    ("sizes", "prompts", "names", "found"),
    [
        ([5, 6], [None, None], [None, None], (2, 11, 6, 20)),
        ([5, 6], [None, None], [None, "larger"], (2, 11, 6, 100)),
        ([5_000, 600], [5, None], [None, None], (2, 605, 600, 20)),
        ([5, 600], [6_400_000, None], [None, None], (2, 6_400_600, 6_400_000, 20)),
        ([], [], [], (0, 0, 0, 0)),
    ],
)
def test_what_the_bound_of_a_shard_follows_from(
    sizes: list[int],
    prompts: list[int | None],
    names: list[str | None],
    found: tuple[int, int, int, int],
) -> None:
    columns = {
        "request_bytes": pa.array(sizes, pa.int64()),
        "prompt_size": pa.array(prompts, pa.int64()),
        "variant": pa.array(names, pa.string()),
    }
    manifest = with_definitions(pa.table(columns), [Variant("larger", max_tokens=90)])
    declaration = Declaration.of(job("in.jsonl", max_tokens=10))
    assert tuple(sizes_of(manifest, declaration).values()) == found


def test_overhead_is_what_a_request_adds_on_the_wire() -> None:
    for number in (0, 9, 10, 99_999):
        wire = b',{"custom_id":"%s_%d","params":}' % (b"a" * 16, number)
        assert wire_overhead(number) == len(wire)
    assert body_length([]) == len(BODY_START) + len(BODY_END)
