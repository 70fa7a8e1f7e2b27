"""What people see of a report: short Markdown, and a page that data cannot take over."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser

import pytest

from batch_pipeline.pricing.tokens import TokenUsage
from batch_pipeline.reporting.distribution import Distribution
from batch_pipeline.reporting.report import report_document, report_html, report_markdown
from batch_pipeline.reporting.report.report import (
    Costs,
    ModelUsage,
    NightCost,
    PricedModel,
    Report,
    SetAside,
)
from batch_pipeline_tests.reporting.reports import EMPTY, FILTERED, REPORT, changed

RENDERERS = [report_markdown.render, report_document.render, report_html.render]
FETCHING = {
    "script", "link", "img", "iframe", "object", "embed", "image", "use", "foreignobject",
}  # fmt: skip
VOID = {"meta", "col"}
HOSTILE = """<script>alert("1")</script><img src=x onerror='a()'>"""
STATUSES = (
    "succeeded", "errored", "expired", "canceled", "truncated", "refused", "invalid_output",
    "invalid_input", "too_large", "filtered",
)  # fmt: skip
MUCH = Decimal("123456789.123456789012")
HUGE = replace(
    REPORT,
    job="a" * 300,
    partition="p" * 300,
    model=PricedModel("m" * 300, "m" * 300, "genai-prices"),
    simulated=True,
    complete=False,
    items=10**9,
    statuses=dict.fromkeys(STATUSES, 10**8),
    costs=Costs(*[MUCH] * 4),
    tokens=TokenUsage(*[10**13] * 5),
    batches=10**6,
    turnaround=Distribution.of_seconds([1.0, *[86_399.0] * 50, 86_400.0]),
    models=(ModelUsage("m" * 300, "m", "batch", 10**9, TokenUsage(*[10**13] * 5), MUCH, MUCH),) * 3,
    trend=(NightCost("p" * 300, MUCH, Decimal(1), 10**9, 1, complete=False),) * 30,
)


class _Page(HTMLParser):
    """Collects text, and elements with their attributes; checks that elements are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.elements: list[str] = []
        self.attributes: set[str] = set()
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


class _Cells(HTMLParser):
    """The texts of a page's tables, cell by cell; what lies in blocks of a cell is apart."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self._within = 0
        self._now: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("td", "th"):
            self._within += 1
        if self._within:
            self._end()

    def handle_endtag(self, tag: str) -> None:
        if self._within:
            self._end()
        if tag in ("td", "th"):
            self._within -= 1

    def handle_data(self, data: str) -> None:
        if self._within:
            self._now.append(data)

    def _end(self) -> None:
        text = " ".join("".join(self._now).split()).strip(" ,;")
        if text:
            self.cells.append(text)
        self._now.clear()


@pytest.mark.parametrize(
    "report", [REPORT, EMPTY, HUGE, FILTERED], ids=["usual", "empty", "huge", "filtered"]
)
def test_markdown_is_short_enough_to_show_inline(report: Report) -> None:
    assert len(report_markdown.render(report)) < report_markdown.INLINE_CHARACTERS


@pytest.mark.parametrize("render", RENDERERS)
def test_a_simulated_night_says_so(render: Callable[[Report], str]) -> None:
    assert "SIMULATED: no money was spent" in render(changed(simulated=True))
    assert "SIMULATED" not in render(REPORT)


@pytest.mark.parametrize("render", RENDERERS)
def test_an_unfinished_night_says_so(render: Callable[[Report], str]) -> None:
    assert "Not complete" in render(changed(complete=False, completed_at=None))
    assert "Not complete" not in render(REPORT)


@pytest.mark.parametrize(
    "report", [REPORT, EMPTY, HUGE, FILTERED], ids=["usual", "empty", "huge", "filtered"]
)
def test_the_markdown_document_says_what_the_page_says(report: Report) -> None:
    page = _Cells(report_html.render(report)).cells
    document = re.sub(r"\\(.)", r"\1", report_document.render(report))
    document = document.replace("\u200b", "")
    assert [cell for cell in page if cell not in " ".join(document.split())] == []
    # Tables are whole: each row has the columns of the one before it.
    lines = report_document.render(report).replace("\\|", "").splitlines()
    for above, below in itertools.pairwise(lines):
        if above.startswith("|") and below.startswith("|"):
            assert above.count("|") == below.count("|"), below


def test_markdown_has_the_costs() -> None:
    text = report_markdown.render(REPORT)
    for expected in ("$25.22", "$24.81", "$50.04", "49.6%", "$0.00210", "160 errored"):
        assert expected in text


def test_what_was_not_asked_is_shown_with_what_it_would_have_cost() -> None:
    assert "| Avoided: 700 documents not asked | $3.01 |" in report_markdown.render(FILTERED)
    page = _Page(report_html.render(FILTERED)).text
    for expected in ("Where the money went", "filter: language: fr", "$2.40", "$3.01", "700"):
        assert expected in page
    assert "Where the money went" not in report_html.render(REPORT)


def test_a_night_of_several_accounts_says_what_each_has_sent() -> None:
    page = _Page(report_html.render(FILTERED)).text
    for expected in ("By account", "research_a", "south", "$11.10", "7,000"):
        assert expected in page
    one = replace(FILTERED, accounts=FILTERED.accounts[:1])
    assert "By account" not in report_html.render(one) + report_document.render(one)


def test_the_headline_is_the_cost_of_a_document() -> None:
    assert "\n\n**$0.00210 a document**\n" in report_markdown.render(REPORT)
    page = report_html.render(REPORT)
    assert page.index("Cost per document") < page.index(">Billed<")
    assert "Cost per document by night" in page


def test_names_do_not_become_emphasis() -> None:
    assert report_markdown.render(REPORT).startswith("### contract\\_review 2026-11-21: $25.22\n")


def test_page_has_the_numbers() -> None:
    text = _Page(report_html.render(REPORT)).text
    for expected in ("$25.22", "$50.04", "97.9%", "36,000,000", "15 min", "Overloaded"):
        assert expected in text


@pytest.mark.parametrize("report", [REPORT, EMPTY, HUGE], ids=["usual", "empty", "huge"])
def test_page_needs_and_runs_nothing_else(report: Report) -> None:
    page = _Page(report_html.render(report))
    assert not {"script", "link", "img", "iframe", "object", "image", "use", "foreignobject"} & set(
        page.elements
    )
    assert not {"src", "href", "xlink:href", "onerror", "onclick"} & page.attributes


def test_hostile_data_stay_text() -> None:
    hostile = replace(
        REPORT,
        job=HOSTILE,
        partition=HOSTILE,
        account=HOSTILE,
        results_path=HOSTILE,
        other_models=(HOSTILE,),
        model=PricedModel(HOSTILE, HOSTILE, HOSTILE),
        statuses={HOSTILE: 1},
        set_aside=(SetAside(HOSTILE, HOSTILE + "e", HOSTILE, 1, (HOSTILE,), True),),
    )
    page = _Page(report_html.render(hostile))
    assert not {"script", "img"} & set(page.elements)
    assert HOSTILE in page.text


def test_long_messages_and_ids_are_clipped() -> None:
    group = SetAside("errored", "api_error", "m" * 10_000, 1, ("i" * 10_000,), False)
    page = report_html.render(changed(set_aside=(group,)))
    assert "m" * 301 not in page
    assert "i" * 121 not in page
    assert "m" * 299 + "…" in page
