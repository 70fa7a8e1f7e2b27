"""What the cache is expected to save, at hit rates that are measured or assumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.flow.costs.cache_forecast import CacheForecast, forecast
from batch_pipeline.flow.costs.estimate import estimate
from batch_pipeline.flow.costs.estimate_json import as_json
from batch_pipeline.flow.gates.prices import price_for
from batch_pipeline.flow.run import run
from batch_pipeline.pricing.tokens import TokenUsage
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import PARTITION, documents, job, write_rows

SYSTEM = {"system": "word " * 4_000, "user": "Sum up: {text}"}


def forecasted(caching: str, counted: int | None, **usage: int) -> CacheForecast:
    spec = job("in.jsonl", caching=caching, prompt=SYSTEM)
    found = forecast(
        spec,
        1_000,
        price_for(spec),
        counted=counted,
        tokens_per_byte=0.25,
        prompt_tokens=6_000,
        usage=TokenUsage(**usage) if usage else None,
    )
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("caching", "counted", "usage", "can_pay", "expected", "low", "said"),
    [
        # 5 million tokens of Haiku 4.5 in batches: $2.50 plain, $0.25 read, $5 or $3.125 written.
        ("1h", 5_000, {}, True, 0.54, -1.075, "between the 30% and 98% seen"),
        ("auto", 5_000, {}, True, 0.54, 0.0, "between the 30% and 98% seen"),
        ("5m", 5_000, {}, True, 1.215, 0.2375, "counted by the API"),
        ("auto", 900, {}, False, 0.0, 0.0, "cannot pay: 900 tokens, minimum 4,096"),
        ("1h", 900, {}, False, 0.0, 0.0, "marks do nothing"),
        ("1h", 5_000, {"input_tokens": 9, "cache_read_tokens": 100}, True, 2.25, -1.075,
         "as measured"),
        ("auto", None, {}, True, 0.5429, 0.0, "estimated, at 4.0 bytes a token"),
    ],
)  # fmt: skip
def test_what_marks_save_at_the_hit_rates_that_are_known(
    caching: str,
    counted: int | None,
    usage: dict[str, int],
    can_pay: bool,
    expected: float,
    low: float,
    said: str,
) -> None:
    found = forecasted(caching, counted, **usage)
    assert found.can_pay is can_pay
    assert float(found.expected_usd) == pytest.approx(expected, rel=0.01)
    assert float(found.low_usd) == pytest.approx(low)
    assert found.included is bool(usage)
    assert said in found.summary


def test_nothing_is_said_of_caching_that_is_off() -> None:
    spec = job("in.jsonl", prompt=SYSTEM)
    price = price_for(spec)
    assert forecast(spec, 9, price, counted=9, tokens_per_byte=1, prompt_tokens=1) is None


def test_an_estimate_counts_the_prefix_and_goes_by_the_batches_of_former_nights(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """Calls of a pilot read the cache far more often than batches do: they do not count."""
    sim.set_cache_hits(0.6)
    changes: dict[str, Any] = {
        "caching": "5m",
        "prompt": SYSTEM,
        "pilot": {"size": 10, "max_error_rate": 1, "max_truncated_rate": 1},
    }
    source = write_rows(tmp_path / "in.jsonl", documents(100))
    before = as_json(estimate(make_pipeline(), job(source, **changes), PARTITION))["caching"]
    assert (before["prefix_tokens_from"], before["included"]) == ("counted by the API", False)
    assert before["prefix_tokens"] == pytest.approx(5_000, abs=20)
    run(make_pipeline(), job(source, **changes), PARTITION)
    write_rows(source, documents(200))
    after = as_json(estimate(make_pipeline(), job(source, **changes), PARTITION))
    assert after["caching"]["included"] is True
    assert 0.3 < after["caching"]["expected_hit_rate"] < 0.8
    plain = as_json(
        estimate(make_pipeline(), job(source, **changes | {"caching": "off"}), PARTITION)
    )
    saved = plain["batch"]["expected_usd"] - after["batch"]["expected_usd"]
    assert saved == pytest.approx(after["caching"]["expected_saved_usd"], rel=0.05)
