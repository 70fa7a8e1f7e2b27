"""The sizes of requests: bytes on the wire, and what the tokens of a prompt follow from.

For a request of text alone the two are the same. One with documents has their base64 on the wire,
which says nothing of its tokens: those follow from the text and from pages and pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

# As SQL, of one row of a snapshot, a manifest or twins, and of several rows.
PROMPT_SIZE = "coalesce(prompt_size, request_bytes)"
SUMS = (
    f"coalesce(sum(request_bytes), 0), coalesce(sum({PROMPT_SIZE}), 0), "
    "coalesce(sum(visual_tokens), 0)"
)


@dataclass(frozen=True)
class Sizes:
    """Sums over requests: their bytes, the sizes of their prompts, the tokens of their pages and
    images, which are part of those."""

    request_bytes: int = 0
    prompt_size: int = 0
    visual_tokens: int = 0

    def __add__(self, other: Sizes) -> Sizes:
        return Sizes(
            self.request_bytes + other.request_bytes,
            self.prompt_size + other.prompt_size,
            self.visual_tokens + other.visual_tokens,
        )

    def __sub__(self, other: Sizes) -> Sizes:
        return Sizes(
            self.request_bytes - other.request_bytes,
            self.prompt_size - other.prompt_size,
            self.visual_tokens - other.visual_tokens,
        )

    @property
    def of_prompts(self) -> tuple[int | None, int | None]:
        """Size of the prompts and visual tokens as the ledger has them: None where no request has
        documents."""
        if self.prompt_size == self.request_bytes and not self.visual_tokens:
            return None, None
        return self.prompt_size, self.visual_tokens


NOTHING = Sizes()


def sum_sizes(rows: pa.Table) -> Sizes:
    """The sums over rows that have the three columns."""
    columns = rows.column("request_bytes"), prompt_sizes(rows), rows.column("visual_tokens")
    return Sizes(*(pc.sum(column).as_py() or 0 for column in columns))


def prompt_sizes(rows: pa.Table) -> pa.ChunkedArray:
    """The size of each prompt."""
    return pc.coalesce(rows.column("prompt_size"), rows.column("request_bytes"))
