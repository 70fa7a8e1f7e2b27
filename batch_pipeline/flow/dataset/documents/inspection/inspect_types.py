"""What the process that reads documents is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Want:
    """A request: what is wanted of the file at a path.

    `kind` is what its first bytes and its name say: `pdf`, `image`, `zip`, `html`, `eml`. `pages`
    are ranges from 1 with both ends in them; an end of None is the last page. Pages that are not
    all are written to `cut_to`, where they are sent as a PDF. `name` is for messages.
    """

    path: str
    kind: str
    name: str
    as_text: bool = False
    pages: Sequence[Sequence[int | None]] | None = None
    sample_pages: int = 3
    cut_to: str | None = None
    thumbnail: bool = False


@dataclass(frozen=True)
class Facts:
    """An answer: what a document is.

    `text_bytes` is the text in the pages that are sent, of a PDF that is not sent as text
    estimated from some of them. `text` is what was extracted to be sent, by the `extractor`.
    `sent_pages` counts the pages that are sent where that is not all of them; `cut` says that they
    were written to a file of their own. `pages_without_text` counts them among those extracted.
    """

    media_type: str
    pages: int | None = None
    width: int | None = None
    height: int | None = None
    text_bytes: int = 0
    sent_pages: int | None = None
    cut: bool = False
    text: str | None = None
    extractor: str | None = None
    pages_without_text: int = 0


class Refused(Exception):
    """Why a document cannot be sent: a reason of few values, and what differs from file to file."""

    def __init__(self, reason: str, detail: str, *, too_large: bool = False) -> None:
        self.whole = f"{reason}: {detail}" if detail else reason
        super().__init__(self.whole)
        self.reason, self.detail, self.too_large = reason, detail, too_large
