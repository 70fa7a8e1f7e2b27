"""Limits read alone are those of the whole declaration."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal
from pathlib import Path

import pytest

from batch_pipeline.jobs import alert_limits
from batch_pipeline.jobs.alert_limits import DeclaredAlerts
from batch_pipeline.jobs.spec import AlertsSpec

ATTRIBUTES = "type: batch_pipeline.BatchJobComponent\nattributes:\n  name: review\n"


@pytest.mark.parametrize(
    ("declared", "limits"),
    [
        ("", AlertsSpec()),
        ("  alerts: {}\n", AlertsSpec()),
        ("  alerts:\n", AlertsSpec()),
        (
            "  alerts: {error_rate: 0.5, after_items: 7}\n",
            AlertsSpec(error_rate=0.5, after_items=7),
        ),
        (
            "  alerts: {max_usd_per_document: 0.01, on_complete: true}\n",
            AlertsSpec(max_usd_per_document=Decimal("0.01"), on_complete=True),
        ),
    ],
)
def test_both_ways_of_reading_agree(tmp_path: Path, declared: str, limits: AlertsSpec) -> None:
    (tmp_path / "review").mkdir()
    (tmp_path / "review" / "defs.yaml").write_text(ATTRIBUTES + declared)
    found = alert_limits.of_jobs(tmp_path)["review"]
    assert isinstance(found, DeclaredAlerts)
    assert asdict(found) == limits.model_dump()


@pytest.mark.parametrize("content", ["", "[1]", "{", "attributes: {alerts: {novel: 1}}", "a: b"])
def test_what_cannot_be_read_is_left_out(tmp_path: Path, content: str) -> None:
    (tmp_path / "review").mkdir()
    (tmp_path / "review" / "defs.yaml").write_text(content)
    assert alert_limits.of_jobs(tmp_path) == {}
    assert alert_limits.of_jobs(tmp_path / "nowhere") == {}
