"""The report's page in a real browser: nothing is cut off, nothing fetched, nothing complains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.reporting.report import report_html
from batch_pipeline.reporting.report.report import Report
from batch_pipeline_tests.reporting import browser
from batch_pipeline_tests.reporting.browser import Page
from batch_pipeline_tests.reporting.report.test_report_pages import HUGE
from batch_pipeline_tests.reporting.reports import EMPTY, FILTERED, REPORT

# Words of a chart that stick out of their picture, which would cut them off.
CUT_OFF = """
[...document.querySelectorAll("svg text")].filter(text => {
  const box = text.getBoundingClientRect();
  const picture = text.ownerSVGElement.getBoundingClientRect();
  return box.left < picture.left - 1 || box.right > picture.right + 1
    || box.top < picture.top - 1 || box.bottom > picture.bottom + 1;
}).map(text => text.textContent)
"""
# Words of one axis that lie over each other.
OVERLAPPING = """
[...document.querySelectorAll("svg")].flatMap(svg => {
  const texts = [...svg.querySelectorAll("text:not(.word)")];
  const boxes = texts.map(text => text.getBoundingClientRect());
  return texts.filter((_, one) => boxes.some((box, other) => other > one
    && box.left < boxes[one].right - 1 && boxes[one].left < box.right - 1
    && box.top < boxes[one].bottom - 2 && boxes[one].top < box.bottom - 2));
}).map(text => text.textContent)
"""
# Elements wider than the window, apart from tables that scroll in a box of their own.
TOO_WIDE = """
[...document.querySelectorAll("body *")].filter(element =>
  !element.closest(".scroll") && element.getBoundingClientRect().right > innerWidth + 1
).map(element => element.outerHTML.slice(0, 100))
"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of Chromium; skips the test where there is none."""
    program = browser.installed()
    if program is None:
        pytest.skip("no Chromium on this machine; .ci/run installs one")
    with browser.running(program) as opened:
        yield opened


@pytest.mark.parametrize("width", [1200, 768, 360])
@pytest.mark.parametrize(
    "report", [REPORT, EMPTY, HUGE, FILTERED], ids=["usual", "empty", "huge", "filtered"]
)
def test_everything_is_seen_at_any_width_and_nothing_is_fetched(
    page: Page, tmp_path: Path, report: Report, width: int
) -> None:
    file = tmp_path / "report.html"
    file.write_text(report_html.render(report))
    page.open(file, width=width)
    assert page.requests == [file.as_uri()]
    assert page.complaints == []
    assert page.value(TOO_WIDE) == []
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    assert page.value(CUT_OFF) == []
    assert page.value(OVERLAPPING) == []


SHADE = """
(() => {{
  const style = getComputedStyle(document.querySelector("{selector}"));
  return style.{name}.match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0);
}})()
"""


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_are_both_readable(page: Page, tmp_path: Path, dark: bool) -> None:
    file = tmp_path / "report.html"
    file.write_text(report_html.render(REPORT))
    page.open(file, width=1200, dark=dark)
    back = page.value(SHADE.format(selector="body", name="backgroundColor"))
    for selector, name in (("h1", "color"), (".sub", "color"), (".plot text", "fill")):
        ink = page.value(SHADE.format(selector=selector, name=name))
        # Of 765 between black and white.
        assert (ink - back if dark else back - ink) > 350
