"""The values of the protocol."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import pytest

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline_tests.flow.fake_api import a_batch


def test_a_failure_passes_through_context_managers() -> None:
    @contextlib.contextmanager
    def around() -> Iterator[None]:
        yield

    with pytest.raises(ApiFailure, match="HTTP 500 api_error: m"), around(), around():
        raise ApiFailure(500, "api_error", None, "m")


def test_failures_are_told_apart_and_say_what_happened() -> None:
    lost = ApiFailure(None, None, None, "reset")
    assert str(lost) == "no answer: reset"
    assert lost != copy.copy(lost)
    assert len({lost, ApiFailure(None, None, None, "reset")}) == 2


def test_requests_of_a_batch_are_the_sum_of_its_counts() -> None:
    assert a_batch("b", requests=7, ended=False).requests == 7
    assert a_batch("b", requests=7, ended=True).requests == 7
