"""What became of a piece of the input, as the process hears of it that puts the pieces together.

That one has other things to load while others read: nothing here is slow to import. How a piece is
prepared is `preparing`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from batch_pipeline.flow.dataset.columns import LinesSeen

# Of what is wrong with rows, so many are told.
EXAMPLES = 5


class Problem(NamedTuple):
    """What is wrong with a row; a line's number counts from where its piece begins."""

    id: str
    source: str
    number: int
    what: str

    def told(self, lines_before: int) -> str:
        return f"{self.id!r} ({self.source}:{lines_before + self.number}): {self.what}"


@dataclass
class Prepared:
    """What became of a piece: its files, and what is to be known of its rows.

    `digests` has `DIGEST_BYTES` for each row, in order; `kept` are unit and id of each kept unit;
    `seen` is there for a part of a jsonl file.
    """

    parts: list[Path] = field(default_factory=list)
    items: int = 0
    # By status and reason.
    set_aside: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    request_bytes: int = 0
    digests: bytes = b""
    kept: bytes = b""
    seen: LinesSeen | None = None


def prepare(*task: Any) -> Prepared:
    """`preparing.prepare`, which is loaded where it is called."""
    from batch_pipeline.flow.dataset import prepare as preparing  # noqa: PLC0415

    return preparing.prepare(*task)
