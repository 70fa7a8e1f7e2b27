"""Data of documents and of the API in the metadata of results."""

from __future__ import annotations

import dagster as dg

from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.orchestration.asset_metadata import results_metadata
from batch_pipeline.reporting.report.report import SetAside
from batch_pipeline_tests.flow.dataset.prepared_rows import STATE


def test_a_message_of_the_api_or_an_id_brings_no_markup_into_the_page(pipeline: Pipeline) -> None:
    image = "![seen](http://tracker/x.png) | <b>"
    group = SetAside("errored", "api_error", image, 1, (image,), systematic=False)
    shown = results_metadata.of_dead_letters(pipeline, STATE, [group])["reasons"]
    assert isinstance(shown, dg.MarkdownMetadataValue)
    row = shown.value.splitlines()[-1]
    assert "tracker" in row
    for markup in ("![", "://", " | <", " <b>"):
        assert markup not in row
