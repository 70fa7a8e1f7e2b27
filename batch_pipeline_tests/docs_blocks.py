"""The blocks of a page of docs, so that tests run what the page tells people to run.

A block that is run has a name behind its language: ```` ```console worker ````.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
_BLOCK = re.compile(
    r"^```(?P<kind>console|sh) (?P<name>[\w-]+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


def commands(page: str, name: str) -> list[str]:
    """The commands of a block, without their `$ `, continued lines joined."""
    text = _text(page, "console", name).replace("\\\n", " ")
    lines = text.splitlines()
    assert all(line.startswith("$ ") for line in lines), name
    return [re.sub(r" {2,}", " ", line.removeprefix("$ ")) for line in lines]


def variables(page: str, name: str) -> dict[str, str]:
    """The variables of a block of settings, with the values that the page gives as examples."""
    lines = _text(page, "sh", name).splitlines()
    return dict(line.split("=", 1) for line in lines)


def _text(page: str, kind: str, name: str) -> str:
    content = (DOCS / page).read_text()
    found = [m["text"] for m in _BLOCK.finditer(content) if (m["kind"], m["name"]) == (kind, name)]
    assert len(found) == 1, f"{page} has {len(found)} blocks {name}"
    return found[0]
