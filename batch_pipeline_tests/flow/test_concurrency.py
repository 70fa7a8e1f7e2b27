"""Work that goes on in threads while the next item is taken."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from batch_pipeline.flow.concurrency import map_in_threads


def test_items_are_at_work_together_and_come_in_their_order() -> None:
    second_is_done = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second_is_done.wait(30)
        elif item == 1:
            second_is_done.set()
        return -item

    assert list(map_in_threads(work, range(5), 2)) == [0, -1, -2, -3, -4]


def test_no_more_items_are_taken_than_can_be_held() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(20):
            taken += 1
            yield item

    for given, _ in enumerate(map_in_threads(lambda item: item, items(), 3)):
        assert taken - given <= 4


def test_an_error_of_the_work_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_in_threads(lambda item: 1 // item, [2, 1, 0, 1], 2))
