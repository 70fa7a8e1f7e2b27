"""The cost report as a Markdown document that says what the HTML page says, charts left aside.

For people and programs that read text: reviews, tickets, a terminal. What Dagster shows inline is
the short `report_markdown`, which this document begins with.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from batch_pipeline import safe_text
from batch_pipeline.reporting.report import report_html, report_markdown
from batch_pipeline.reporting.report.report import Report

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = "report.md.jinja"


def render(report: Report) -> str:
    """The document as text."""
    rest = _template().render(**report_html.context(report))
    return f"{report_markdown.render(report)}\n{rest}"


@cache
def _template() -> Template:
    """The template, in which each value is escaped: ids and messages are data."""
    # Runs that write no page do without.
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    environment = Environment(  # noqa: S701  # escaped for Markdown, by `finalize`
        loader=PackageLoader("batch_pipeline.reporting"),
        undefined=StrictUndefined,
        finalize=lambda value: safe_text.markdown(value) if isinstance(value, str) else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= report_html.FILTERS
    return environment.get_template(TEMPLATE)
