"""The page of a preview: rendered requests for a browser."""

from __future__ import annotations

from datetime import UTC, datetime

from batch_pipeline.flow import paths
from batch_pipeline.flow.inspect.preview import Preview
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.reporting import pages, shown_request

TEMPLATE = "preview.html.jinja"
SUFFIX = ".preview.html"


def write(pipeline: Pipeline, found: Preview) -> str:
    """Write the page beside the night's reports; returns where it is."""
    path = paths.report(found.job, found.partition, SUFFIX)
    pipeline.files.write(path, render(found).encode())
    return pipeline.files.uri(path)


def render(found: Preview) -> str:
    """The page as text."""
    rows = [
        (row, None if row.request is None else shown_request.of(row.request)) for row in found.rows
    ]
    return pages.template(TEMPLATE).render(found=found, rows=rows, made_at=datetime.now(UTC))
