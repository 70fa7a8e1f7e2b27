"""What a job declares of documents that are files: where they may be, and how they are sent.

Belongs here: the keys, page ranges and hosts as values, and what can be told of them before
anything is read. Reading documents is in `flow.dataset.documents`.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from pydantic import ConfigDict, Field, field_validator

from batch_pipeline.jobs.declared_model import DeclaredModel

Keep = Literal["reference", "copy"]
# Both ends of ranges, counted from 1; None: the last page.
PageRanges = tuple[tuple[int, int | None], ...]

_RANGE = re.compile(r"\s*(\d{1,6})\s*(?:(-)\s*(\d{1,6})?\s*)?")
_HOST = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>\d{1,5}))?/?"
)
PORTS = {"https": 443, "http": 80}


class PdfSpec(DeclaredModel):
    """How PDFs are sent."""

    model_config = ConfigDict(serialize_by_alias=True)

    # `as` is a word of Python.
    sent_as: Literal["native", "text"] = Field(
        default="native",
        alias="as",
        description="`native`: the pages as they are, which the model sees; about 1,600 tokens a "
        "page and those of its text. `text`: their text alone, extracted on this machine; PDFs "
        "without text (scans) are set aside.",
        examples=["text"],
    )
    pages: str | None = Field(
        default=None,
        description="The pages that are sent, counted from 1; null: all.",
        examples=["1-20", "1-3,7,30-"],
    )

    @field_validator("pages")
    @classmethod
    def _ascending_ranges(cls, value: str | None) -> str | None:
        return None if value is None else written(parse_pages(value))

    @property
    def ranges(self) -> PageRanges | None:
        """The declared pages; None: all."""
        return None if self.pages is None else parse_pages(self.pages)


def parse_pages(text: str) -> PageRanges:
    """`1-3,7,30-` as ranges; ValueError where they are not ascending."""
    found: list[tuple[int, int | None]] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        before = found[-1][1] if found else 0
        first = int(match[1]) if match is not None else 0
        if match is None or before is None or first <= before:
            raise ValueError(_ranges_wanted(text))
        last = first if match[2] is None else int(match[3]) if match[3] else None
        if last is not None and last < first:
            raise ValueError(_ranges_wanted(text))
        found.append((first, last))
    return tuple(found)


def written(ranges: PageRanges) -> str:
    """Ranges as a text, the same for the same pages however they were declared."""
    return ",".join(
        f"{first}" if first == last else f"{first}-{'' if last is None else last}"
        for first, last in ranges
    )


def _ranges_wanted(text: str) -> str:
    return f'must be ranges like "1-20" or "1-3,7,30-", ascending, not {text!r}'


class Host(NamedTuple):
    """A host that documents may be fetched from."""

    scheme: str
    host: str
    port: int


def parse_host(text: str) -> Host:
    """`files.example.com`, with a port perhaps, means https; `http://host:port` http."""
    found = _HOST.fullmatch(text.strip())
    port = 0 if found is None else int(found["port"] or PORTS[found["scheme"] or "https"])
    if found is None or not 0 < port < 65_536:
        raise ValueError(
            f"must be a host name, with a port perhaps (http://host:port for http), not {text!r}"
        )
    return Host(found["scheme"] or "https", found["host"].lower().strip("[]"), port)
