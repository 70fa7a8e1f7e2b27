"""Result lines of another shape than the API's, and what is said of them."""

from __future__ import annotations

import re
from typing import Any

from batch_pipeline.api.protocol import read_json
from batch_pipeline.errors import ApiError
from batch_pipeline.flow.answers import outcomes
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# Lines that are quoted of those that cannot be read.
_MOST_QUOTED = 3
_ID = re.compile(rb'\s*\{\s*"custom_id"\s*:\s*"([\w-]{1,64})"')


class ResultsIncompleteError(ApiError):
    """A download lacks requests, or has lines that cannot be read; the next round repeats it."""

    code = "results_incomplete"


class OddLines:
    """A submission's lines that cannot be read, the first of them quoted, and the number of
    `foreign` ones: of requests that are not its own."""

    def __init__(self) -> None:
        self.foreign = self._unreadable = 0
        self._quoted: list[str] = []

    def add(self, place: int, error: ValueError) -> None:
        """Note a line that cannot be read; `place` is its number, counted from 1."""
        self._unreadable += 1
        if len(self._quoted) < _MOST_QUOTED:
            self._quoted.append(f"line {place}: {error}")

    def __str__(self) -> str:
        """A clause on the lines that cannot be read; empty where there are none."""
        if not self._unreadable:
            return ""
        rest = self._unreadable - len(self._quoted)
        more = [f"and {rest:,} more"] if rest else []
        quoted = "; ".join([*self._quoted, *more])
        return f", and {self._unreadable:,} lines cannot be read ({quoted})"

    def tell(self, name: str, *, whole: bool) -> None:
        """Log what is odd about the results of a batch; `whole`: each request has a line."""
        if self._unreadable and whole:
            log.warning("the results of %s are whole%s", name, self)
        if self.foreign:
            log.warning(
                "the results of %s hold %d lines of others' requests, which are left alone",
                name, self.foreign,
            )  # fmt: skip


def read_odd(line: bytes) -> dict[str, Any]:
    """A result line of another shape than the API's, with its custom id.

    Raises ValueError, which says why it cannot be read.
    """
    try:
        data = read_json(line)
    except RecursionError:
        if (found := _ID.match(line)) is None:
            raise ValueError("it is nested too deeply") from None
        # Only what a tool is called with can be so deep: an answer that was billed.
        data = {"custom_id": found[1].decode(), "result": {"type": "succeeded", "message": []}}
    if not isinstance(data, dict):
        raise ValueError(f"it is {outcomes.shape_of(data)} and no result")
    if not isinstance(data.get("custom_id"), str):
        raise ValueError(f"its custom_id is {outcomes.shape_of(data.get('custom_id'))}")
    return data
