"""The documentation is true where a program can tell: links, generated pages, tables of names."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from batch_pipeline import settings
from batch_pipeline.flow.answers.outcomes import Status
from batch_pipeline.flow.answers.schemas import DEAD_LETTER_SCHEMA, RESULTS_SCHEMA

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_CODE = re.compile(r"```.*?```", re.DOTALL)


def test_every_link_leads_somewhere() -> None:
    broken = []
    for page in PAGES:
        for link in _LINK.findall(_CODE.sub("", page.read_text())):
            place, _, anchor = link.partition("#")
            target = page.parent / place if place else page
            elsewhere = re.match(r"https?:", link)
            if not elsewhere and not (
                target.exists() and (not anchor or anchor in anchors(target))
            ):
                broken.append((str(page.relative_to(ROOT)), link))
    assert broken == []


def test_the_page_of_commands_is_as_the_program_says(tmp_path: Path) -> None:
    written = tmp_path / "commands.md"
    made = re.search(r"-m typer .*\\\n.*", (ROOT / "Makefile").read_text())
    assert made is not None
    arguments = made[0].replace("\\\n", " ").replace("docs/commands.md", str(written)).split()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=ROOT)
    assert (DOCS / "commands.md").read_text() == written.read_text(), "run `make docs`"


def test_every_setting_is_in_the_table_of_settings() -> None:
    read = set(re.findall(r'"(BATCH_PIPELINE_[A-Z_]+)"', Path(settings.__file__).read_text()))
    assert {name for name in first_column("operations.md") if name in read} == read


def test_the_columns_of_results_are_in_their_order() -> None:
    told = list(first_column("results.md"))
    start = told.index("id")
    assert told[start : start + len(RESULTS_SCHEMA)] == RESULTS_SCHEMA.names


def test_the_columns_of_dead_letters_are_named() -> None:
    section = (DOCS / "results.md").read_text().partition("## Dead letters")[2]
    assert set(DEAD_LETTER_SCHEMA.names) <= set(re.findall(r"`(\w+)`", section[:500]))


def test_every_status_of_an_item_is_told() -> None:
    assert set(Status) <= set(first_column("results.md"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(_CODE.sub("", page.read_text()))
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in plain}


def first_column(page: str) -> Iterator[str]:
    """Names in code in the first columns of a page's tables."""
    for line in (DOCS / page).read_text().splitlines():
        if line.startswith("| "):
            yield from re.findall(r"`([^`]+)`", line.split("|")[1])
