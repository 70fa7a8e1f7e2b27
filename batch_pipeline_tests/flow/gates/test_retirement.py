"""Models that retire are named before anything is sent, and refused once they have."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from batch_pipeline.api.models import retirement_date
from batch_pipeline.errors import UsageError
from batch_pipeline.flow.gates import retirement
from batch_pipeline.flow.run import run
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import PARTITION, documents, job, write_rows

SONNET = "claude-sonnet-4-5-20250929"


def test_the_sdk_knows_when_models_retire() -> None:
    assert retirement_date(SONNET) == date(2026, 11, 30)
    assert retirement_date("claude-3-5-haiku-20241022") == date(2026, 2, 19)
    assert retirement_date("claude-haiku-4-5-20251001") is None


def test_every_date_of_the_sdk_can_be_read() -> None:
    from anthropic.resources.messages import DEPRECATED_MODELS  # noqa: PLC0415

    assert DEPRECATED_MODELS
    assert all(retirement_date(model) for model in DEPRECATED_MODELS)


@pytest.mark.parametrize(
    ("today", "said"),
    [
        (date(2026, 11, 25), "retires on 2026-11-30 (in 5 days)"),
        (date(2026, 11, 29), "retires on 2026-11-30 (tomorrow)"),
        (date(2026, 11, 30), "retires on 2026-11-30 (today)"),
        (date(2026, 12, 1), "was retired on 2026-11-30"),
    ],
)
def test_what_is_said_of_a_model(today: date, said: str) -> None:
    assert said in str(retirement.describe(SONNET, date(2026, 11, 30), today))
    assert retirement.describe(SONNET, None, today) is None


def test_a_retired_model_stops_before_anything_is_sent(
    sim: Simulator,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(3)), model_id=SONNET)
    monkeypatch.setattr(retirement, "_today", lambda: date(2026, 12, 1))
    with pytest.raises(UsageError, match="was retired on 2026-11-30; nothing was sent"):
        run(make_pipeline(), spec, PARTITION)
    assert sim.books.accepted_requests == 0
    monkeypatch.setattr(retirement, "_today", lambda: date(2026, 11, 25))
    assert run(make_pipeline(), spec, PARTITION).complete
    assert "retires on 2026-11-30 (in 5 days); choose another model_id" in caplog.text
    # What was bought before is shown all the same.
    monkeypatch.setattr(retirement, "_today", lambda: date(2026, 12, 1))
    assert run(make_pipeline(), spec, PARTITION).complete
