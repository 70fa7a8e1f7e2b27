"""The pilot's page in a real browser: what data hold is shown and never runs; a keyboard is enough.

Also that it has what a person decides by, in the words of the page.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline.reporting import pilot_page
from batch_pipeline_tests.reporting import browser
from batch_pipeline_tests.reporting.pilot_pages import EVIL, LONG, item, page
from batch_pipeline_tests.reporting.test_report_in_browser import TOO_WIDE

PICTURE = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
FOCUSED = "document.activeElement.outerHTML.slice(0, 60)"


def test_what_the_page_says() -> None:
    text = pilot_page.render(page())
    for words in ("$2,400.00", "$2,300.00 and $2,500.00", "11 of 12", "$3,000.00 for this night"):
        assert words in text
    assert "<script" not in text
    assert "\u202e" not in text
    assert "Always the same:" in text
    assert "default-src &#39;none&#39;" not in text
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text


def test_of_a_confidential_job_the_figures_are_left() -> None:
    shown = item(1, documents=(), request=None, answer=None, fields=(), extras=(), message="")
    text = pilot_page.render(page(items=(shown,), confidential=True, fields=(), failures=()))
    assert "show_answers: false" in text
    assert "The request as it was sent" not in text
    assert "11 of 12" in text


def test_nothing_runs_nothing_is_fetched_and_the_keyboard_is_enough(tmp_path: Path) -> None:
    program = browser.installed()
    if program is None:
        pytest.skip("no Chromium on this machine; .ci/run installs one")
    file = tmp_path / "page.html"
    pictured = item(2).documents[0].__class__(EVIL, LONG, None, PICTURE)
    shown = (*page().items, item(13, documents=(pictured,)))
    file.write_text(pilot_page.render(page(items=shown)))
    with browser.running(program) as opened:
        for width in (1280, 360):
            opened.open(file, width=width)
            assert [url for url in opened.requests if url != PICTURE] == [file.as_uri()]
            assert opened.complaints == []
            assert opened.value("document.documentElement.scrollWidth <= innerWidth")
            opened.value("document.querySelectorAll('details').forEach(each => each.open = true)")
            assert opened.value(TOO_WIDE) == []
        opened.open(file, width=1280)
        tabs = ("Skip to the answers", "1 failed", "Schema")
        for expected in tabs:
            _press(opened, "Tab")
            while "<summary" not in opened.value(FOCUSED) and expected == "Schema":
                _press(opened, "Tab")
        assert not opened.value("document.activeElement.parentElement.open")
        _press(opened, "Enter", "\r")
        assert opened.value("document.activeElement.parentElement.open")
        assert opened.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def _press(opened: browser.Page, key: str, text: str = "") -> None:
    code = {"Tab": 9, "Enter": 13}[key]
    about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
    opened.call("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
    opened.call("Input.dispatchKeyEvent", type="keyUp", **about)
