"""Groups by length, and samples that have one of each."""

from __future__ import annotations

import numpy as np
import pytest

from batch_pipeline.flow.planning import sampling


@pytest.mark.parametrize(
    ("sizes", "count", "groups"),
    [
        ([], 3, []),
        ([5], 3, [[0]]),
        ([30, 10, 20], 3, [[1], [2], [0]]),
        ([4, 3, 2, 1, 0], 2, [[4, 3, 2], [1, 0]]),
        ([7, 7, 7, 7], 2, [[0, 1], [2, 3]]),
    ],
    ids=["none", "fewer than groups", "one each", "the first has one more", "equal ones in order"],
)
def test_groups_have_equal_counts_from_short_to_long(
    sizes: list[int], count: int, groups: list[list[int]]
) -> None:
    found = sampling.by_length(np.array(sizes, dtype=np.int64), count)
    assert [group.tolist() for group in found] == groups


def test_a_sample_has_one_of_each_length_and_follows_from_the_seed() -> None:
    sizes = np.repeat(np.array([300, 100, 200], dtype=np.int64), 50)
    units = [f"{number:032x}" for number in range(len(sizes))]
    one, other = (sampling.drawn(sizes, sampling.lots(units, seed), 3) for seed in ("1", "2"))
    for found in (one, other):
        assert sorted(sizes[found]) == [100, 200, 300]
        assert found.tolist() == sorted(found)
    assert one.tolist() != other.tolist()
    assert one.tolist() == sampling.drawn(sizes, sampling.lots(units, "1"), 3).tolist()


@pytest.mark.parametrize(
    ("sizes", "count", "found"),
    [
        ([90, 28, 2], 12, [9, 2, 1]),
        ([100], 7, [7]),
        ([3], 7, [3]),
        ([5, 1, 1], 2, [1, 1, 0]),
        ([50, 50, 0], 4, [2, 2, 0]),
        ([2, 98], 50, [1, 49]),
        ([], 5, []),
    ],
)
def test_each_group_has_its_share_of_a_sample_and_one_at_least(
    sizes: list[int], count: int, found: list[int]
) -> None:
    assert sampling.by_share(sizes, count) == found
